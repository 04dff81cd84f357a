"""What the elements of a tensor amount to: NaN and Inf counted, statistics. `distance` compares two.

Streamed through `elements.ElementReader`, in float64, numerically stable. Loads numpy: import it lazily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ckpt_tui.checkpoints.elements import (
    COMPLEX,
    FLOAT_BITS,
    INTEGERS,
    Array,
    ElementReader,
    FloatBits,
    is_suspicious,
    stop_if,
)
from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo
from ckpt_tui.checkpoints.numpy_alone import np
from ckpt_tui.checkpoints.sharded_elements import reader_of
from ckpt_tui.records import dataclass


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """NaN and Inf of one tensor, in elements. first_bad_index: in the flattened logical order."""

    num_elements: int
    nan: int
    inf: int
    first_bad_index: int | None
    is_mask: bool = False  # nothing but zeros and minus infinity: an attention mask, which is as it should be


def count_nonfinite(
    checkpoint: Checkpoint, tensor: TensorInfo, *, is_cancelled: Callable[[], bool] | None = None
) -> Nonfinite:
    """Count NaN and Inf of one tensor. Raises CkptError where its elements cannot be read, and Cancelled."""
    bits = FLOAT_BITS.get(tensor.dtype)
    with reader_of(checkpoint, tensor) as reader:
        if bits is None:
            return Nonfinite(tensor.num_elements, 0, 0, None)
        nan = inf = position = 0
        num_mask_elements = 0
        first: int | None = None
        minus_infinity = None if bits.infinity is None else bits.infinity | (bits.mask + 1)
        for words in reader.blocks():
            stop_if(is_cancelled)
            block_nan, block_inf, bad = _bad_words(words, bits)
            if first is None and bad is not None:
                first = position + int(bad.argmax())
            nan, inf = nan + block_nan, inf + block_inf
            if minus_infinity is not None and not nan and not reader.is_complex:
                num_mask_elements += int(((words == minus_infinity) | (words == 0)).sum())
            position += len(words)
        is_mask = inf > 0 and nan == 0 and num_mask_elements == position and inf < position
        index = None if first is None else reader.full_index(first)
        return Nonfinite(tensor.num_elements, nan * reader.repeats, inf * reader.repeats, index, is_mask)


def _bad_words(words: Array, bits: FloatBits) -> tuple[int, int, Array | None]:
    """(NaN, Inf, which elements are either) of a block; None when there is none. Complex: (n, 2) words."""
    if not is_suspicious(memoryview(np.ascontiguousarray(words)).cast("B"), bits):
        return 0, 0, None
    if bits.only is not None:
        nan, inf = words == bits.only, np.zeros(words.shape, bool)
    else:
        magnitude = words & np.array(bits.mask, words.dtype)
        nan = magnitude >= bits.first_nan
        inf = np.zeros(words.shape, bool) if bits.infinity is None else magnitude == bits.infinity
    if words.ndim == 2:
        nan, inf = nan.any(axis=1), inf.any(axis=1)
        inf &= ~nan
    return int(nan.sum()), int(inf.sum()), nan | inf


def to_float64(words: Array, dtype: str) -> Array:
    """The values of a block of words; complex numbers as complex128."""
    if dtype in COMPLEX:
        parts = words.view({2: "f2", 4: "f4", 8: "f8"}[words.dtype.itemsize]).astype(np.float64)
        return parts.view(np.complex128).reshape(-1)
    if dtype == "bfloat16":
        return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype.startswith("float8"):
        return _float8_values(dtype)[words]
    if dtype == "bool":
        return (words != 0).astype(np.float64)
    return words.view(dtype).astype(np.float64)


_FLOAT8_VALUES: dict[str, Array] = {}


def _float8_values(dtype: str) -> Array:
    """The value of each of the 256 patterns of an 8-bit float."""
    if dtype not in _FLOAT8_VALUES:
        import ml_dtypes

        patterns: Array = np.arange(256, dtype=np.uint8)
        _FLOAT8_VALUES[dtype] = patterns.view(getattr(ml_dtypes, dtype)).astype(np.float64)
    return _FLOAT8_VALUES[dtype]


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


class _Moments:
    """Count, mean and sum of squared deviations of pieces, merged by the formula of Chan, Golub and LeVeque (1979).

    In extended precision, so that squares of the largest and smallest doubles neither overflow nor vanish.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.longdouble(0)
        self.deviations = np.longdouble(0)
        self.squares = np.longdouble(0)

    def add(self, values: Array) -> None:
        values = safe_to_square(values)
        count, mean = len(values), values.mean()
        centred = values - mean
        deviations, squares = dot(centred, centred), dot(values, values)
        total = self.count + count
        delta = np.longdouble(mean) - self.mean
        self.mean += delta * count / total
        self.deviations += np.longdouble(deviations) + delta * delta * self.count * count / total
        self.squares += np.longdouble(squares)
        self.count = total


