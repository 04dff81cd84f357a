"""Elements of tensors, read from the file in bounded pieces: any strides, any dtype, either byte order.

Memory does not grow with the tensor: a few megabytes whatever its size. Nothing is mapped, because a mapped file that
shrinks ends the process (SIGBUS); short reads are errors that can be said. Loads numpy, as only this module and
`values` do: import both lazily.

Elements come as *words*: the unsigned integers of their bits (a complex number has two), in which NaN and Inf are found
fast in every dtype. `values` turns them into numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import Any

from ckpt_tui.checkpoints.inflated import InflatedStorage
from ckpt_tui.checkpoints.model import DTYPE_SIZES, Checkpoint, TensorInfo
from ckpt_tui.checkpoints.numpy_alone import np
from ckpt_tui.checkpoints.opening import storage_path
from ckpt_tui.errors import Cancelled, CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.text import count, safe_text

Array = Any  # np.ndarray, whose annotations mypy is told not to read

BLOCK_ELEMENTS = 64 * 1024  # elements worked on at a time: 512 kB in float64, which stays in the cache
_WHOLE_SPAN_BYTES = 16 * 1024 * 1024  # views on less than this are read whole and gathered in memory
_PIECE_BYTES = 64 * 1024  # smaller gaps than this are read over rather than skipped
_MAX_OVERLAP = 64  # a view that shows each byte more often than this is a trick, not a tensor


@dataclass(frozen=True, slots=True)
class FloatBits:
    """How NaN and Inf look in the bits of a float: with the sign taken off (`mask`), Inf is `infinity` and NaN is
    everything from `first_nan` on. `only`: the one pattern that is NaN, where there is only one. `width`: bytes."""

    width: int
    mask: int
    first_nan: int
    infinity: int | None
    only: int | None = None

    @property
    def first_bad(self) -> int:
        return self.first_nan if self.infinity is None else self.infinity


_IEEE64 = FloatBits(8, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0001, 0x7FF0_0000_0000_0000)
_IEEE32 = FloatBits(4, 0x7FFF_FFFF, 0x7F80_0001, 0x7F80_0000)
_IEEE16 = FloatBits(2, 0x7FFF, 0x7C01, 0x7C00)
FLOAT_BITS: dict[str, FloatBits] = {
    "float64": _IEEE64, "float32": _IEEE32, "float16": _IEEE16,
    "complex128": _IEEE64, "complex64": _IEEE32, "complex32": _IEEE16,
    "bfloat16": FloatBits(2, 0x7FFF, 0x7F81, 0x7F80),
    "float8_e5m2": FloatBits(1, 0x7F, 0x7D, 0x7C),
    "float8_e4m3fn": FloatBits(1, 0x7F, 0x7F, None),
    "float8_e4m3fnuz": FloatBits(1, 0xFF, 0x80, None, only=0x80),
    "float8_e5m2fnuz": FloatBits(1, 0xFF, 0x80, None, only=0x80),
    "float8_e8m0fnu": FloatBits(1, 0xFF, 0xFF, None, only=0xFF),
}  # fmt: skip
COMPLEX = frozenset({"complex32", "complex64", "complex128"})
INTEGERS = frozenset({"int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"})
COUNTABLE = frozenset(FLOAT_BITS) | INTEGERS


def is_suspicious(data: memoryview, bits: FloatBits, big_endian: bool = False) -> bool:
    """Whether any float in `data` is NaN or Inf. Two reductions without a copy: tens of GB/s in every dtype.

    As a signed integer a positive NaN or Inf is larger than every finite float; as an unsigned one a negative NaN or
    Inf is. A last element that is cut off is not looked at.
    """
    num_words = len(data) // bits.width
    if not num_words:
        return False
    words = np.frombuffer(data, dtype=f"{'>' if big_endian else '<'}u{bits.width}", count=num_words)
    if big_endian and bits.width > 1:
        words = words.astype(f"u{bits.width}")
    if bits.only is not None:
        return bool((words == bits.only).any())
    if int(words.view(f"i{bits.width}").max()) >= bits.first_bad:
        return True
    return int(words.max()) >= (bits.first_bad | (bits.mask + 1))


def zero_pages(data: memoryview, page_bytes: int) -> list[bool]:
    """For every whole page of `data`, whether all its bytes are zero. page_bytes: a multiple of 8."""
    num_pages = len(data) // page_bytes
    words = np.frombuffer(data, dtype="u8", count=num_pages * page_bytes // 8).reshape(num_pages, page_bytes // 8)
    # A look at one word settles nearly every page.
    candidates = np.flatnonzero(words[:, 0] == 0)
    is_zero = [False] * num_pages
    for page in candidates.tolist():
        is_zero[page] = not words[page].any()
    return is_zero


def is_all_zero(data: memoryview) -> bool:
    """Whether every byte is zero."""
    return not np.frombuffer(data, dtype="u1").any()


# --- reading elements


class Scratch:
    """Memory that is used again, by name: fresh memory costs as much as reading what goes into it."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, str], Array] = {}

    def array(self, name: str, num_elements: int, dtype: str = "f8") -> Array:
        """Of any content. It is good until the same name is asked for again."""
        memory = self._memory.get((name, dtype))
        if memory is None or len(memory) < num_elements:
            wanted = max(num_elements, min(BLOCK_ELEMENTS, 2 * num_elements))
            self._memory[name, dtype] = memory = np.empty(wanted, dtype)
        return memory[:num_elements]


