"""The change of every tensor of two checkpoints, by name, shape, dtype and value.

Values are compared on two or more cores at once, each with a few megabytes of its own, whatever the files' size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from ckpt_tui.checkpoints.matching import Matching, Pair, view_of
from ckpt_tui.checkpoints.model import Checkpoint, ShardedTensor, TensorInfo
from ckpt_tui.checkpoints.threads import num_threads, work_through
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.distance import Distance

_MAX_NESTED = 4  # a tensor made of tensors made of tensors
_ALONE_BYTES = 4 << 20  # less than this is not worth a second thread


@dataclass(frozen=True, slots=True)
class TensorChange:
    """One tensor in a, in b or in both. name: its dotted path in a, or in b where only b has it.

    change: added (only in b), removed (only in a), shape, dtype, value, same; `unknown` when values were not compared
    (not asked for, or cannot be: reason says why). relative_l2: |b - a| / |a| (inf when only a is all zero);
    max_abs: largest |b - a|; cosine: of a and b as vectors. All over pairs where both are finite; num_nonfinite counts
    the other pairs. None where there is nothing to compute. size_bytes: logical bytes, the larger of the two.
    norm_a, norm_change: |a| and |b - a| where the values were compared.
    part: its role (model, optimizer ...), "" where that is not known. key: its name inside that part, without a
    wrapper's prefix. name_b: its path in b. parameter: whose moment it is, where an optimizer's parameters have names.
    is_tied: one side has it only under the name of a tensor that it shares its bytes with. is_in_absent_part: the other
    side has nothing of that part. view: the same number for tied tensors, which show the same bytes of both sides.
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
    norm_a: float | None = None
    norm_change: float | None = None
    part: str = ""
    key: str = ""
    name_b: str = ""
    parameter: str = ""
    is_tied: bool = False
    is_in_absent_part: bool = False
    view: int = -1


def compare_pairs(
    a: Checkpoint,
    b: Checkpoint,
    matching: Matching,
    *,
    with_values: bool,
    on_bytes: Callable[[int], None],
    is_cancelled: Callable[[], bool] | None = None,
) -> list[TensorChange]:
    """One change for each pair, in their order. on_bytes: called from several threads, one at a time."""
    lock = Lock()

    def advance(num_bytes: int) -> None:
        with lock:
            on_bytes(num_bytes)

    # Tied tensors are compared once.
    unique: dict[tuple[object, ...], Pair] = {}
    for pair in matching.pairs:
        if pair.a is not None and pair.b is not None:
            unique.setdefault((view_of(pair.a), view_of(pair.b)), pair)
    found: dict[tuple[object, ...], _Outcome] = {}

    def compare(views: tuple[object, ...], stop: Callable[[], bool]) -> None:
        pair = unique[views]
        assert pair.a is not None
        assert pair.b is not None
        found[views] = _compare(a, pair.a, b, pair.b, with_values, advance, stop)

    num_bytes = sum(pair.a.size_bytes for pair in unique.values() if pair.a) * with_values
    work_through(unique, compare, _threads_for(num_bytes), is_cancelled)
    norms = _norms_of_same(a, matching, found, advance, is_cancelled) if with_values else {}
    changes: list[TensorChange] = []
    numbers = {views: number for number, views in enumerate(unique)}
    absent = matching.roles_a ^ matching.roles_b
    for pair in matching.pairs:
        if pair.a is not None and pair.b is not None:
            views = (view_of(pair.a), view_of(pair.b))
            changes.append(_of_pair(found[views], pair, numbers[views], norms.get(views[0])))
        else:
            changes.append(_only_one(pair, pair.role in absent))
    _sum_up_components(matching.pairs, changes)
    return changes


class _Outcome:
    """What comparing two views gave."""

    __slots__ = ("change", "distance", "reason")

    def __init__(self, change: str, reason: str = "", distance: Distance | None = None) -> None:
        self.change = change
        self.reason = reason
        self.distance = distance


def _compare(
    a: Checkpoint,
    tensor_a: TensorInfo,
    b: Checkpoint,
    tensor_b: TensorInfo,
    with_values: bool,
    on_bytes: Callable[[int], None],
    is_cancelled: Callable[[], bool],
) -> _Outcome:
    if tensor_a.shape != tensor_b.shape:
        return _Outcome("shape")
    dtype_differs = tensor_a.dtype != tensor_b.dtype
    if not dtype_differs and _same_by_checksum(a, tensor_a, b, tensor_b):
        return _Outcome("same")
    if not with_values:
        return _Outcome("dtype") if dtype_differs else _Outcome("unknown", "values were not compared")
    from ckpt_tui.checkpoints.distance import compare_tensors

    try:
        found = compare_tensors((a, tensor_a), (b, tensor_b), on_bytes=on_bytes, is_cancelled=is_cancelled)
    except CkptError as error:
        return _Outcome("dtype" if dtype_differs else "unknown", error.message or error.title)
    return _Outcome("dtype" if dtype_differs else "same" if found.is_equal else "value", distance=found)


def _of_pair(outcome: _Outcome, pair: Pair, view: int, norm: float | None) -> TensorChange:
    """The outcome for two views under the names of one of the pairs that show them. norm: where it was read alone."""
    a, b, found = pair.a, pair.b, outcome.distance
    assert a is not None
    assert b is not None
    unread = 0.0 if outcome.change == "same" else None  # told by checksums
    return TensorChange(
        _display_name(a),
        outcome.change,
        a.shape,
        b.shape,
        a.dtype,
        b.dtype,
        relative_l2=unread if found is None else found.relative_l2,
        max_abs=unread if found is None else found.max_abs,
        cosine=None if found is None else found.cosine,
        size_bytes=max(a.size_bytes, b.size_bytes),
        num_nonfinite=0 if found is None else found.num_nonfinite,
        reason=outcome.reason,
        norm_a=norm if found is None else found.norm_a,
        norm_change=found.norm_change if found is not None else None if norm is None else 0.0,
        part=pair.role,
        key=pair.name,
        name_b=_display_name(b),
        parameter=pair.parameter,
        is_tied=pair.is_tied,
        view=view,
    )


