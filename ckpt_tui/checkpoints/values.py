"""Elements of tensors, read from the file in bounded pieces. The viewer's only module that loads numpy.

Memory does not grow with the tensor: a few megabytes whatever its size. Import it lazily.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Of one tensor's elements. min, max, mean, std, norm and histogram are over the finite ones only.

    mean, std (unbiased, as torch's default; None below two finite elements) and norm (2-norm) in float64.
    min and max are exact, None when nothing is finite. nan and inf count elements (a complex one counts once: as NaN
    when either part is). histogram: equal bins from min to max. first_bad_index: of the first NaN or Inf in the
    flattened logical order, None when there is none. is_magnitude: complex numbers are described by their magnitude.
    """

    num_elements: int
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    norm: float | None
    zeros: int
    nan: int
    inf: int
    histogram: tuple[int, ...]
    first_bad_index: int | None
    is_magnitude: bool = False


def tensor_statistics(
    checkpoint: Checkpoint,
    tensor: TensorInfo,
    *,
    bins: int = 40,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> TensorStatistics:
    """Statistics of every element of `tensor`, streamed from its file.

    on_bytes: adds up to about tensor.size_bytes. Raises CkptError where elements cannot be read (no bytes in the file,
    packed or quantized dtype, sparse layout), Cancelled when `is_cancelled` says so.
    """
    raise NotImplementedError
