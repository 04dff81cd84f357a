"""All tensors of a checkpoint, filtered and sorted: what the inspect screen's list shows. Plain data, no widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckpt_tui.checkpoints.model import Checkpoint, Storage, TensorInfo
from ckpt_tui.text import ELLIPSIS, count
from ckpt_tui.tui.state_tree import shape_text

SORTS = ("as in the file", "largest first", "by name", "by dtype")


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride, in elements, of a tensor of this shape without gaps and not transposed."""
    stride: list[int] = []
    step = 1
    for extent in reversed(shape):
        stride.append(step)
        step *= max(extent, 1)
    return tuple(reversed(stride))


def is_stride_unusual(tensor: TensorInfo) -> bool:
    """Strides of dimensions of one element say nothing and do not count."""
    usual = contiguous_stride(tensor.shape)
    return tensor.num_elements > 0 and any(
        extent > 1 and have != want for extent, have, want in zip(tensor.shape, tensor.stride, usual, strict=False)
    )


def full_name(tensor: TensorInfo) -> str:
    """Its name, after its file's where there are several files."""
    return f"{tensor.file}:{tensor.name}" if tensor.file else tensor.name


class TensorTable:
    """The tensors of one checkpoint. Made in a worker; filter and sort cost milliseconds for 100,000."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.all = checkpoint.tensors
        self.largest_bytes = max((tensor.size_bytes for tensor in self.all), default=0)
        self._storages: Mapping[str, Storage] = checkpoint.storages
        self._haystack: list[str] | None = None

    def prepare_filter(self) -> list[str]:
        """What a filter looks at, one text a tensor; slow only the first time, so a worker does that one."""
        if self._haystack is None:
            shapes = {shape: shape_text(shape) for shape in {tensor.shape for tensor in self.all}}
            self._haystack = [
                f"{tensor.file}:{tensor.name} {shapes[tensor.shape]} {tensor.dtype}".lower() for tensor in self.all
            ]
        return self._haystack

    def select(self, words: Sequence[str] = (), sort: int = 0) -> list[TensorInfo]:
        """Tensors whose name, shape or dtype hold all `words` (lower case), in the order `SORTS[sort]`."""
        hits = list(self.all)
        if words:
            texts = self.prepare_filter()
            for word in words[:-1]:
                kept = [(tensor, text) for tensor, text in zip(hits, texts, strict=True) if word in text]
                hits, texts = [tensor for tensor, _ in kept], [text for _, text in kept]
            hits = [tensor for tensor, text in zip(hits, texts, strict=True) if words[-1] in text]
        if sort == 1:
            hits.sort(key=lambda tensor: -tensor.size_bytes)
        elif sort == 2:
            hits.sort(key=full_name)
        elif sort == 3:
            hits.sort(key=lambda tensor: tensor.dtype)
        return hits

    def shared_with(self, tensor: TensorInfo) -> list[TensorInfo]:
        """Other tensors over the same bytes."""
        return [other for other in self.all if other.storage == tensor.storage and other is not tensor]

    def place(self, tensor: TensorInfo) -> str:
        """Where its bytes lie: `data/17, byte 1,204,224`."""
        storage = self._storages.get(tensor.storage)
        if storage is None:
            return f"{tensor.storage or 'its storage'} is not in the file"
        parts = [storage.key]
        if storage.offset is not None:
            element_size = tensor.size_bytes // tensor.num_elements if tensor.num_elements else 0
            parts.append(f"byte {count(storage.offset + tensor.offset * element_size)}")
        return ", ".join(parts)

    def facts(self, tensor: TensorInfo) -> str:
        """What there is to say of it besides its name, shape and dtype; only what is not usual."""
        words = [f"{count(tensor.num_elements)} {'element' if tensor.num_elements == 1 else 'elements'}"]
        if is_stride_unusual(tensor):
            words.append(f"stride {tensor.stride}".replace("(", "").replace(")", ""))
        if tensor.layout != "strided":
            words.append(tensor.layout)
        if tensor.device != "cpu":
            words.append(f"saved on {tensor.device}")
        others = self.shared_with(tensor)
        if others:
            name = full_name(others[0])
            name = name if len(name) <= 60 else name[:20] + ELLIPSIS + name[-39:]
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            words.append(f"shares its bytes with {name}{more}")
        return ", ".join(words)
