"""A tensor that several ranks saved in pieces, put together: where its bytes lie, one span after another."""

from __future__ import annotations

import os
from itertools import product
from math import prod

from ckpt_tui.checkpoints.model import DTYPE_SIZES, ShardedTensor, TensorInfo
from ckpt_tui.checkpoints.salvage_facts import Examined, Source

_MAX_SPANS = 1_000_000
_WINDOW_BYTES = 1 << 20


def assemble(examined: Examined, tensor: ShardedTensor) -> str:
    """Add a source of all elements of `tensor` in order; gives its key, "" when they are not all there as they are."""
    if not tensor.chunks or not all(_is_inside(tensor.shape, offsets, piece.shape) for offsets, piece in tensor.chunks):
        return ""
    spans: list[tuple[int, str, int, int]] = []  # (where in the tensor, path, where in the file, bytes), in bytes
    is_vouched = True
    for offsets, piece in tensor.chunks:
        source = examined.sources.get(piece.storage)
        if source is None or examined.lost_reason(piece) or not _is_plain(piece, source, tensor.dtype):
            return ""
        is_vouched &= source.is_vouched
        if not _add_spans(spans, tensor, offsets, piece, source):
            return ""
    spans.sort()
    reach = 0
    for begin, _, _, num_bytes in spans:
        if begin != reach:
            return ""  # pieces that overlap: which one is right is not known
        reach += num_bytes
    if reach != tensor.size_bytes:
        return ""
    joined = tuple((path, offset, num_bytes) for _, path, offset, num_bytes in spans)
    crc = _crc32(joined)
    if crc is None:
        return ""
    key = f"pieces of {tensor.name}"
    examined.sources[key] = Source(examined.checkpoint.path, 0, reach, reach, crc, is_vouched, spans=joined)
    return key


def _is_inside(shape: tuple[int, ...], offsets: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    if not len(shape) == len(offsets) == len(sizes):
        return False
    return all(o >= 0 and o + n <= limit for o, n, limit in zip(offsets, sizes, shape, strict=True))


def _is_plain(piece: TensorInfo, source: Source, dtype: str) -> bool:
    stride, step = [], 1
    for extent in reversed(piece.shape):
        stride.append(step)
        step *= max(extent, 1)
    is_odd = source.is_deflated or source.is_big_endian or source.spans or piece.is_conj or piece.is_neg
    return piece.dtype == dtype and piece.stride == tuple(reversed(stride)) and not is_odd


def _add_spans(
    spans: list[tuple[int, str, int, int]],
    tensor: ShardedTensor,
    offsets: tuple[int, ...],
    piece: TensorInfo,
    source: Source,
) -> bool:
    """The rows of one box. False when there are more than a tensor can need."""
    shape, sizes, item = tensor.shape, piece.shape, DTYPE_SIZES[tensor.dtype]
    axis = len(shape)
    while axis and (axis == len(shape) or sizes[axis] == shape[axis]):
        axis -= 1  # from here on a row of the box is a row of the tensor
    run = prod(sizes[axis:])
    if not run or not prod(sizes):
        return True
    strides = [prod(shape[at + 1 :]) for at in range(len(shape))]
    if len(spans) + prod(sizes[:axis]) > _MAX_SPANS:
        return False
    position = source.offset + piece.offset * item
    for index in product(*(range(extent) for extent in sizes[:axis])):
        full = [*index, *([0] * (len(shape) - axis))]
        begin = sum((o + i) * s for o, i, s in zip(offsets, full, strides, strict=True))
        spans.append((begin * item, source.path, position, run * item))
        position += run * item
    return True


def _crc32(spans: tuple[tuple[str, int, int], ...]) -> int | None:
    from isal import isal_zlib

    crc = 0
    opened: dict[str, int] = {}
    try:
        for path, offset, num_bytes in spans:
            if path not in opened:
                if len(opened) >= 64:
                    os.close(opened.pop(next(iter(opened))))
                opened[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            end = offset + num_bytes
            while offset < end:
                data = os.pread(opened[path], min(_WINDOW_BYTES, end - offset), offset)
                if not data:
                    return None
                crc = isal_zlib.crc32(data, crc)
                offset += len(data)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    return crc
