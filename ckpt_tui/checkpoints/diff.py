"""What differs between two checkpoints: hyperparameters, tensors by shape and by value, other state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ckpt_tui.checkpoints.facts import MODEL_KEYS, OPTIMIZER_KEYS
from ckpt_tui.checkpoints.hparams import HparamChange, compare_hparams, key_text, same_value
from ckpt_tui.checkpoints.model import Checkpoint, OpaqueObject, TensorInfo, TensorRef
from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.text import plural

MAX_OTHER = 200  # values listed; the rest are counted
_MAX_NODES = 2_000_000  # of the two states walked together: more is hostile
_LONG_SEQUENCE = 8  # longer lists of plain values are one value: 625 numbers are one RNG state
# Where trainings keep their hyperparameters in the state; those are compared as hyperparameters.
_HPARAM_KEYS = ("args", "hparams", "hyper_parameters", "hyperparameters", "config", "cfg", "model_args")
_ORDER = {"removed": 0, "added": 1, "shape": 2, "dtype": 3, "unknown": 4, "value": 5, "same": 6}


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor in a, in b or in both, of the same dotted name.

    change: added (only in b), removed (only in a), shape, dtype, value, same; `unknown` when values were not compared
    (not asked for, or cannot be: reason says why). relative_l2: |b - a| / |a| (inf when only a is all zero);
    max_abs: largest |b - a|; cosine: of a and b as vectors. All over pairs where both are finite; num_nonfinite counts
    the other pairs. None where there is nothing to compute. size_bytes: logical bytes, the larger of the two.
    """

    name: str
    change: str
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    dtype_a: str | None
    dtype_b: str | None
    relative_l2: float | None = None
    max_abs: float | None = None
    cosine: float | None = None
    size_bytes: int = 0
    num_nonfinite: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ValueChange:
    """One value of the state that differs, by dotted path. change: changed, added (only in b), removed (only in a)."""

    path: str
    change: str
    a: object
    b: object


@dataclass(frozen=True, slots=True)
class Diff:
    """All that differs between checkpoints a and b.

    tensors: every tensor of either side; those that differ first, weights before optimizer, by size of the change;
    `same` ones last.
    other: at most `MAX_OTHER` values; num_other counts all. bytes_read: of both files; equal checksums need no read.
    """

    path_a: str
    path_b: str
    hyperparameters: tuple[HparamChange, ...]
    tensors: tuple[TensorChange, ...]
    other: tuple[ValueChange, ...]
    num_other: int
    with_values: bool
    bytes_read: int
    seconds: float

    @property
    def changed_tensors(self) -> tuple[TensorChange, ...]:
        """The tensors that differ, or could not be compared."""
        return tuple(tensor for tensor in self.tensors if tensor.change != "same")

    @property
    def is_same(self) -> bool:
        """Nothing differs, as far as was compared: tensors of `unknown` value do not count as different."""
        return (
            not self.hyperparameters
            and not self.num_other
            and all(tensor.change in ("same", "unknown") for tensor in self.tensors)
        )


