"""What an optimizer remembers of each parameter, under the parameter's name.

torch saves moments under numbers. The names are joined only where there is one way to do it: every shape belongs to
one group, the model has as many tensors of it as the optimizer, and where those are several, each group has its
parameters in the model's order (which safetensors does not tell). Else the numbers stay: nothing is guessed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from ckpt_tui.checkpoints.facts import keeps_order, optimizers_of
from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo, TensorRef
from ckpt_tui.checkpoints.plain import entries_of
from ckpt_tui.records import dataclass

MAX_PARAMETERS = 20_000


@dataclass(frozen=True, slots=True)
class Moments:
    """parameter: its name, or `parameter 3` where names cannot be joined. values: by their names in the optimizer."""

    parameter: str
    values: Mapping[object, object]

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """The values that are tensors of the parameter's shape, not the step counter."""
        refs = {str(key): value.info for key, value in self.values.items() if isinstance(value, TensorRef)}
        return {key: info for key, info in refs.items() if info.shape or key != "step"}


def moments_of(checkpoint: Checkpoint) -> tuple[list[Moments], bool]:
    """Moments in the order of the optimizer's groups, and whether they are under their parameters' names."""
    optimizer = next((found.value for found in optimizers_of(checkpoint)), {})
    per_parameter = optimizer.get("state")
    if not isinstance(per_parameter, Mapping):
        return [], False
    listed = optimizer.get("param_groups")
    groups = [group for group in listed if isinstance(group, Mapping)] if isinstance(listed, (list, tuple)) else []
    members = [_members(group) for group in groups] or [list(per_parameter)]
    names = _recorded_names(groups, members) or _own_names(members)
    names = names or _joined_names(members, per_parameter, _model_tensors(checkpoint), keeps_order(checkpoint))
    found: list[Moments] = []
    for parameter in [parameter for group in members for parameter in group][:MAX_PARAMETERS]:
        values = per_parameter.get(parameter)
        if isinstance(values, Mapping):
            found.append(Moments(names.get(parameter, f"parameter {parameter}"), values))
    return found, bool(names)


def _members(group: Mapping[object, object]) -> list[object]:
    params = group.get("params")
    return [item for item in params if isinstance(item, (int, str))] if isinstance(params, (list, tuple)) else []


def _recorded_names(groups: list[Mapping[object, object]], members: list[list[object]]) -> dict[object, str]:
    """Names that torch recorded itself (optimizers made from named parameters)."""
    names: dict[object, str] = {}
    for group, parameters in zip(groups, members, strict=False):
        recorded = group.get("param_names")
        if not isinstance(recorded, (list, tuple)) or len(recorded) != len(parameters):
            return {}
        names.update(zip(parameters, map(str, recorded), strict=True))
    return names


def _own_names(members: list[list[object]]) -> dict[object, str]:
    """Saves of several ranks (FSDP, DCP) have the names themselves where torch has numbers."""
    own: dict[object, str] = {
        item: item for group in members for item in group if isinstance(item, str) and not item.isdecimal()
    }
    return own if len(own) == sum(map(len, members)) else {}


def _joined_names(
    members: list[list[object]],
    per_parameter: Mapping[object, object],
    tensors: list[tuple[str, TensorInfo]],
    in_order: bool,
) -> dict[object, str]:
    of_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, info in tensors:
        of_shape[info.shape].append(name)
    places: dict[tuple[int, ...], list[object]] = defaultdict(list)
    group_of_shape: dict[tuple[int, ...], int] = {}
    for number, group in enumerate(members):
        for parameter in group:
            values = per_parameter.get(parameter)
            shapes = Moments("", values).tensors.values() if isinstance(values, Mapping) else ()
            shape = next((info.shape for info in shapes), None)
            if shape is None or group_of_shape.setdefault(shape, number) != number:
                return {}
            places[shape].append(parameter)
    if any(len(parameters) != len(of_shape[shape]) for shape, parameters in places.items()):
        return {}
    is_by_shape = all(len(parameters) == 1 for parameters in places.values())
    if not is_by_shape and not in_order:
        return {}
    names = {
        parameter: name
        for shape, parameters in places.items()
        for parameter, name in zip(parameters, of_shape[shape], strict=True)
    }
    place = {name: number for number, (name, _) in enumerate(tensors)}
    for group in () if is_by_shape else members:
        order = [place[names[parameter]] for parameter in group]
        if order != sorted(order):
            return {}
    return names


def _model_tensors(checkpoint: Checkpoint) -> list[tuple[str, TensorInfo]]:
    """The model's tensors in order, by name; tied ones once."""
    seen: set[tuple[object, ...]] = set()
    tensors: list[tuple[str, TensorInfo]] = []
    for part in checkpoint.parts:
        entries = entries_of(part.value) if part.role == "model" else None
        for name, value in (entries or {}).items():
            if not isinstance(value, TensorRef):
                continue
            info = value.info
            view = (info.storage, info.offset, info.shape, info.stride)
            if view not in seen:
                seen.add(view)
                tensors.append((str(name), info))
    return tensors
