"""What DeepSpeed's state dicts say of partitions: shapes, flat tensors, groups, steps; nothing where they do not."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import OpaqueObject, Part, TensorInfo, TensorRef
from ckpt_tui.checkpoints.readers.dcp_metadata import is_extents
from ckpt_tui.checkpoints.readers.zero_partitions import Flat, Shape

MAX_NAMES = 200_000  # of parameters; a group counts as one more


def count_of(value: object) -> int | None:
    """A count; an enum's value (`ZeroStageEnum(2)`)."""
    if isinstance(value, OpaqueObject) and len(value.args) == 1:
        value = value.args[0]
    return value if type(value) is int and 0 <= value < 1 << 40 else None


def inner_optimizer(part: Part) -> Part:
    """Mixed precision wraps the optimizer's own state dict."""
    value = part.value
    for _ in range(3):
        inner = value.get("optimizer_state_dict") if isinstance(value, dict) else None
        if not isinstance(inner, dict) or (isinstance(value, dict) and "param_groups" in value):
            break
        value = inner
    return Part("optimizer", part.file, part.prefix, value)


def shapes_of(listed: object) -> list[dict[str, Shape]]:
    """`param_shapes`: of every group the shapes by name. Nothing when it is not what DeepSpeed writes."""
    groups: list[dict[str, Shape]] = []
    num_names = 0
    for group in listed if isinstance(listed, list) else ():
        if not isinstance(group, dict):
            return []
        num_names += len(group) + 1
        if num_names > MAX_NAMES:
            return []
        shapes: dict[str, Shape] = {}
        for name, shape in group.items():
            if type(name) is not str or not is_extents(shape):
                return []
            shapes[name] = shape
        groups.append(shapes)
    return groups


def base_state(rank: dict[object, object]) -> dict[object, object]:
    """The state dict of the optimizer that ZeRO wraps."""
    for key in ("base_optimizer_state", "optimizer_state_dict"):
        inner = rank.get(key)
        if isinstance(inner, dict):
            return inner
    return {}


def flat_row(tensors: list[TensorRef]) -> Flat | None:
    """Tensors of one dimension whose elements lie in a row."""
    infos: list[TensorInfo | None] = []
    for reference in tensors:
        info = reference.info
        if len(info.shape) != 1 or info.stride != (1,) or not info.storage:
            return None
        infos.append(info)
    return Flat(infos, [info.shape[0] for info in infos if info is not None])


def flat_of(rank: dict[object, object] | None, kind: str, group: int | None, stage: int) -> Flat | None:
    """A rank's row. kind: "" for the weights, or a moment's name. group: None for all groups behind each other."""
    if rank is None:
        return None
    if not kind:
        listed = rank.get("fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups")
        found = listed if isinstance(listed, list) else []
    else:
        states = base_state(rank).get("state")
        ordered = list(states.values()) if isinstance(states, dict) else []
        found = [state.get(kind) if isinstance(state, dict) else None for state in ordered]
    if group is not None:
        found = found[group : group + 1]
    tensors = [item for item in found if isinstance(item, TensorRef)]
    return flat_row(tensors) if tensors and len(tensors) == len(found) else None


def moment_names(ranks: list[dict[object, object] | None]) -> list[str]:
    """Names of what the optimizer keeps per element."""
    for rank in ranks:
        states = base_state(rank).get("state") if rank is not None else None
        for state in states.values() if isinstance(states, dict) else ():
            if isinstance(state, dict):
                kept = [k for k, v in state.items() if isinstance(v, TensorRef) and len(v.info.shape) == 1]
                return [key for key in kept if isinstance(key, str)][:20]
    return []


def named_groups(ranks: list[dict[object, object] | None], groups: list[dict[str, Shape]]) -> list[object]:
    """The optimizer's groups with the names of their parameters, in place of the numbers of flat tensors."""
    listed = next((base_state(rank).get("param_groups") for rank in ranks if rank is not None), None)
    named: list[object] = []
    for number, group in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(group, dict):
            names = list(groups[number]) if number < len(groups) else []
            named.append({**group, "params": names})
    return named


def add_steps(
    ranks: list[dict[object, object] | None], groups: list[dict[str, Shape]], states: dict[object, object]
) -> None:
    """What the optimizer keeps once for a whole group, such as its step."""
    first = next((base_state(rank).get("state") for rank in ranks if rank is not None), None)
    ordered = list(first.values()) if isinstance(first, dict) else []
    for number, shapes in enumerate(groups):
        state = ordered[number] if number < len(ordered) else None
        if not isinstance(state, dict):
            continue
        for key, value in list(state.items())[:20]:
            if isinstance(value, TensorRef) and len(value.info.shape) == 0:
                for name in shapes:
                    moments = states.get(name)
                    if isinstance(moments, dict):
                        moments.setdefault(key, value)


def scaler_part(item: tuple[str, dict[object, object]]) -> Part | None:
    """The loss scale of a training in fp16, in the states of one rank; a fixed one of 1 is none."""
    file, state = item
    inner = state.get("optimizer_state_dict")
    scaler = inner.get("loss_scaler") if isinstance(inner, dict) else None
    if not isinstance(scaler, OpaqueObject) or not isinstance(scaler.state, dict) or not scaler.state:
        return None
    if not scaler.type_name.endswith(".DynamicLossScaler") and scaler.state.get("cur_scale") == 1:
        return None
    return Part("scaler", file, "optimizer_state_dict.loss_scaler.", scaler.state)


def partition_count(state: dict[object, object]) -> int:
    """How many ranks shared the partitions, as one of their files says."""
    inner = state.get("optimizer_state_dict")
    count = inner.get("partition_count") if isinstance(inner, dict) else None
    numbers = [count_of(item) or 0 for item in count] if isinstance(count, list) else [count_of(count) or 0]
    return max(numbers, default=0)
