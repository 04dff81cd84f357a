"""Which elements of ZeRO's flat partitions are which parameter's, as DeepSpeed's own `zero_to_fp32.py` counts them.

Stages 1 and 2 lay the parameters of a group one behind the other and cut the row into one partition per rank. Stage 3
cuts every parameter into as many equal pieces as there are ranks, the last one padded, and lays a rank's pieces one
behind the other. The moments of the optimizer lie as the weights do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from math import prod

from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    CompositeRef,
    ShardedTensor,
    TensorInfo,
    TensorRef,
    contiguous_stride,
)

_MAX_PIECES = 200_000
_MAX_NAME_BYTES = 256 << 20

Shape = tuple[int, ...]


class Flat:
    """The row of a rank's elements: its tensors one behind the other. None: a tensor that is lost; it had `sizes`."""

    __slots__ = ("sizes", "tensors")

    def __init__(self, tensors: list[TensorInfo | None], sizes: list[int]) -> None:
        self.tensors = tensors
        self.sizes = sizes

    def pieces(self, begin: int, num_elements: int) -> list[tuple[int, int, TensorInfo | None, int]]:
        """(place in the span, elements, tensor, place in the tensor) of what makes up a span of the row; what lies
        beyond its end is lost, too."""
        found = []
        at = done = 0
        for tensor, size in zip(self.tensors, self.sizes, strict=True):
            first, last = max(begin + done, at), min(begin + num_elements, at + size)
            if first < last:
                found.append((done, last - first, tensor, first - at))
                done += last - first
            at += size
            if at >= begin + num_elements:
                break
        if done < num_elements:
            found.append((done, num_elements - done, None, 0))
        return found


class Assembled:
    """The parameters under their names. tensors: each whole one followed by its pieces. lost: names of those of which
    pieces are missing. is_cut: there are more pieces than are listed."""

    __slots__ = ("is_cut", "lost", "name_bytes", "num_pieces", "tensors")

    def __init__(self) -> None:
        self.tensors: list[TensorInfo] = []
        self.lost: dict[str, None] = {}
        self.name_bytes = 0  # at most
        self.num_pieces = 0
        self.is_cut = False

    def add(
        self, name: str, shape: Shape, dtype: str, pieces: list[tuple[int, int, TensorInfo | None, int]]
    ) -> TensorRef | None:
        """One parameter from spans of flat tensors: a view when it lies in one, otherwise a whole with its pieces."""
        self.num_pieces += max(len(pieces), 1)
        self.name_bytes += (2 * len(shape) * len(pieces) + 1) * len(name)
        if self.num_pieces > _MAX_PIECES or self.name_bytes > _MAX_NAME_BYTES:
            self.is_cut = True
            return None
        index = len(self.tensors)
        num_elements = prod(shape)
        if len(pieces) == 1 and pieces[0][2] is not None:
            info = _view(name, shape, pieces[0][2], pieces[0][3])
            self.tensors.append(info)
            return TensorRef(info, index)
        num_bytes = num_elements * DTYPE_SIZES.get(dtype, 0)
        if not pieces:  # it has no elements
            info = TensorInfo(name, "", shape, dtype, 0, "", contiguous_stride(shape))
            self.tensors.append(info)
            return TensorRef(info, index)
        whole = ShardedTensor(name, "", shape, dtype, num_bytes, "", contiguous_stride(shape), 0, "cpu", "sharded")
        self.tensors.append(whole)
        chunks: list[object] = []
        for begin, size, tensor, offset in pieces:
            for starts, extents, first in boxes_of(shape, begin, begin + size):
                piece_name = f"{name}.chunks.{len(chunks)}"
                if tensor is None:
                    self.lost[name] = None
                    lost_bytes = prod(extents) * DTYPE_SIZES.get(dtype, 0)
                    key = f"{piece_name}: lost"
                    piece = TensorInfo(piece_name, "", extents, dtype, lost_bytes, key, contiguous_stride(extents))
                else:
                    piece = _view(piece_name, extents, tensor, offset + first - begin)
                piece.is_component = True
                chunks.append(TensorRef(piece, len(self.tensors)))
                self.tensors.append(piece)
                whole.chunks.append((starts, piece))
        self.num_pieces += len(chunks) - len(pieces)
        return CompositeRef(whole, index, {"chunks": chunks})


class Row:
    """The row of a group, which goes through all ranks; a rank that is lost had `rank_elements`."""

    __slots__ = ("_flats", "_sizes", "_starts", "num_elements")

    def __init__(self, flats: list[Flat | None], rank_elements: int) -> None:
        self._flats = flats
        self._sizes = [rank_elements if flat is None else sum(flat.sizes) for flat in flats]
        self._starts = list(accumulate(self._sizes, initial=0))
        self.num_elements = self._starts[-1]

    def pieces(self, begin: int, num_elements: int) -> list[tuple[int, int, TensorInfo | None, int]]:
        """The pieces of a span of it."""
        found: list[tuple[int, int, TensorInfo | None, int]] = []
        end = begin + num_elements
        done = 0
        rank = max(bisect_right(self._starts, begin) - 1, 0)
        while rank < len(self._flats) and self._starts[rank] < end:
            first = max(begin, self._starts[rank])
            size = min(end, self._starts[rank + 1]) - first
            flat = self._flats[rank]
            if size > 0 and flat is None:
                found.append((done, size, None, 0))
            elif size > 0 and flat is not None:
                inside = flat.pieces(first - self._starts[rank], size)
                found += [(done + at, length, tensor, offset) for at, length, tensor, offset in inside]
            done += max(size, 0)
            rank += 1
        if done < num_elements:
            found.append((done, num_elements - done, None, 0))
        return found


def spans_of_stage_3(
    ranks: list[Flat | None], begin: int, num_elements: int
) -> list[tuple[int, int, TensorInfo | None, int]]:
    """The pieces of a parameter that begins at `begin` in every rank's row."""
    found: list[tuple[int, int, TensorInfo | None, int]] = []
    per_rank = -(-num_elements // len(ranks)) if ranks else 0
    for rank, flat in enumerate(ranks):
        done = rank * per_rank
        size = min(per_rank, num_elements - done)
        if size <= 0:
            break
        if flat is None:
            found.append((done, size, None, 0))
        else:
            found += [(done + b, n, tensor, offset) for b, n, tensor, offset in flat.pieces(begin, size)]
    return found


def boxes_of(shape: Shape, begin: int, end: int) -> Iterator[tuple[Shape, Shape, int]]:
    """(where it begins, its shape, its first element) of the boxes that make up elements begin..end of a tensor in
    their order: the rest of a row, whole rows, the beginning of one; at most two a dimension and one more."""
    if begin >= end:
        return
    if not shape:
        yield (), (), 0
        return
    row = prod(shape[1:])
    head_end = min(-(-begin // row) * row, end)
    tail_begin = max(end // row * row, head_end)
    for at, stop in ((begin, head_end), (tail_begin, end)):
        if at == tail_begin and head_end < tail_begin:
            first, last = head_end // row, tail_begin // row
            yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:]), head_end
        number = at // row
        for starts, extents, inner in boxes_of(shape[1:], at - number * row, stop - number * row):
            yield (number, *starts), (1, *extents), number * row + inner


def _view(name: str, shape: Shape, flat: TensorInfo, offset: int) -> TensorInfo:
    num_bytes = prod(shape) * DTYPE_SIZES.get(flat.dtype, 0)
    return TensorInfo(
        name,
        "",
        shape,
        flat.dtype,
        num_bytes,
        flat.storage,
        contiguous_stride(shape),
        flat.offset + offset,
        flat.device,
    )
