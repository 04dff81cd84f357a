"""Which parts a distributed checkpoint has. Its state dicts come in more shapes than those of files: weights at the top
beside the rest (torchtitan), optimizers flattened to one level, counters as tensors."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Checkpoint, Part, TensorRef
from ckpt_tui.checkpoints.parts import find_parts
from ckpt_tui.checkpoints.scalar import number_of

_MAX_SCALARS = 100


def dcp_parts(checkpoint: Checkpoint) -> list[Part]:
    """By the names at the top of the state, or one level below it (`app.model`)."""
    parts = [part for part in find_parts(checkpoint, "") if part.role != "model" or not _are_counters(part.value)]
    state = checkpoint.state
    assert isinstance(state, dict)
    if not any(part.role == "model" for part in parts):
        rest = {part.prefix.partition(".")[0] for part in parts}
        weights = {key: ref for key, ref in state.items() if isinstance(ref, TensorRef) and key not in rest}
        if any(isinstance(key, str) and "." in key for key in weights):
            parts.insert(0, Part("model", "", "", weights))
    return [_unflattened(part) if part.role == "optimizer" else part for part in parts]


def _are_counters(value: object) -> bool:
    """Whether it is all single numbers: a `train_state`, which is no model."""
    return isinstance(value, dict) and all(isinstance(v, TensorRef) and v.info.shape == () for v in value.values())


def _unflattened(part: Part) -> Part:
    """An optimizer's part with `state` and `param_groups`, where these words only begin its keys."""
    entries = part.value
    if not isinstance(entries, dict) or "param_groups" in entries or "state" in entries:
        return part
    states: dict[object, object] = {}
    settings: dict[str, dict[str, object]] = {}  # by parameter
    for key, value in entries.items():
        word, _, rest = key.partition(".") if isinstance(key, str) else ("", "", "")
        name, _, kind = rest.rpartition(".")
        if not name or word not in ("state", "param_groups"):
            continue
        if word == "state":
            moments = states.setdefault(name, {})
            assert isinstance(moments, dict)
            moments[kind] = value
        else:
            settings.setdefault(name, {})[kind] = value
    if not states and not settings:
        return part
    groups: dict[str, dict[str, object]] = {}
    for name, of_parameter in settings.items():
        group = groups.setdefault(repr(sorted(of_parameter.items(), key=str))[:10_000], {**of_parameter, "params": []})
        members = group["params"]
        assert isinstance(members, list)
        members.append(name)
    return Part(part.role, part.file, part.prefix, {"state": states, "param_groups": list(groups.values())})


def scalars_of(checkpoint: Checkpoint) -> dict[object, object]:
    """Single numbers that stand as tensors at the top of the state, or in its `train_state`: a step, an epoch."""
    state = checkpoint.state
    assert isinstance(state, dict)
    found: dict[object, object] = {}
    inner = state.get("train_state")
    for entries in (state, inner if isinstance(inner, dict) else {}):
        for key, value in list(entries.items()):
            if isinstance(value, TensorRef) and value.info.shape in ((), (1,)) and len(found) < _MAX_SCALARS:
                number = number_of(checkpoint, value)
                if number is not None:
                    found.setdefault(key, number)
    return found
