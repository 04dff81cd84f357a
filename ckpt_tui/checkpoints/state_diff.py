"""Plain values of two states that differ: everything that is neither a tensor nor a hyperparameter.

Two checkpoints of one layout are walked as they are. Of different layouts (a file against a directory, Lightning's
names against others) the parts of the same role are laid against each other, and what a trainer asks first (step,
epoch, losses) under its plain name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ckpt_tui.checkpoints.facts import PROGRESS_KEYS, ROLES, entries_of, optimizers_of
from ckpt_tui.checkpoints.hparams import key_text, same_value
from ckpt_tui.checkpoints.model import Checkpoint, OpaqueObject, Part, TensorRef
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import plural

_MAX_NODES = 2_000_000  # of the two states walked together: more is hostile
_LONG_SEQUENCE = 8  # longer lists of plain values are one value: 625 numbers are one RNG state
# Where trainings keep their hyperparameters in the state; those are compared as hyperparameters.
_HPARAM_KEYS = ("args", "hparams", "hyper_parameters", "hyperparameters", "config", "cfg", "model_args")
_INDEX = ".index.json"  # tells which file a tensor lies in, and that does not count
_MISSING = object()


@dataclass(frozen=True, slots=True)
class ValueChange:
    """One value of the state that differs, by dotted path. change: changed, added (only in b), removed (only in a)."""

    path: str
    change: str
    a: object
    b: object


def value_changes(a: Checkpoint, b: Checkpoint, absent: frozenset[str]) -> Iterator[ValueChange]:
    """Every value that differs. absent: roles that only one side has at all; what is in them is not listed."""
    if isinstance(a.state, OpaqueObject) != isinstance(b.state, OpaqueObject):
        return  # a whole module against weights: its attributes are code, and only its tensors have another side
    has_settings = bool(a.hyperparameters or b.hyperparameters)
    if _layout(a, absent) == _layout(b, absent):
        yield from _walk("", _pruned(a, absent, has_settings), _pruned(b, absent, has_settings))
        return
    for role in ROLES:
        if role not in absent:
            yield from _role_changes(a, b, role)
    if a.progress and b.progress:
        yield from _walk("", a.progress, b.progress)
    rest_a, rest_b = rest_of(a), rest_of(b)
    for key in rest_a:
        if key in rest_b:
            yield from _walk(key, rest_a[key], rest_b[key])


def rest_of(checkpoint: Checkpoint) -> dict[str, object]:
    """What of the state is no part, no hyperparameter, no tensor and tells no progress, by the names at its top."""
    taken = {(part.file, part.prefix) for part in checkpoint.parts if part.role != "progress"}
    files = {part.file for part in checkpoint.parts}
    is_single = files <= {""}
    state = entries_of(checkpoint.state) or {}
    if is_single and ("", "") in taken:
        return {}
    rest = {}
    for key, value in state.items():
        name = key_text(key)
        place = ("", f"{name}.") if is_single else (name, "")
        is_taken = place in taken or (not is_single and name in files)
        if name.endswith(_INDEX):
            continue
        if is_taken or name in PROGRESS_KEYS or name in _HPARAM_KEYS or isinstance(value, TensorRef):
            continue
        rest[name] = value
    return rest


def has_one_layout(a: Checkpoint, b: Checkpoint, absent: frozenset[str]) -> bool:
    """Whether the states of both can be walked side by side."""
    return _layout(a, absent) == _layout(b, absent)


def _layout(checkpoint: Checkpoint, absent: frozenset[str]) -> frozenset[tuple[str, str, str]]:
    """Where the parts that both sides have lie."""
    parts = (part for part in checkpoint.parts if part.role in ROLES and part.role not in absent)
    return frozenset((part.role, part.file, part.prefix) for part in parts)


def _pruned(checkpoint: Checkpoint, absent: frozenset[str], has_settings: bool) -> object:
    """The state without hyperparameters and without the parts of `absent` roles."""
    state = checkpoint.state
    if not isinstance(state, Mapping):
        return state
    unwanted = {*absent, "settings"} if has_settings else absent
    gone = {(part.file, part.prefix) for part in checkpoint.parts if part.role in unwanted}
    if not gone and not has_settings and not any(isinstance(key, str) and key.endswith(_INDEX) for key in state):
        return state
    kept: dict[object, object] = {}
    for key, value in state.items():
        if (has_settings and key in _HPARAM_KEYS) or (isinstance(key, str) and key.endswith(_INDEX)):
            continue
        name = key_text(key)
        if ("", f"{name}.") in gone or (name, "") in gone:
            continue
        inner = {prefix for file, prefix in gone if file == name}
        if inner and isinstance(value, Mapping):
            value = {k: v for k, v in value.items() if f"{key_text(k)}." not in inner}
        kept[key] = value
    return kept


def _role_changes(a: Checkpoint, b: Checkpoint, role: str) -> Iterator[ValueChange]:
    """The values of one part of both, laid against each other in order where there are several."""
    if role == "optimizer":
        for x, y in zip(optimizers_of(a), optimizers_of(b), strict=False):
            yield from _walk(x.where, x.value, y.value)
        return
    parts_a = [part for part in a.parts if part.role == role]
    parts_b = [part for part in b.parts if part.role == role]
    for p, q in zip(parts_a, parts_b, strict=False):
        if role in ("model", "ema"):  # names differ by file and prefix, and tensors are compared by themselves
            yield from _walk(_where(p), _plain_entries(p.value), _plain_entries(q.value))
        else:
            yield from _walk(_where(p), p.value, q.value)


def _where(part: Part) -> str:
    return ".".join(word for word in (part.file, part.prefix.removesuffix(".")) if word)


def _plain_entries(value: object) -> dict[object, object]:
    """What stands between the tensors of a state dict, such as a module's extra state."""
    entries = value if isinstance(value, Mapping) else {}
    return {key: item for key, item in entries.items() if isinstance(item, (str, bytes, int, float))}