class ElementReader:
    """The elements of one tensor in logical (row-major) order, whatever its strides. Use as a context manager.

    Dimensions that are expanded (stride 0) are read once: `shape` is what is read, `repeats` how often each element
    stands in the tensor. scratch: where blocks are put, under `scratch_name`; the next one may overwrite the last.
    Raises CkptError when the elements cannot be read.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tensor: TensorInfo,
        keep_expanded: bool = False,
        scratch: Scratch | None = None,
        scratch_name: str = "",
    ) -> None:
        self.tensor = tensor
        self.name = safe_text(tensor.name, 120)
        size = DTYPE_SIZES.get(tensor.dtype)
        if tensor.dtype not in COUNTABLE or size is None:
            raise CkptError("Cannot be counted", f"{self.name}: {safe_text(tensor.dtype)} is packed or quantized")
        if tensor.layout != "strided":
            raise CkptError("Cannot be counted", f"{self.name}: its layout is {safe_text(tensor.layout)}")
        if len(tensor.stride) != len(tensor.shape) or min((*tensor.shape, *tensor.stride, tensor.offset, 0)) < 0:
            raise CkptError("Damaged tensor", f"{self.name}: its strides and shape do not go together")
        self.is_complex = tensor.dtype in COMPLEX
        self.item_bytes = size
        self._word = f"u{size // 2 if self.is_complex else size}"
        dims = [(n, s) for n, s in zip(tensor.shape, tensor.stride, strict=True) if n != 1]
        self._is_empty = any(n == 0 for n, _ in dims)
        self.repeats = 1
        if not keep_expanded and not self._is_empty:
            self.repeats = math.prod(n for n, s in dims if s == 0)
            dims = [(n, s) for n, s in dims if s != 0]
        self.num_elements = 0 if self._is_empty else math.prod(n for n, _ in dims)
        self._dims = _merged(dims)
        self._storage = checkpoint.storages.get(tensor.storage)
        is_big_endian = self._storage is not None and self._storage.is_big_endian
        self._signs = self._sign_flips(tensor)
        self._swaps = is_big_endian and np.dtype(self._word).itemsize > 1
        if not self._is_empty:
            self._check_bounds()
            assert self._storage is not None
            self._path = storage_path(checkpoint, self._storage)
        self._descriptor: int | None = None
        self._inflated: InflatedStorage | None = None
        self._whole: Array | None = None
        self._scratch = scratch
        self._scratch_name = scratch_name

    def _sign_flips(self, tensor: TensorInfo) -> Array | None:
        """The bits that torch's lazy negation and conjugation turn over in each word; None when there are none, or
        when the numbers are integers."""
        bits = FLOAT_BITS.get(tensor.dtype)
        if bits is None or not (tensor.is_neg or (tensor.is_conj and self.is_complex)):
            return None
        sign = bits.mask + 1
        if not self.is_complex:
            return np.array(sign, self._word)
        imaginary = tensor.is_neg != tensor.is_conj
        return np.array([sign if tensor.is_neg else 0, sign if imaginary else 0], self._word)

    def _check_bounds(self) -> None:
        storage = self._storage
        if storage is None or storage.offset is None:
            raise CkptError("Cannot be counted", f"{self.name}: its bytes are not in the file as they are")
        span = sum((n - 1) * s for n, s in self._dims) + 1
        end = (self.tensor.offset + span) * self.item_bytes
        if end > storage.size_bytes:
            message = f"{self.name}: needs {count(end)} bytes, its storage has {count(storage.size_bytes)}"
            raise CkptError("Damaged tensor", message)
        if self.num_elements > _MAX_OVERLAP * span + BLOCK_ELEMENTS:
            raise CkptError("Cannot be counted", f"{self.name}: its view shows the same bytes too many times")

    def __enter__(self) -> ElementReader:
        if not self._is_empty:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise from_os_error(error, safe_text(self._path)) from error
            assert self._storage is not None
            if self._storage.deflated_bytes is not None:
                try:
                    self._inflated = InflatedStorage(self._descriptor, self._storage, self.name)
                except BaseException:
                    self.__exit__()
                    raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._inflated is not None:
            self._inflated.close()
            self._inflated = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._whole = None

    def blocks(self) -> Iterator[Array]:
        """Words of at most `BLOCK_ELEMENTS` elements at a time, in logical order: (n,), or (n, 2) when complex."""
        if self._is_empty:
            return
        inner_dims = len(self._dims)
        inner = 1
        # As many last dimensions as fit in a block are read together; the one before in runs; the rest one by one.
        while inner_dims and inner * self._dims[inner_dims - 1][0] <= BLOCK_ELEMENTS:
            inner_dims -= 1
            inner *= self._dims[inner_dims][0]
        tail = self._dims[inner_dims:]
        if inner_dims == 0:
            yield self._read(self.tensor.offset, tail)
            return
        run_extent, run_stride = self._dims[inner_dims - 1]
        run = max(BLOCK_ELEMENTS // inner, 1)
        for index in np.ndindex(*(n for n, _ in self._dims[: inner_dims - 1])):
            base = self.tensor.offset + sum(i * s for i, (_, s) in zip(index, self._dims, strict=False))
            for start in range(0, run_extent, run):
                extent = min(run, run_extent - start)
                yield self._read(base + start * run_stride, [(extent, run_stride), *tail])

    def full_index(self, position: int) -> int:
        """The position in the flattened tensor of element `position` of what is read (expanded dimensions at 0)."""
        if self.repeats == 1:
            return position
        index, scale = 0, 1
        for extent, stride in reversed(list(zip(self.tensor.shape, self.tensor.stride, strict=True))):
            if stride != 0 and extent > 1:
                position, here = divmod(position, extent)
                index += here * scale
            scale *= extent
        return index

    def _read(self, offset: int, dims: list[tuple[int, int]]) -> Array:
        """Words of the elements at `offset` with `dims` (extent, stride), all in elements, in logical order."""
        num_elements = math.prod(n for n, _ in dims)
        span = sum((n - 1) * s for n, s in dims) + 1
        if num_elements == span and all(dims[i][1] >= dims[i + 1][1] for i in range(len(dims) - 1)):
            return self._words(offset, num_elements, self._scratch)
        out: Array = np.empty((*(n for n, _ in dims), 2) if self.is_complex else tuple(n for n, _ in dims), self._word)
        whole_span = sum((n - 1) * s for n, s in self._dims) + 1
        if whole_span * self.item_bytes <= _WHOLE_SPAN_BYTES:
            if self._whole is None:
                self._whole = self._words(self.tensor.offset, whole_span)
            self._gather(self._whole[offset - self.tensor.offset :], dims, out)
        else:
            self._fill(offset, dims, out)
        return out.reshape(-1, 2) if self.is_complex else out.reshape(-1)

    def _fill(self, offset: int, dims: list[tuple[int, int]], out: Array) -> None:
        """Read a view piece by piece: in halves along its largest stride until little is read that is not shown."""
        span = sum((n - 1) * s for n, s in dims) + 1
        num_elements = math.prod(n for n, _ in dims)
        if span * self.item_bytes <= max(4 * num_elements * self.item_bytes, _PIECE_BYTES):
            self._gather(self._words(offset, span), dims, out)
            return
        axis = max((i for i in range(len(dims)) if dims[i][0] > 1), key=lambda i: dims[i][1])
        extent, stride = dims[axis]
        half = extent // 2
        before = (slice(None),) * axis
        self._fill(offset, [*dims[:axis], (half, stride), *dims[axis + 1 :]], out[(*before, slice(None, half))])
        rest = [*dims[:axis], (extent - half, stride), *dims[axis + 1 :]]
        self._fill(offset + half * stride, rest, out[(*before, slice(half, None))])

    def _gather(self, words: Array, dims: list[tuple[int, int]], out: Array) -> None:
        item = self.item_bytes
        shape, strides = tuple(n for n, _ in dims), tuple(s * item for _, s in dims)
        if self.is_complex:
            shape, strides = (*shape, 2), (*strides, item // 2)
        out[...] = np.lib.stride_tricks.as_strided(words, shape, strides, writeable=False)

    def _words(self, offset: int, num_elements: int, scratch: Scratch | None = None) -> Array:
        """Words of `num_elements` adjacent elements from element `offset` of the storage."""
        assert self._storage is not None
        assert self._storage.offset is not None
        assert self._descriptor is not None
        size = num_elements * self.item_bytes
        position = offset * self.item_bytes
        num_words = size // np.dtype(self._word).itemsize
        if scratch is None:
            words: Array = np.empty(num_words, self._word)
        else:
            words = scratch.array(self._scratch_name, num_words, self._word)
        view = memoryview(words).cast("B")
        if self._inflated is not None:
            if size and self._inflated.read_into(view, position) != size:
                raise CkptError(
                    "Truncated", f"{self.name}: its compressed data ends before byte {count(position + size)}"
                )
        elif size and read_into(self._descriptor, view, self._storage.offset + position) != size:
            end = self._storage.offset + position + size
            raise CkptError("Truncated", f"{self.name}: the file ends before byte {count(end)}")
        if self._swaps:
            words = words.byteswap()
        if self.is_complex:
            words = words.reshape(-1, 2)
        if self._signs is not None:
            words ^= self._signs
        elif self.tensor.is_neg:
            words = np.negative(words)
        return words


def _merged(dims: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbouring dimensions that step through memory as one become one: a contiguous tensor is a single run."""
    merged: list[tuple[int, int]] = []
    for extent, stride in dims:
        if merged and merged[-1][1] == stride * extent and extent > 0:
            merged[-1] = (merged[-1][0] * extent, stride)
        else:
            merged.append((extent, stride))
    return merged


def read_into(descriptor: int, view: memoryview, position: int) -> int:
    """Fill `view` from byte `position` of a file; gives how many bytes there were. CkptError when the device fails."""
    done = 0
    try:
        while done < len(view):
            received = os.preadv(descriptor, [view[done:]], position + done)
            if not received:
                break
            done += received
    except OSError as error:
        message = f"byte {count(position + done)}: {error.strerror or error}"
        raise CkptError("Cannot read", message, "The disk or the network mount may be failing.") from error
    return done


def stop_if(is_cancelled: Callable[[], bool] | None) -> None:
    """Raise Cancelled when that is asked for."""
    if is_cancelled is not None and is_cancelled():
        raise Cancelled
