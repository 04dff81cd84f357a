"""Elements of a tensor that ranks saved in pieces: piece by piece. Loads numpy: import it lazily."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ckpt_tui.checkpoints.elements import Array, ElementReader
from ckpt_tui.checkpoints.model import Checkpoint, ShardedTensor, TensorInfo
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text


class ShardedReader(ElementReader):
    """As `ElementReader`, in the order of the pieces, which need not be the logical one: `full_index` knows where an
    element belongs. Raises CkptError when the pieces are not the whole tensor."""

    def __init__(self, checkpoint: Checkpoint, tensor: ShardedTensor) -> None:
        self.tensor = tensor
        self.name = safe_text(tensor.name, 120)
        self.repeats = 1
        self.num_elements = tensor.num_elements
        # Each of them is checked here, and opened when its turn comes.
        self._readers = [ElementReader(checkpoint, piece, keep_expanded=True) for _, piece in tensor.chunks]
        self._starts = [starts for starts, _ in tensor.chunks]
        if sum(reader.num_elements for reader in self._readers) != tensor.num_elements or not self._readers:
            there = count(sum(reader.num_elements for reader in self._readers))
            message = f"{self.name}: its pieces have {there} elements, it has {count(tensor.num_elements)}"
            raise CkptError("Damaged tensor", message)
        if any(piece.dtype != tensor.dtype for _, piece in tensor.chunks):
            raise CkptError("Damaged tensor", f"{self.name}: its pieces are of different dtypes")
        self.is_complex = self._readers[0].is_complex
        self.item_bytes = self._readers[0].item_bytes

    def __enter__(self) -> ShardedReader:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def blocks(self) -> Iterator[Array]:
        for reader in self._readers:
            with reader:
                yield from reader.blocks()

    def full_index(self, position: int) -> int:
        for starts, reader in zip(self._starts, self._readers, strict=True):
            if position < reader.num_elements:
                index, scale = 0, 1
                for begin, extent, whole in reversed(
                    list(zip(starts, reader.tensor.shape, self.tensor.shape, strict=True))
                ):
                    position, here = divmod(position, extent)
                    index += (begin + here) * scale
                    scale *= whole
                return min(index, max(math.prod(self.tensor.shape) - 1, 0))
            position -= reader.num_elements
        return 0


def reader_of(checkpoint: Checkpoint, tensor: TensorInfo) -> ElementReader:
    """What reads a tensor's elements, whole or in pieces. Raises CkptError when they cannot be read."""
    return ShardedReader(checkpoint, tensor) if isinstance(tensor, ShardedTensor) else ElementReader(checkpoint, tensor)
