"""What a checkpoint may hold: what `torch.load(weights_only=True)` gives back. Everything else is refused at the save,
not found out at the resume."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

# By exact type: a subclass is another type to the pickle. OrderedDict and Counter are among what torch allows.
_ATOMS = frozenset(
    {
        type(None), bool, int, float, complex, str, bytes, bytearray, torch.Size, torch.dtype, torch.device,
        torch.layout,
    }
)  # fmt: skip
_MAPPINGS = frozenset({dict, OrderedDict, Counter})
_SEQUENCES = frozenset({list, tuple, set})
_MAX_DEPTH = 200
_MAX_TOLD = 8  # steps of a path that are told


def refuse_objects(state: Mapping[str, Any]) -> None:
    """Raises TypeError for a state that could not be loaded again; the message says where in it what lies."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state is a {type(state).__name__}: it must be a dict, with the number of steps completed as 'step'"
        )
    step = state.get("step")
    if type(step) is not int or step < 0:
        raise TypeError(f"state['step'] is {step!r:.60}: it must be the number of steps completed, an int from 0 on")
    found = _first_object(state, 0)
    if found is not None:
        steps, value = found
        path = "state" + "".join(f"[{step}]" for step in steps[: -_MAX_TOLD - 1 : -1])
        path += "..." if len(steps) > _MAX_TOLD else ""
        raise TypeError(
            f"{path} is {_described(value)}: a checkpoint holds tensors and plain values only. {_hint(value)}"
        )


def _first_object(value: Any, depth: int) -> tuple[list[str], Any] | None:
    """The steps to the first object from the inside out, and the object."""
    kind = type(value)
    if kind in _ATOMS:
        return None
    if depth > _MAX_DEPTH:
        return [], value
    if kind in _MAPPINGS:
        for key, item in value.items():
            if type(key) not in _ATOMS and (found := _first_object(key, depth + 1)) is not None:
                return [*found[0], f"key {key!r:.60}"], found[1]
            if type(item) not in _ATOMS and (found := _first_object(item, depth + 1)) is not None:
                found[0].append(repr(key))
                return found
        # What a module's state_dict() carries along.
        attributes = getattr(value, "__dict__", None)
        if attributes:
            for key, item in attributes.items():
                if (found := _first_object(item, depth + 1)) is not None:
                    found[0].append(f".{key}")
                    return found
        return None
    if kind in _SEQUENCES:
        for index, item in enumerate(value):
            if type(item) not in _ATOMS and (found := _first_object(item, depth + 1)) is not None:
                found[0].append(str(index))
                return found
        return None
    return None if isinstance(value, torch.Tensor) and _is_loadable(value) else ([], value)


def _is_loadable(tensor: torch.Tensor) -> bool:
    """Tensors of torch's own kinds: parameters, buffers, DTensors; and there is something to load."""
    return type(tensor).__module__.split(".")[0] == "torch" and not tensor.is_meta


def _described(value: Any) -> str:
    kind = type(value)
    if isinstance(value, torch.Tensor) and value.is_meta:
        return "a tensor on the meta device, which has no values"
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return f"an object of {name}" if type(value) not in _MAPPINGS | _SEQUENCES else "nested too deeply"


def _hint(value: Any) -> str:
    if isinstance(value, torch.Tensor) and value.is_meta:
        return "Give it values first (to_empty() and an initialisation), or leave it out."
    if type(value) in _MAPPINGS | _SEQUENCES:
        return "Does it hold itself?"
    if hasattr(value, "state_dict"):
        return "Save its state_dict()."
    if isinstance(value, (str, int, float)):
        return f"Save {next(kind for kind in (str, bool, int, float) if isinstance(value, kind)).__name__}(...) of it."
    if hasattr(value, "tolist"):
        return "Save torch.as_tensor(...) of it, or its tolist()."
    if isinstance(value, torch.Generator):
        return "Save its get_state()."
    if isinstance(value, (Mapping, frozenset, tuple)) or hasattr(value, "__iter__"):
        return "Save it as a dict or a list."
    return "Save what it is made of, or leave it out and build it again."