def _only_one(pair: Pair, is_in_absent_part: bool) -> TensorChange:
    only = pair.a or pair.b
    assert only is not None
    return TensorChange(
        _display_name(only),
        "added" if pair.a is None else "removed",
        pair.a.shape if pair.a else None,
        pair.b.shape if pair.b else None,
        pair.a.dtype if pair.a else None,
        pair.b.dtype if pair.b else None,
        size_bytes=only.size_bytes,
        part=pair.role,
        key=pair.name,
        name_b="" if pair.b is None else _display_name(pair.b),
        parameter=pair.parameter,
        is_in_absent_part=is_in_absent_part,
    )


def _display_name(tensor: TensorInfo) -> str:
    return f"{tensor.file}:{tensor.name}" if tensor.file else tensor.name


def _sum_up_components(pairs: tuple[Pair, ...], changes: list[TensorChange]) -> None:
    """A tensor that is made of others (sparse, nested) has changed when one of them has."""
    wholes: dict[tuple[str, str], int] = {}
    for place, pair in enumerate(pairs):
        of_a = pair.a or pair.b
        assert of_a is not None
        if of_a.is_component:
            continue
        is_made_of_others = not of_a.storage and of_a.layout != "strided" and not isinstance(of_a, ShardedTensor)
        if is_made_of_others and changes[place].change == "unknown" and _layouts_agree(pair):
            wholes[pair.role, pair.name] = place
    met: set[int] = set()
    for place, pair in enumerate(pairs):
        component = pair.a or pair.b
        assert component is not None
        whole = _whole_of(pair, wholes) if component.is_component else None
        if whole is None:
            continue
        if whole not in met:
            met.add(whole)
            changes[whole] = replace(changes[whole], change="same", reason="")
        if changes[whole].change == "unknown":
            continue
        part, known = changes[place], changes[whole]
        if part.change == "unknown":
            changes[whole] = replace(known, change="unknown", reason=part.reason)
        elif part.change != "same":
            word = part.name.rpartition(".")[2]
            reason = f"{known.reason}, {word}" if known.reason else f"its {word}"
            changes[whole] = replace(known, change="value", reason=reason)


def _whole_of(pair: Pair, wholes: dict[tuple[str, str], int]) -> int | None:
    """Where the tensor stands that this one is a component of, or a component's component."""
    name = pair.name
    for _ in range(_MAX_NESTED):
        name = name.rpartition(".")[0]
        if (pair.role, name) in wholes:
            return wholes[pair.role, name]
    return None


def _layouts_agree(pair: Pair) -> bool:
    return pair.a is not None and pair.b is not None and pair.a.layout == pair.b.layout


def _norms_of_same(
    a: Checkpoint,
    matching: Matching,
    found: Mapping[tuple[object, ...], _Outcome],
    on_bytes: Callable[[int], None],
    is_cancelled: Callable[[], bool] | None,
) -> dict[tuple[object, ...], float]:
    """By view of a: weights that were told to be the same by their checksums count in the change of their module, so
    where any weight changed their norms are read."""
    in_modules = [
        (pair.a, found[view_of(pair.a), view_of(pair.b)])
        for pair in matching.pairs
        if pair.a is not None and pair.b is not None and (pair.role == "model" or not matching.roles_a)
    ]
    if not any(outcome.distance is not None and outcome.distance.norm_change for _, outcome in in_modules):
        return {}
    unread: dict[tuple[object, ...], TensorInfo] = {}
    for tensor, outcome in in_modules:
        if outcome.change == "same" and outcome.distance is None and tensor.storage:
            unread.setdefault(view_of(tensor), tensor)
    norms: dict[tuple[object, ...], float] = {}

    def measure(view: tuple[object, ...], stop: Callable[[], bool]) -> None:
        from ckpt_tui.checkpoints.distance import norm_of

        with contextlib.suppress(CkptError):
            norms[view] = norm_of(a, unread[view], on_bytes=on_bytes, is_cancelled=stop)

    num_bytes = sum(tensor.size_bytes for tensor in unread.values())
    work_through(unread, measure, _threads_for(num_bytes), is_cancelled)
    return norms


def _threads_for(num_bytes: int) -> int:
    return num_threads() if num_bytes >= _ALONE_BYTES else 1


def _same_by_checksum(a: Checkpoint, tensor_a: TensorInfo, b: Checkpoint, tensor_b: TensorInfo) -> bool:
    """Same view of storages whose recorded checksums and sizes agree: nothing needs to be read.

    This trusts the recorded checksum; whether the bytes still match it is what `validate` answers.
    """
    if view_of(tensor_a)[1:] != view_of(tensor_b)[1:]:
        return False
    if (tensor_a.is_conj, tensor_a.is_neg) != (tensor_b.is_conj, tensor_b.is_neg):
        return False
    storage_a, storage_b = a.storages.get(tensor_a.storage), b.storages.get(tensor_b.storage)
    if storage_a is None or storage_b is None or not storage_a.crc32 or not storage_b.crc32:
        return False
    if storage_a.is_big_endian != storage_b.is_big_endian:
        return False
    return storage_a.size_bytes == storage_b.size_bytes and storage_a.crc32 == storage_b.crc32
