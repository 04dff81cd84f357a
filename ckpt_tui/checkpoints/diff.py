"""What differs between two checkpoints: hyperparameters, tensors by shape and by value, other state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ckpt_tui.checkpoints.hparams import HparamChange
from ckpt_tui.checkpoints.model import Checkpoint


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

    tensors: every tensor of either side, those that differ first, by size of the change; `same` ones last.
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
    raise NotImplementedError