def _is_all_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, TensorRef) for item in value.values())


def _walk(start: str, left: object, right: object) -> Iterator[ValueChange]:
    """Plain values of the two that differ, by dotted path from `start`; tensors are not among them."""
    waiting: list[tuple[str, object, object]] = [(start, left, right)]
    met: set[tuple[int, int]] = set()
    num_nodes = 0
    while waiting:
        path, x, y = waiting.pop()
        num_nodes += 1
        if num_nodes > _MAX_NODES:
            raise CkptError("Too large to compare", f"the states hold more than {_MAX_NODES:,} values")
        if isinstance(x, TensorRef) or isinstance(y, TensorRef):
            # Tensors that only one side has are among the tensors already.
            if not all(isinstance(value, TensorRef) or value is _MISSING for value in (x, y)):
                yield from _leaf_change(path, x, y)
            continue
        if (x is _MISSING and _is_all_tensors(y)) or (y is _MISSING and _is_all_tensors(x)):
            continue  # the same: the moments of a parameter that has a number on one side and a name on the other
        if ".params." in path and {type(x), type(y)} == {int, str}:
            continue
        children_x, children_y = _children(x), _children(y)
        if children_x is None or children_y is None:
            yield from _leaf_change(path, x, y)
            continue
        if (id(x), id(y)) in met:
            continue
        met.add((id(x), id(y)))
        if isinstance(x, OpaqueObject) and isinstance(y, OpaqueObject) and x.type_name != y.type_name:
            yield ValueChange(path, "changed", x.type_name, y.type_name)
        prefix = f"{path}." if path else ""
        for key in {**children_x, **children_y}:
            waiting.append((prefix + key_text(key), children_x.get(key, _MISSING), children_y.get(key, _MISSING)))


def _children(value: object) -> Mapping[object, object] | None:
    """What is inside, by key; None for what is compared as one value."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (list, tuple)):
        if len(value) > _LONG_SEQUENCE and all(_is_record(item) for item in value):
            return None
        return dict(enumerate(value))
    if isinstance(value, OpaqueObject):
        inside: dict[object, object] = {}
        if isinstance(value.state, Mapping):
            inside.update(value.state)
        elif value.state is not None:
            inside["state"] = value.state
        for name, part in (("args", value.args), ("items", value.items), ("entries", value.entries)):
            if part:
                inside[name] = part
        return inside
    return None


def _is_record(value: object) -> bool:
    """A plain value, or a short row of plain values such as the `[step, loss]` of a history."""
    if isinstance(value, (list, tuple)):
        return len(value) <= _LONG_SEQUENCE and not any(_has_inside(item) for item in value)
    return not _has_inside(value)


def _has_inside(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple, OpaqueObject, TensorRef))


def _leaf_change(path: str, x: object, y: object) -> Iterator[ValueChange]:
    if x is _MISSING:
        yield ValueChange(path, "added", None, _shown(y))
    elif y is _MISSING:
        yield ValueChange(path, "removed", _shown(x), None)
    elif isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)):
        num_different = sum(not same_value(p, q) for p, q in zip(x, y, strict=False)) + abs(len(x) - len(y))
        if num_different:
            yield ValueChange(path, "changed", _shown(x), f"{_shown(y)}, {num_different:,} different")
    elif _has_inside(x) or _has_inside(y) or not same_value(x, y):
        left, right = _shown(x), _shown(y)
        if isinstance(y, (bytes, bytearray)) and left == right:
            right = f"{right}, of other content"
        yield ValueChange(path, "changed", left, right)


def _shown(value: object) -> object:
    """A value as it goes into a `ValueChange`: plain ones as they are, large ones by what they are."""
    if isinstance(value, TensorRef):
        return f"tensor {value.info.dtype} {list(value.info.shape)}"
    if isinstance(value, OpaqueObject):
        return value.type_name
    if isinstance(value, Mapping):
        return plural(len(value), "entry", "entries")
    if isinstance(value, (list, tuple)):
        return plural(len(value), "item")
    if isinstance(value, (bytes, bytearray)):
        return plural(len(value), "byte")
    if isinstance(value, int) and value.bit_length() > 256:
        return key_text(value)
    return value
