"""What the elements of a tensor amount to: NaN and Inf counted, statistics, the change between two tensors.

Streamed through `elements.ElementReader`, in float64, numerically stable. Loads numpy: import it lazily.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

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
    with ElementReader(checkpoint, tensor) as reader:
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
        values = _safe_to_square(values)
        count, mean = len(values), values.mean()
        centred = values - mean
        deviations, squares = _product(centred, centred), _product(values, values)
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
    with ElementReader(checkpoint, tensor) as reader:
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


# --- two tensors


@dataclass(frozen=True, slots=True)
class Change:
    """How far tensor b is from tensor a of the same shape, in float64, over the pairs where both are finite.

    relative_l2: |b - a| / |a|, 0 when equal, inf when a is all zero and b is not. max_abs: largest |b - a|.
    cosine: of a and b as vectors; None when either is all zero. num_nonfinite: the other pairs.
    is_equal: every pair is equal in value; NaN equals NaN, and Inf the Inf of its sign.
    """

    relative_l2: float | None
    max_abs: float | None
    cosine: float | None
    num_nonfinite: int
    is_equal: bool


def compare_tensors(
    a: tuple[Checkpoint, TensorInfo],
    b: tuple[Checkpoint, TensorInfo],
    *,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Change:
    """Compare two tensors of the same shape element by element, streamed; their dtypes may differ.

    on_bytes: adds up to the bytes of both. Raises CkptError where elements cannot be read, and Cancelled.
    """
    tensor_a, tensor_b = a[1], b[1]
    assert tensor_a.shape == tensor_b.shape
    # Expanded dimensions are read once, but only when both sides are expanded alike.
    keep = _expanded(tensor_a) != _expanded(tensor_b)
    distance = squares_a = squares_b = product = np.longdouble(0)
    largest = 0.0
    num_nonfinite = num_pairs = 0
    is_equal = True
    same_dtype = tensor_a.dtype == tensor_b.dtype
    bits_a, bits_b = FLOAT_BITS.get(tensor_a.dtype), FLOAT_BITS.get(tensor_b.dtype)
    becomes_complex = tensor_a.dtype in COMPLEX or tensor_b.dtype in COMPLEX
    # Only their squares can leave the range of a double.
    is_wide = not {tensor_a.dtype, tensor_b.dtype}.isdisjoint({"float64", "complex128"})
    with ElementReader(*a, keep_expanded=keep) as reader_a, ElementReader(*b, keep_expanded=keep) as reader_b:
        bytes_a_pair = reader_a.item_bytes + reader_b.item_bytes
        for words_a, words_b in _in_step(reader_a, reader_b):
            stop_if(is_cancelled)
            size = len(words_a) * bytes_a_pair
            # Equal bits are the usual case: one conversion less, no subtraction.
            same_bits = same_dtype and bool(np.array_equal(words_a, words_b))
            if not same_bits and same_dtype and tensor_a.dtype in INTEGERS:
                is_equal = False  # float64 rounds large integers: two that differ may look alike
            values_a = _parts(words_a, tensor_a.dtype, becomes_complex)
            values_b = values_a if same_bits else _parts(words_b, tensor_b.dtype, becomes_complex)
            if _has_bad(words_a, bits_a) or (not same_bits and _has_bad(words_b, bits_b)):
                finite = np.isfinite(values_a) & np.isfinite(values_b)
                odd_a, odd_b = values_a[~finite], values_b[~finite]
                num_nonfinite += len(odd_a)
                is_equal &= bool(((odd_a == odd_b) | (np.isnan(odd_a) & np.isnan(odd_b))).all())
                values_a, values_b = values_a[finite], values_b[finite]
            num_pairs += len(values_a)
            if len(values_a) and same_bits:
                square = _product(*[_safe_to_square(values_a) if is_wide else values_a] * 2)
                squares_a, squares_b, product = squares_a + square, squares_b + square, product + square
            elif len(values_a):
                if is_wide:
                    values_a, values_b = _safe_to_square(values_a), _safe_to_square(values_b)
                difference = values_b - values_a
                if is_wide:
                    difference = _safe_to_square(difference)
                furthest = max(float(difference.max()), -float(difference.min()))
                largest = max(largest, furthest)
                is_equal &= furthest == 0.0
                distance += _product(difference, difference)
                squares_a += _product(values_a, values_a)
                squares_b += _product(values_b, values_b)
                product += _product(values_a, values_b)
            if on_bytes is not None:
                on_bytes(size)
    if not num_pairs:
        return Change(None, None, None, num_nonfinite * reader_a.repeats, is_equal)
    relative = 0.0 if not distance else float(np.sqrt(distance / squares_a)) if squares_a else float("inf")
    cosine = float(product / (np.sqrt(squares_a) * np.sqrt(squares_b))) if squares_a and squares_b else None
    if cosine is not None:
        cosine = min(max(cosine, -1.0), 1.0)
    return Change(relative, largest, cosine, num_nonfinite * reader_a.repeats, is_equal)


def _expanded(tensor: TensorInfo) -> list[int]:
    return [i for i, (n, s) in enumerate(zip(tensor.shape, tensor.stride, strict=True)) if s == 0 and n > 1]


def _parts(words: Array, dtype: str, becomes_complex: bool) -> Array:
    """Values in float64; of complex numbers, and what is compared with them, real and imaginary parts in turn."""
    values = to_float64(words, dtype)
    return values.astype(np.complex128, copy=False).view(np.float64) if becomes_complex else values


def _has_bad(words: Array, bits: FloatBits | None) -> bool:
    return bits is not None and is_suspicious(memoryview(np.ascontiguousarray(words)).cast("B"), bits)


def _safe_to_square(values: Array) -> Array:
    """Extended precision for values whose squares a double cannot hold."""
    peak = max(float(values.max()), -float(values.min())) if len(values) else 0.0
    return values if not peak or 1e-140 < peak < 1e140 else values.astype(np.longdouble)


def _product(a: Array, b: Array) -> Array:
    """The dot product. Not `np.dot`: its BLAS keeps threads that spin against each other on a busy machine, which
    made comparing two files 10 times slower."""
    return np.einsum("i,i->", a, b)


def _in_step(reader_a: ElementReader, reader_b: ElementReader) -> Iterator[tuple[Array, Array]]:
    """Blocks of two readers cut to the same lengths: their strides may cut them at different places."""
    blocks_a, blocks_b = reader_a.blocks(), reader_b.blocks()
    words_a, words_b = next(blocks_a, None), next(blocks_b, None)
    while words_a is not None and words_b is not None:
        length = min(len(words_a), len(words_b))
        yield words_a[:length], words_b[:length]
        words_a = words_a[length:] if length < len(words_a) else next(blocks_a, None)
        words_b = words_b[length:] if length < len(words_b) else next(blocks_b, None)
