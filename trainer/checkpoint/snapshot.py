"""A copy of a training state in memory that is reused, laid out as the file that it becomes.

`take` is all that training waits for: the state without its numbers is pickled, and each storage is copied to its
place, once however many tensors look at it; so tied weights stay tied. Nothing else is done there. Whoever writes the
file calls `first_nonfinite` and `finish` in a thread of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import mmap
import pickle
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from types import FunctionType
from typing import Any

import torch
from torch.serialization import location_tag, normalize_storage_type

from trainer.checkpoint.container import PAGE_BYTES, Layout
from trainer.checkpoint.proven import crc32
from trainer.checkpoint.state import first_nonfinite

# Elements of one sum: below what torch shares among threads. A second team of threads, for the thread that writes,
# would take turns with the one that trains.
_CHUNK_ELEMENTS = 32_704
# One piece of a copy, and the threads that copy: a few fill the memory's bandwidth.
_COPY_BYTES = 4 << 20
_MAX_COPYING = 8
_PICKLE_PROTOCOL = 2  # torch's
_MADV_WIPEONFORK = 18  # Linux's; the module mmap has no name for it


class Snapshot:
    """The memory for one state at a time. `content` is the file, whole after `finish`."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._pinned_at = 0
        self._layout: Layout | None = None
        self._places: list[torch.Tensor] = []
        self._pickled = b""
        self._dtypes: list[torch.dtype | None] = []
        self._numbers: dict[int, int] = {}

    def __del__(self) -> None:
        # CUDA would go on copying to the pages of memory that is gone, where another snapshot comes to lie there.
        with contextlib.suppress(Exception):
            self._unpin()

    def take(self, state: Mapping[str, Any]) -> None:
        """Copy `state`. When this returns, its tensors may change. Raises what pickling and allocating raise."""
        parts = _Parts(state)
        self._pickled, self._dtypes, self._numbers = parts.pickled, parts.dtypes, parts.numbers
        sizes = [storage.nbytes() for storage in parts.storages]
        if self._layout is None or not self._layout.fits(sizes, len(self._pickled)):
            self._lay_out(sizes)
        on_cpu: list[tuple[torch.Tensor, torch.UntypedStorage]] = []
        elsewhere: list[tuple[torch.Tensor, torch.UntypedStorage]] = []
        for place, storage in zip(self._places, parts.storages, strict=True):
            (on_cpu if storage.device.type == "cpu" else elsewhere).append((place, storage))
        on_gpu = {storage.device for _, storage in elsewhere if storage.device.type == "cuda"}
        if on_gpu:
            self._pin()
        for place, storage in elsewhere:
            place.copy_(_as_bytes(storage), non_blocking=bool(on_gpu))
        _copy_memory([(place.data_ptr(), storage.data_ptr(), storage.nbytes()) for place, storage in on_cpu])
        for device in on_gpu:
            torch.cuda.synchronize(device)

    def copy_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The copy of a tensor of the state that `take` took last; good until the next `take`."""
        number = self._numbers.get(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else None
        if number is None:
            return tensor.detach().clone()
        flat = self._places[number].view(tensor.dtype)
        return flat.as_strided(tensor.size(), tensor.stride(), flat.storage_offset() + tensor.storage_offset())

    @property
    def size_bytes(self) -> int:
        return self._layout.size_bytes if self._layout is not None else 0

    @property
    def content(self) -> memoryview:
        assert self._memory is not None
        return memoryview(self._memory)[: self.size_bytes]

    def finish(self) -> None:
        """Fill in checksums and directory: `content` is the file then."""
        assert self._layout is not None
        self._layout.finish(self.content, self._pickled, crc32)

    def first_nonfinite(self, keys: Collection[str]) -> str | None:
        """The dotted path of the first tensor under one of `keys` that has a NaN or an infinity. After `finish`."""
        if all(self._is_finite(number) for number in range(len(self._dtypes))):
            return None
        # Which tensor it is, and whether one of those that count, is found by reading the file from memory.
        state = torch.load(io.BytesIO(self.content), map_location="cpu", weights_only=True)
        return first_nonfinite({key: state[key] for key in keys if key in state})

    def _is_finite(self, number: int) -> bool:
        dtype = self._dtypes[number]
        if dtype is None:
            return False  # of several types, or of one that nobody knows: to be looked at closely
        if dtype.is_complex:
            dtype = dtype.to_real()
        if not dtype.is_floating_point:
            return True
        values = self._places[number].view(dtype)
        wide = torch.float32 if dtype.itemsize < 4 else dtype
        for begin in range(0, len(values), _CHUNK_ELEMENTS):
            chunk = values[begin : begin + _CHUNK_ELEMENTS].to(wide)
            # One pass without a temporary; a sum may be infinite where no element is.
            if not math.isfinite(chunk.sum().item()) and not torch.isfinite(chunk).all():
                return False
        return True

    def _lay_out(self, sizes: list[int]) -> None:
        layout = Layout(sizes, len(self._pickled))
        self._layout, self._places = None, []
        num_bytes = -(-layout.size_bytes // PAGE_BYTES) * PAGE_BYTES
        if self._memory is None or len(self._memory) < num_bytes:
            self._unpin()
            self._memory = None  # before the new one: not both at once
            self._memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            # Large pages are many times cheaper to touch. Children (data loaders) have no use for a copy, and get
            # zeros; not MADV_DONTFORK: this object would unmap in them what came to lie in its place.
            for advice in (getattr(mmap, "MADV_HUGEPAGE", 14), _MADV_WIPEONFORK):
                with contextlib.suppress(OSError):  # a kernel without it
                    self._memory.madvise(advice)
        layout.prepare(memoryview(self._memory))
        whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._places = [whole[offset : offset + size] for offset, size in zip(layout.offsets, sizes, strict=True)]
        self._layout = layout

    def _pin(self) -> None:
        """Tell CUDA that the memory stays where it is: copies from a GPU are several times faster then."""
        assert self._memory is not None
        if self._pinned_at:
            return
        address = torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr()
        if int(torch.cuda.cudart().cudaHostRegister(address, len(self._memory), 0)) == 0:
            self._pinned_at = address

    def _unpin(self) -> None:
        if self._pinned_at:
            torch.cuda.cudart().cudaHostUnregister(self._pinned_at)
            self._pinned_at = 0


class _Parts(pickle.Pickler):
    """A state as torch pickles it, and the storages that its tensors look at, in the order of their numbers.

    Plain tensors take a short way to the same bytes, all others torch's own: so a state of many tensors is quick.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        super().__init__(buffer, _PICKLE_PROTOCOL)
        self.storages: list[torch.UntypedStorage] = []
        self.dtypes: list[torch.dtype | None] = []
        self.numbers: dict[int, int] = {}
        self._keys: list[str] = []
        self._stored_as: list[torch.dtype] = []
        self._odd_dtypes: dict[int, torch.dtype] = {}
        self.dump(state)
        self.pickled = buffer.getvalue()

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not torch.Tensor or not _is_plain(obj):
            return NotImplemented
        dtype = obj.dtype
        try:
            storage_type = _STORAGE_TYPES[dtype]
        except KeyError:
            # A type that torch saves as plain bytes.
            self._odd_dtypes[obj.untyped_storage()._cdata] = dtype
            return NotImplemented
        storage = obj.untyped_storage()
        numel = storage.nbytes() // dtype.itemsize
        location = "cpu" if obj.is_cpu else location_tag(storage)
        stored = _Stored(("storage", storage_type, self._key(storage, dtype), location, numel))
        no_hooks: OrderedDict[Any, Any] = OrderedDict()
        arguments = (stored, obj.storage_offset(), tuple(obj.size()), obj.stride(), obj.requires_grad, no_hooks)
        return torch._utils._rebuild_tensor_v2, arguments

    def persistent_id(self, obj: Any) -> Any:
        # Asked of every object in the state: one look into a table for nearly all.
        kind = type(obj)
        if kind in _NO_STORAGES:
            return None
        if kind is _Stored:
            return obj.identity
        if isinstance(obj, torch.storage.TypedStorage):
            storage, dtype = obj._untyped_storage, obj.dtype
            storage_type, numel = getattr(torch, obj._pickle_storage_type()), obj._size()
        elif isinstance(obj, torch.UntypedStorage):
            storage, dtype = obj, torch.uint8
            storage_type, numel = normalize_storage_type(kind), obj.nbytes()
        else:
            return None
        return ("storage", storage_type, self._key(storage, dtype), location_tag(storage), numel)

    def _key(self, storage: torch.UntypedStorage, dtype: torch.dtype) -> str:
        number = self.numbers.get(storage._cdata)
        if number is None:
            number = self.numbers[storage._cdata] = len(self.storages)
            self.storages.append(storage)  # which keeps it alive, and its number its own
            self._keys.append(str(number))
            self._stored_as.append(dtype)
            self.dtypes.append(self._odd_dtypes.get(storage._cdata, dtype))
        if dtype != self._stored_as[number]:
            # torch cannot load that, and would refuse to save it.
            raise RuntimeError("tensors of different types look at the same memory, which torch.load cannot restore")
        if self._odd_dtypes.get(storage._cdata, dtype) != self.dtypes[number]:
            self.dtypes[number] = None
        return self._keys[number]


