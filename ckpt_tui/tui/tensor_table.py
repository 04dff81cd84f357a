"""All tensors of a checkpoint, filtered and sorted: what the inspect screen's list shows. Plain data, no widgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import attrgetter
from typing import Any

from ckpt_tui.checkpoints.model import Checkpoint, Storage, TensorInfo, contiguous_stride
from ckpt_tui.text import ELLIPSIS, count
from ckpt_tui.tui.picked_rows import Order, PickedRows, WordFilter, natural
from ckpt_tui.tui.value_words import shape_text

IN_FILE_ORDER = ""
LARGEST_FIRST = frozenset({"size", "elements"})  # where a person looks for the greatest


def is_stride_unusual(tensor: TensorInfo) -> bool:
    """Strides of dimensions of one element say nothing and do not count."""
    usual = contiguous_stride(tensor.shape)
    return tensor.num_elements > 0 and any(
        extent > 1 and have != want for extent, have, want in zip(tensor.shape, tensor.stride, usual, strict=False)
    )


def full_name(tensor: TensorInfo) -> str:
    """Its name, after its file's where there are several files."""
    return f"{tensor.file}:{tensor.name}" if tensor.file else tensor.name


def sort_words(sort: str, is_reversed: bool) -> str:
    """How a list that is sorted so is called: `largest first`, `by name, reversed`."""
    if sort == IN_FILE_ORDER:
        return "last in the file first" if is_reversed else ""
    if sort in LARGEST_FIRST:
        what = "" if sort == "size" else f" by {sort}"
        return ("smallest" if is_reversed else "largest") + " first" + what
    return f"by {sort}" + (", reversed" if is_reversed else "")


class TensorTable:
    """The tensors of one checkpoint. Made in a worker; filter and sort cost milliseconds for 100,000."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.all = checkpoint.tensors
        self.has_files = len({tensor.file for tensor in self.all}) > 1
        self.longest_dtype = max(map(len, {tensor.dtype for tensor in self.all}), default=0)
        self.longest_shape = max((len(shape_text(shape)) for shape in {tensor.shape for tensor in self.all}), default=0)
        self._storages: Mapping[str, Storage] = checkpoint.storages
        self._filter: WordFilter | None = None
        self._orders: dict[tuple[str, bool], Order] = {}
        self._by_storage: dict[str, list[TensorInfo]] | None = None

    @property
    def sorts(self) -> tuple[str, ...]:
        """What the tensors can be sorted by; the first is their order in the file."""
        return (IN_FILE_ORDER, "size", "name", "dtype", "shape", "elements", *(("file",) if self.has_files else ()))

    def prepare(self) -> None:
        """Do what is slow the first time: for a worker, once the first picture is there."""
        self._sharing()
        self._words()
        for sort in self.sorts:
            self._order(sort, is_reversed=False)

    def select(
        self, words: Sequence[str] = (), sort: str = IN_FILE_ORDER, is_reversed: bool = False
    ) -> Sequence[TensorInfo]:
        """Tensors whose name, shape or dtype hold all `words` (lower case), sorted by one of `sorts`."""
        places = self._words().places(words) if words else range(len(self.all))
        return PickedRows(self._order(sort, is_reversed).of(places), self.all.__getitem__)

    def _order(self, sort: str, is_reversed: bool) -> Order:
        order = self._orders.get((sort, is_reversed))
        if order is None:
            largest_first = sort in LARGEST_FIRST
            order = Order(len(self.all), self._sort_key(sort), is_reversed=largest_first != is_reversed)
            self._orders[sort, is_reversed] = order
        return order

    def _sort_key(self, sort: str) -> Callable[[int], Any] | None:
        tensors = self.all
        if sort == IN_FILE_ORDER:
            return None
        if sort == "name":  # as a person counts: `h.2` before `h.10`
            return [natural(full_name(tensor)) for tensor in tensors].__getitem__
        if sort == "elements":
            return lambda place: prod(tensors[place].shape)
        key = attrgetter({"size": "size_bytes"}.get(sort, sort))
        return lambda place: key(tensors[place])

    def _words(self) -> WordFilter:
        """What a filter looks at, one text a tensor."""
        if self._filter is None:
            shapes = {shape: shape_text(shape) for shape in {tensor.shape for tensor in self.all}}
            self._filter = WordFilter(
                [f"{tensor.file}:{tensor.name} {shapes[tensor.shape]} {tensor.dtype}".lower() for tensor in self.all]
            )
        return self._filter

    def _sharing(self) -> dict[str, list[TensorInfo]]:
        """Tensors by the storage that they stand on, of those that several stand on."""
        if self._by_storage is None:
            by_storage: dict[str, list[TensorInfo]] = {}
            for tensor in self.all:
                if tensor.storage:
                    by_storage.setdefault(tensor.storage, []).append(tensor)
            self._by_storage = {key: tensors for key, tensors in by_storage.items() if len(tensors) > 1}
        return self._by_storage

    def shared_with(self, tensor: TensorInfo) -> list[TensorInfo]:
        """Other tensors over the same bytes."""
        return [other for other in self._sharing().get(tensor.storage, ()) if other is not tensor]

    def place(self, tensor: TensorInfo) -> str:
        """Where its bytes lie: `data/17, byte 1,204,224`; with its file's name where there are several."""
        storage = self._storages.get(tensor.storage)
        if storage is None:
            if not tensor.storage:
                return "on no device: shape only" if tensor.device == "meta" else "its bytes are its components'"
            return f"{tensor.storage} is not in the file"
        parts = [storage.key]
        if storage.offset is None:
            parts.append("no bytes to read")
        elif storage.deflated_bytes is not None:
            parts.append(f"compressed, from byte {count(storage.offset)}")
        else:
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
        if tensor.is_component:
            words.append("a component of the one above")
        if tensor.device not in ("cpu", "meta"):
            words.append(f"saved on {tensor.device}")
        if tensor.is_conj or tensor.is_neg:
            words.append(" and ".join(["conjugated"] * tensor.is_conj + ["negated"] * tensor.is_neg) + " when read")
        others = self.shared_with(tensor)
        if others:
            name = full_name(others[0])
            name = name if len(name) <= 60 else name[:20] + ELLIPSIS + name[-39:]
            more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
            words.append(f"shares its bytes with {name}{more}")
        return ", ".join(words)