def tensor_statistics(
    checkpoint: Checkpoint,
    tensor: TensorInfo,
    *,
    bins: int = 40,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> TensorStatistics:
    """Statistics of every element of `tensor`, streamed from its file: once for the moments, once for the histogram.

    on_bytes: adds up to the bytes of the tensor's elements. bins=0: no histogram, one pass. Raises CkptError where
    elements cannot be read (no bytes in the file, packed or quantized dtype, sparse layout), Cancelled when
    `is_cancelled` says so.
    """
    bits = FLOAT_BITS.get(tensor.dtype)
    low: float | None = None
    high: float | None = None
    zeros = nan = inf = position = 0
    first: int | None = None
    moments = _Moments()
    histogram: Array = np.zeros(bins, dtype=np.int64)
    passes = 2 if bins else 1
    with reader_of(checkpoint, tensor) as reader:
        kept: Array | None = None
        for words in reader.blocks():
            stop_if(is_cancelled)
            values, block_nan, block_inf, bad = _finite_values(words, tensor.dtype, bits)
            if first is None and bad is not None:
                first = position + int(bad.argmax())
            nan, inf, position = nan + block_nan, inf + block_inf, position + len(words)
            if len(values):
                zeros += len(values) - int(np.count_nonzero(values))
                block_low, block_high = _range(words, values, tensor.dtype)
                low = block_low if low is None else min(low, block_low)
                high = block_high if high is None else max(high, block_high)
                moments.add(values)
            kept = values if position == reader.num_elements == len(words) else None
            if on_bytes is not None:
                on_bytes(len(words) * reader.item_bytes // passes)
        if bins and low is not None and high is not None:
            for values in [kept] if kept is not None else _all_values(reader, tensor.dtype, bits):
                stop_if(is_cancelled)
                histogram += _histogram(values, float(low), float(high), bins)
                if on_bytes is not None:
                    on_bytes(len(values) * reader.item_bytes // passes)
        n, repeats = moments.count, reader.repeats
        total = n * repeats
        return TensorStatistics(
            num_elements=tensor.num_elements,
            min=low,
            max=high,
            mean=float(moments.mean) if n else None,
            std=float(np.sqrt(moments.deviations * repeats / (total - 1))) if total > 1 else None,
            norm=float(np.sqrt(moments.squares * repeats)) if n else (0.0 if not tensor.num_elements else None),
            zeros=zeros * repeats,
            nan=nan * repeats,
            inf=inf * repeats,
            histogram=tuple(int(c) * repeats for c in histogram),
            first_bad_index=None if first is None else reader.full_index(first),
            is_magnitude=reader.is_complex,
        )


def _finite_values(words: Array, dtype: str, bits: FloatBits | None) -> tuple[Array, int, int, Array | None]:
    """(finite values in float64, NaN, Inf, which elements are either); complex ones by magnitude."""
    nan, inf, bad = _bad_words(words, bits) if bits is not None else (0, 0, None)
    with np.errstate(all="ignore"):
        values = to_float64(words, dtype)
        if dtype in COMPLEX:
            values = np.abs(values)
    return (values if bad is None else values[~bad]), nan, inf, bad


def _all_values(reader: ElementReader, dtype: str, bits: FloatBits | None) -> Iterator[Array]:
    for words in reader.blocks():
        yield _finite_values(words, dtype, bits)[0]


def _range(words: Array, values: Array, dtype: str) -> tuple[float, float]:
    """Smallest and largest; of integers exactly, where float64 would round."""
    if dtype in ("int64", "uint64"):
        integers = words.view(dtype)
        return int(integers.min()), int(integers.max())
    low, high = float(values.min()), float(values.max())
    return (int(low), int(high)) if dtype in INTEGERS else (low, high)


def _histogram(values: Array, low: float, high: float, bins: int) -> Array:
    # Halves, because the range of two doubles may be more than a double holds.
    width = high * 0.5 - low * 0.5
    if not width or not len(values):
        counts: Array = np.zeros(bins, dtype=np.int64)
        counts[bins // 2] = len(values)
        return counts
    places = ((values * 0.5 - low * 0.5) / width * bins).astype(np.int64)
    return np.bincount(np.clip(places, 0, bins - 1), minlength=bins)


def safe_to_square(values: Array) -> Array:
    """Extended precision for values whose squares a double cannot hold."""
    peak = max(float(values.max()), -float(values.min())) if len(values) else 0.0
    return values if not peak or 1e-140 < peak < 1e140 else values.astype(np.longdouble)


def dot(a: Array, b: Array) -> Array:
    """The dot product. BLAS has no threads here (`numpy_alone`): they spin against each other on a busy machine."""
    return np.dot(a, b) if a.dtype == b.dtype == np.float64 else np.einsum("i,i->", a, b)