class _Stored:
    """A storage as a pickle names it."""

    __slots__ = ("identity",)

    def __init__(self, identity: tuple[Any, ...]) -> None:
        self.identity = identity


_STORAGE_TYPES = {
    dtype: getattr(torch, torch.storage._dtype_to_storage_type_map()[dtype])
    for dtype in torch.storage._dtype_to_storage_type_map()
    if not dtype.is_complex and not str(dtype).startswith("torch.q")
}


# What states are made of besides.
_NO_STORAGES = frozenset(
    {str, int, float, bool, tuple, list, dict, type(None), OrderedDict, torch.Tensor, type, FunctionType}
)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether all of a tensor is its storage, type, shape and strides."""
    return (
        tensor.layout is torch.strided
        and (tensor.is_cpu or tensor.is_cuda)
        and not tensor.is_quantized
        and not tensor.is_neg()
        and not tensor.is_nested
        and not tensor.__dict__
        and not tensor._backward_hooks
    )


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    flat = torch.empty(0, dtype=torch.uint8, device=storage.device)
    return flat.set_(storage, 0, (storage.nbytes(),), (1,))


def _copy_memory(copies: list[tuple[int, int, int]]) -> None:
    """(to, from, bytes) of each, by a few threads that take pieces until none is left.

    Not by torch's threads: those wait for each other at every tensor, and on a busy machine that costs a turn of the
    scheduler each time.
    """
    pieces = deque(
        (to + at, source + at, min(_COPY_BYTES, size - at))
        for to, source, size in copies
        for at in range(0, size, _COPY_BYTES)
    )

    def work() -> None:
        with contextlib.suppress(IndexError):
            while True:
                ctypes.memmove(*pieces.popleft())  # without the interpreter's lock

    num_helpers = min(torch.get_num_threads(), _MAX_COPYING, len(pieces) // 8) - 1
    helpers = [threading.Thread(target=work, name="snapshot") for _ in range(num_helpers)]
    with contextlib.suppress(RuntimeError):  # no more threads: this one does it all
        for helper in helpers:
            helper.start()
    try:
        work()
    finally:
        # Also where an interrupt ends it: nobody copies from what may be gone.
        pieces.clear()
        for helper in helpers:
            if helper.ident is not None:
                helper.join()