def diff_checkpoints(
    a: Checkpoint,
    b: Checkpoint,
    *,
    with_values: bool = True,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Diff:
    """Compare two checkpoints. Streamed: memory does not grow with file size.

    with_values: read and compare the tensors' elements; else by name, shape, dtype and recorded checksums only.
    Raises Cancelled; CkptError when a file went away or could not be read meanwhile.
    """
    started = time.monotonic()
    reading = _Reading(on_bytes)
    hyperparameters = compare_hparams(a.hyperparameters, b.hyperparameters)
    tensors = _tensor_changes(a, b, with_values, reading, is_cancelled)
    other: list[ValueChange] = []
    num_other = 0
    for change in _value_changes(a, b):
        num_other += 1
        if len(other) < MAX_OTHER:
            other.append(change)
    return Diff(
        path_a=a.path,
        path_b=b.path,
        hyperparameters=tuple(hyperparameters),
        tensors=tuple(tensors),
        other=tuple(sorted(other, key=lambda change: change.path)),
        num_other=num_other,
        with_values=with_values,
        bytes_read=reading.num_bytes,
        seconds=time.monotonic() - started,
    )


class _Reading:
    """Counts bytes, and passes them on."""

    def __init__(self, on_bytes: Callable[[int], None] | None) -> None:
        self.num_bytes = 0
        self._on_bytes = on_bytes

    def advance(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        if self._on_bytes is not None:
            self._on_bytes(num_bytes)


def _tensor_changes(
    a: Checkpoint,
    b: Checkpoint,
    with_values: bool,
    reading: _Reading,
    is_cancelled: Callable[[], bool] | None,
) -> list[TensorChange]:
    of_a = {(tensor.file, tensor.name): tensor for tensor in a.tensors}
    of_b = {(tensor.file, tensor.name): tensor for tensor in b.tensors}
    known: dict[tuple[object, ...], TensorChange] = {}  # tied tensors are compared once
    changes = []
    for key in {**of_a, **of_b}:
        tensor_a, tensor_b = of_a.get(key), of_b.get(key)
        if tensor_a is not None and tensor_b is not None:
            if is_cancelled is not None and is_cancelled():
                raise Cancelled
            views = (_view(tensor_a), _view(tensor_b))
            change = known.get(views)
            if change is None:
                known[views] = change = _compare(a, tensor_a, b, tensor_b, with_values, reading, is_cancelled)
            changes.append(_renamed(change, _display_name(tensor_a)))
            continue
        only = tensor_a or tensor_b
        assert only is not None
        changes.append(
            TensorChange(
                _display_name(only),
                "added" if tensor_a is None else "removed",
                tensor_a.shape if tensor_a else None,
                tensor_b.shape if tensor_b else None,
                tensor_a.dtype if tensor_a else None,
                tensor_b.dtype if tensor_b else None,
                size_bytes=only.size_bytes,
            )
        )
    return sorted(changes, key=_by_size_of_change)


def _display_name(tensor: TensorInfo) -> str:
    return f"{tensor.file}:{tensor.name}" if tensor.file else tensor.name


def _view(tensor: TensorInfo) -> tuple[object, ...]:
    return (tensor.storage, tensor.shape, tensor.stride, tensor.offset, tensor.dtype, tensor.layout)


def _renamed(change: TensorChange, name: str) -> TensorChange:
    from dataclasses import replace

    return change if change.name == name else replace(change, name=name)


def _by_size_of_change(change: TensorChange) -> tuple[bool, int, int, float, float, str]:
    """Weights before their averages, the optimizer and the rest: moments always change more than weights."""
    part = change.name.partition(".")[0]
    rank = 0 if part in MODEL_KEYS else 1 if "ema" in part else 2 if part in OPTIMIZER_KEYS else 3
    relative = change.relative_l2 if change.relative_l2 is not None else float("inf")
    size = -(change.max_abs or 0.0)
    return (change.change == "same", rank, _ORDER[change.change], -relative, size, change.name)


def _compare(
    a: Checkpoint,
    tensor_a: TensorInfo,
    b: Checkpoint,
    tensor_b: TensorInfo,
    with_values: bool,
    reading: _Reading,
    is_cancelled: Callable[[], bool] | None,
) -> TensorChange:
    def change(kind: str, **figures: object) -> TensorChange:
        return TensorChange(
            _display_name(tensor_a),
            kind,
            tensor_a.shape,
            tensor_b.shape,
            tensor_a.dtype,
            tensor_b.dtype,
            size_bytes=max(tensor_a.size_bytes, tensor_b.size_bytes),
            **figures,  # type: ignore[arg-type]
        )

    if tensor_a.shape != tensor_b.shape:
        return change("shape")
    dtype_differs = tensor_a.dtype != tensor_b.dtype
    if not dtype_differs and _same_by_checksum(a, tensor_a, b, tensor_b):
        return change("same", relative_l2=0.0, max_abs=0.0)
    if not with_values:
        return change("dtype") if dtype_differs else change("unknown", reason="values were not compared")
    from ckpt_tui.checkpoints.values import compare_tensors

    try:
        found = compare_tensors((a, tensor_a), (b, tensor_b), on_bytes=reading.advance, is_cancelled=is_cancelled)
    except CkptError as error:
        reason = error.message or error.title
        return change("dtype", reason=reason) if dtype_differs else change("unknown", reason=reason)
    kind = "dtype" if dtype_differs else "same" if found.is_equal else "value"
    return change(
        kind,
        relative_l2=found.relative_l2,
        max_abs=found.max_abs,
        cosine=found.cosine,
        num_nonfinite=found.num_nonfinite,
    )


def _same_by_checksum(a: Checkpoint, tensor_a: TensorInfo, b: Checkpoint, tensor_b: TensorInfo) -> bool:
    """Same view of storages whose recorded checksums and sizes agree: nothing needs to be read.

    This trusts the recorded checksum; whether the bytes still match it is what `validate` answers.
    """
    if _view(tensor_a)[1:] != _view(tensor_b)[1:]:
        return False
    storage_a, storage_b = a.storages.get(tensor_a.storage), b.storages.get(tensor_b.storage)
    if storage_a is None or storage_b is None or not storage_a.crc32 or not storage_b.crc32:
        return False
    if storage_a.is_big_endian != storage_b.is_big_endian:
        return False
    return storage_a.size_bytes == storage_b.size_bytes and storage_a.crc32 == storage_b.crc32


# --- other state


_MISSING = object()


def _value_changes(a: Checkpoint, b: Checkpoint) -> Iterator[ValueChange]:
    """Plain values of the two states that differ, by dotted path; tensors and hyperparameters are not among them."""
    left, right = a.state, b.state
    if isinstance(left, Mapping) and isinstance(right, Mapping) and (a.hyperparameters or b.hyperparameters):
        left = {key: value for key, value in left.items() if key not in _HPARAM_KEYS}
        right = {key: value for key, value in right.items() if key not in _HPARAM_KEYS}
    waiting: list[tuple[str, object, object]] = [("", left, right)]
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
        yield ValueChange(path, "changed", _shown(x), _shown(y))


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
