"""What differs between two checkpoints: hyperparameters, tensors by shape and by value, other state."""

from __future__ import annotations

import time
from collections.abc import Callable

from ckpt_tui.checkpoints.facts import MODEL_KEYS, OPTIMIZER_KEYS, ROLES
from ckpt_tui.checkpoints.garbage import GarbageHeld
from ckpt_tui.checkpoints.hparams import HparamChange, compare_hparams
from ckpt_tui.checkpoints.matching import Matching, match_tensors
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.module_changes import ModuleChange, module_changes
from ckpt_tui.checkpoints.state_diff import ValueChange, has_one_layout, rest_of, value_changes
from ckpt_tui.checkpoints.tensor_changes import TensorChange, compare_pairs
from ckpt_tui.records import dataclass

MAX_OTHER = 200  # values listed; the rest are counted
_ORDER = {"removed": 0, "added": 1, "shape": 2, "dtype": 3, "unknown": 4, "value": 5, "same": 6}


@dataclass(frozen=True, slots=True)
class PartChange:
    """A part that only one side has at all, such as the optimizer of a training checkpoint against mere weights.

    part: a role, or `progress` (step, epoch, losses), or `other` for plain values under names of their own, listed in
    `names`. side: a or b.
    """

    part: str
    side: str
    num_tensors: int = 0
    size_bytes: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """All that differs between checkpoints a and b.

    tensors: every tensor of either side; those that differ first, weights before optimizer, by size of the change;
    `same` ones last.
    other: at most `MAX_OTHER` values; num_other counts all. bytes_read: of both files; equal checksums need no read.
    prefix_a, prefix_b: what was taken off the names of the model's tensors of each side, so that they agree
    (`module.`); is_unwrapped: words of wrappers inside the names (`_orig_mod`) too. parts: what only one side has at
    all. modules: of the model, every one at every depth, most changed first; "" is the whole model.
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
    prefix_a: str = ""
    prefix_b: str = ""
    is_unwrapped: bool = False
    parts: tuple[PartChange, ...] = ()
    modules: tuple[ModuleChange, ...] = ()

    @property
    def changed_tensors(self) -> tuple[TensorChange, ...]:
        """The tensors that differ, or could not be compared; not those of a part that one side has nothing of."""
        return tuple(t for t in self.tensors if t.change != "same" and not t.is_in_absent_part)

    @property
    def is_same(self) -> bool:
        """Nothing differs, as far as was compared: tensors of `unknown` value do not count as different."""
        return (
            not self.hyperparameters
            and not self.num_other
            and not self.parts
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
    with GarbageHeld():  # it makes an object or two a tensor, and no garbage
        return _diff(a, b, with_values, on_bytes, is_cancelled)


def _diff(
    a: Checkpoint,
    b: Checkpoint,
    with_values: bool,
    on_bytes: Callable[[int], None] | None,
    is_cancelled: Callable[[], bool] | None,
) -> Diff:
    started = time.monotonic()
    num_read = 0

    def advance(num_bytes: int) -> None:
        nonlocal num_read
        num_read += num_bytes
        if on_bytes is not None:
            on_bytes(num_bytes)

    matching = match_tensors(a, b)
    changes = compare_pairs(a, b, matching, with_values=with_values, on_bytes=advance, is_cancelled=is_cancelled)
    of_model = [change for change in changes if change.part == "model" and not change.is_in_absent_part]
    is_bare = not matching.roles_a and not matching.roles_b
    absent = matching.roles_a ^ matching.roles_b
    parts = _absent_parts(a, b, matching, changes)
    other: list[ValueChange] = []
    num_other = 0
    for value in value_changes(a, b, absent):
        num_other += 1
        if len(other) < MAX_OTHER:
            other.append(value)
    return Diff(
        path_a=a.path,
        path_b=b.path,
        hyperparameters=tuple(compare_hparams(a.hyperparameters, b.hyperparameters)),
        tensors=tuple(sorted(changes, key=_by_size_of_change)),
        other=tuple(sorted(other, key=lambda change: change.path)),
        num_other=num_other,
        with_values=with_values,
        bytes_read=num_read,
        seconds=time.monotonic() - started,
        prefix_a=matching.renaming.prefix_a,
        prefix_b=matching.renaming.prefix_b,
        is_unwrapped=matching.renaming.inner,
        parts=tuple(parts),
        modules=module_changes(changes if is_bare else of_model),
    )


def _absent_parts(a: Checkpoint, b: Checkpoint, matching: Matching, changes: list[TensorChange]) -> list[PartChange]:
    """What only one side has at all, in the order of roles."""
    parts: list[PartChange] = []
    for role in ROLES:
        if (role in matching.roles_a) != (role in matching.roles_b):
            tensors = [change for change in changes if change.part == role]
            side = "a" if role in matching.roles_a else "b"
            parts.append(PartChange(role, side, len(tensors), sum(tensor.size_bytes for tensor in tensors)))
    is_one_layout = has_one_layout(a, b, matching.roles_a ^ matching.roles_b)
    if bool(a.progress) != bool(b.progress) and (not is_one_layout or any(part.file for part in a.parts)):
        progress = a.progress or b.progress
        parts.append(PartChange("progress", "a" if a.progress else "b", names=tuple(progress)))
    if not is_one_layout:
        rest_a, rest_b = rest_of(a), rest_of(b)
        for side, here, there in (("a", rest_a, rest_b), ("b", rest_b, rest_a)):
            names = tuple(name for name in here if name not in there)
            if names:
                parts.append(PartChange("other", side, names=names))
    return parts


def _by_size_of_change(change: TensorChange) -> tuple[bool, int, int, float, float, str]:
    """Weights before their averages, the optimizer and the rest: moments always change more than weights."""
    part = change.part or change.name.partition(".")[0]
    rank = 0 if part in MODEL_KEYS else 1 if "ema" in part else 2 if part in OPTIMIZER_KEYS else 3
    relative = change.relative_l2 if change.relative_l2 is not None else float("inf")
    size = -(change.max_abs or 0.0)
    return (change.change == "same", rank, _ORDER[change.change], -relative, size, change.name)
