"""A decoded state made of plain data only, for writing it again: what is lost and what cannot be written is left out.

Objects become what they hold: settings the dict of their attributes, paths and enums their value, numpy arrays tensors.
Nothing that a file names as code is carried over, and every change is listed by its place in the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from math import prod

from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    CompositeRef,
    OpaqueObject,
    ShardedTensor,
    TensorInfo,
    TensorRef,
    contiguous_stride,
)
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName, StorageRef
from ckpt_tui.checkpoints.state_walk import copy_info
from ckpt_tui.records import dataclass

MAX_LISTED = 1000  # changes of one kind
_PLAIN = (str, int, float, bool, type(None), bytes)
_CONTAINERS = (dict, list, tuple, OpaqueObject, CompositeRef)
_SETS = frozenset({"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"})
_COMPLEX = frozenset({"builtins.complex", "__builtin__.complex"})
_PATHS = ("pathlib.", "pathlib._local.")
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")
SPARSE_LAYOUTS = frozenset({"sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"})
_QUANTIZED = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
_NUMPY_DTYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool", "c8": "complex64", "c16": "complex128",
}  # fmt: skip
_MAX_INT_BITS = 255 * 8 - 1  # what a pickle of protocol 2 that torch opens can hold


class _LeftOut:
    """Stands for a value that is not written."""


_LEFT_OUT = _LeftOut()


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is not written as it was. place: where in the state, keys joined by dots."""

    place: str
    what: str


@dataclass(slots=True)
class InertState:
    """state: plain data and `TensorRef`s with infos of their own. literals: bytes of storages that were no storages
    (numpy arrays), by key. changed: written in another form; left_out: not written at all. kept: what tells the
    tensors of the original that are in it (see `identity`)."""

    state: object = None
    literals: dict[str, bytes] = field(default_factory=dict)
    changed: list[Change] = field(default_factory=list)
    left_out: list[Change] = field(default_factory=list)
    kept: set[object] = field(default_factory=set)


def identity(info: TensorInfo) -> object:
    """The same for two tensors that show the same elements of one storage."""
    return (info.storage, info.offset, info.shape, info.stride, info.dtype) if info.storage else id(info)


def make_inert(
    state: object,
    is_lost: Callable[[TensorInfo], bool],
    assemble: Callable[[ShardedTensor], str],
    dangerous: frozenset[str] = frozenset(),
    limits: ReadLimits = DEFAULT_LIMITS,
    is_big_endian: bool = False,
    only_tensors: bool = False,
) -> InertState:
    """`state` without tensors that are lost: a dict's key is left out with its value, in a list None stands there.

    assemble: gives the key of a new storage in which the pieces of a tensor lie together; "" when one is lost.
    dangerous: names of what the file would call and nobody should; nothing is made of what it gives them.
    only_tensors: leave every other value out.
    """
    maker = _Maker(is_lost, assemble, dangerous, limits, is_big_endian)
    maker.only_tensors = only_tensors
    return maker.make(state)


class _Frame:
    """A container under way. kind: dict, list or tuple; what `finish` makes of it."""

    __slots__ = ("children", "kind", "source", "target")

    def __init__(self, source: object, kind: str, children: Iterator[tuple[object, object]]) -> None:
        self.source = source
        self.kind = kind
        self.children = children
        self.target: dict[object, object] | list[object] = {} if kind == "dict" or kind == "composite" else []


class _Maker:
    def __init__(
        self,
        is_lost: Callable[[TensorInfo], bool],
        assemble: Callable[[ShardedTensor], str],
        dangerous: frozenset[str],
        limits: ReadLimits,
        is_big_endian: bool,
    ) -> None:
        self.is_lost = is_lost
        self.assemble = assemble
        self.dangerous = dangerous
        self.limits = limits
        self.is_big_endian = is_big_endian
        self.only_tensors = False
        self.made = InertState()
        self.done: dict[int, object] = {}  # containers that stand in several places stay one
        self.kept: list[object] = []  # so that no id() is used twice
        self.on_path: set[int] = set()
        self.path: list[object] = []

    def make(self, state: object) -> InertState:
        """One walk without recursion."""
        result = self.leaf(state)
        frames: list[_Frame] = []
        if isinstance(result, _Frame):
            frames.append(result)
        while frames:
            frame = frames[-1]
            for key, child in frame.children:
                self.path.append(key)
                value = self.leaf(child)
                if isinstance(value, _Frame):
                    if len(frames) < self.limits.max_depth:
                        frames.append(value)
                        break
                    self.on_path.discard(id(child))
                    self.left_out("it is nested too deep")
                    value = _LEFT_OUT
                self.path.pop()
                _put(frame, key, value)
            else:
                frames.pop()
                value = self.finished(frame)
                self.on_path.discard(id(frame.source))
                self.done[id(frame.source)] = value
                if not frames:
                    result = value
                else:
                    key = self.path.pop()
                    _put(frames[-1], key, value)
        self.made.state = None if isinstance(result, (_LeftOut, _Frame)) else result
        return self.made

    def leaf(self, value: object) -> object:
        """What is written for a value; a `_Frame` for one whose children have to be looked at first."""
        kind = type(value)
        if self.only_tensors and not isinstance(value, (TensorRef, dict, list, tuple)):
            return _LEFT_OUT
        if kind in _PLAIN:
            if kind is int and isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
                return self.left_out("it is a number that no loader takes")
            return value
        if isinstance(value, StorageRef):
            self.changed("a storage by itself, written as a tensor of one dimension")
            return self.tensor(TensorRef(value.info))
        if kind is TensorRef:
            assert isinstance(value, TensorRef)
            return self.tensor(value)
        if isinstance(value, GlobalName):
            if value.type_name.removeprefix("torch.") in DTYPE_SIZES:
                return value
            return self.left_out(f"it is {value.type_name}, a class or function")
        if kind not in _CONTAINERS:
            return self.left_out(f"it is a {kind.__name__}")
        place = id(value)
        if place in self.on_path:
            return self.left_out("it holds itself")
        if place in self.done:
            return self.done[place]
        self.kept.append(value)
        if isinstance(value, OpaqueObject):
            found = self.from_object(value)
        elif isinstance(value, CompositeRef):
            found = self.composite(value)
        elif isinstance(value, dict):
            found = _Frame(value, "dict", iter(value.items()))
        else:
            assert isinstance(value, (list, tuple))
            found = _Frame(value, "list" if isinstance(value, list) else "tuple", iter(enumerate(value)))
        if isinstance(found, _Frame):
            self.on_path.add(place)
        return found

    # --- tensors

    def tensor(self, value: TensorRef) -> object:
        info = value.info
        if self.is_lost(info):
            return _LEFT_OUT
        copy = copy_info(info)
        copy.name = info.name
        if not info.storage and info.device != "meta":
            return self.left_out("it is a tensor of a subclass, and its elements are not in it")
        if info.dtype in _QUANTIZED:
            copy.dtype = _QUANTIZED[info.dtype]
            self.changed("a quantized tensor, written as its integers: scale and zero point are not known")
        elif info.layout != "strided" or (info.dtype not in DTYPE_SIZES) or info.dtype.startswith("quint"):
            return self.left_out(f"it is a tensor of layout {info.layout}, dtype {info.dtype}")
        self.made.kept.add(identity(info))
        return TensorRef(copy)

    def composite(self, value: CompositeRef) -> object:
        """A tensor made of others: sparse ones as they are, others by their parts."""
        info = value.info
        layout = info.layout
        if isinstance(info, ShardedTensor):
            return self.sharded(value, info)
        if info.storage:
            if any(isinstance(part, TensorRef) for part in value.parts.values()):
                self.changed("a tensor with attributes, written without them")
            return self.tensor(TensorRef(info))
        if layout not in SPARSE_LAYOUTS:
            self.changed(f"a {layout} tensor or one of a subclass, written as a dict of its parts")
            self.made.kept.add(identity(info))
            return _Frame(value, "dict", iter(value.parts.items()))
        return _Frame(value, "composite", iter(value.parts.items()))

    def sharded(self, value: CompositeRef, info: ShardedTensor) -> object:
        """A tensor in pieces: put together when all are whole, else the pieces that are."""
        key = self.assemble(info)
        if key:
            whole = TensorInfo(
                info.name, "", info.shape, info.dtype, info.size_bytes, key, contiguous_stride(info.shape),
                requires_grad=info.requires_grad,
            )  # fmt: skip
            self.made.kept.add(identity(info))
            self.made.kept.update(identity(piece) for _, piece in info.chunks)
            return TensorRef(whole)
        self.changed("a tensor of which pieces are lost, written as those that are not and where each begins")
        parts = {"shape": info.shape, "offsets": [offsets for offsets, _ in info.chunks], **value.parts}
        return _Frame(value, "dict", iter(parts.items()))

    def finished(self, frame: _Frame) -> object:
        target = frame.target
        if self.only_tensors and not any(item is not None for item in _values(target)):
            return _LEFT_OUT
        if frame.kind == "tuple":
            return tuple(target)
        if frame.kind == "set":
            return OpaqueObject("builtins.set", items=[item for item in target if type(item) in _PLAIN])
        if frame.kind == "composite":
            assert isinstance(frame.source, CompositeRef)
            assert isinstance(target, dict)
            if len(target) < len(frame.source.parts) or not target:
                return _LEFT_OUT  # one of its parts is lost
            self.made.kept.add(identity(frame.source.info))
            info = copy_info(frame.source.info)
            info.name = frame.source.info.name
            return CompositeRef(info, -1, target)
        return target

    # --- objects

    def from_object(self, value: OpaqueObject) -> object:
        name = value.type_name
        if name in _COMPLEX or name == "torch.device":
            return value if all(type(item) in _PLAIN for item in value.args) else self.left_out(f"it is {name}")
        if name in _SETS:
            if name.endswith("frozenset"):
                self.changed("a frozenset, written as a set")
            return _Frame(value, "set", iter(enumerate(value.items)))
        if name == "numpy.ndarray":
            return self.array(value)
        if name in self.dangerous:
            return self.left_out(f"it is {name}, which is dangerous")
        if name.startswith(_PATHS):
            words = [word for word in value.args if type(word) is str]
            self.changed("a path, written as text")
            return "/".join(words).replace("//", "/") if words else "."
        state, args = value.state, value.args
        if len(args) == 1 and type(args[0]) in _PLAIN and state is None and not value.items and not value.entries:
            self.changed(f"{name}, written as its value")
            return args[0]
        if value.items and not value.entries and not isinstance(state, dict):
            self.changed(f"{name}, written as a list")
            return _Frame(value, "list", iter(enumerate(value.items)))
        pairs: list[tuple[object, object]] = list(enumerate(args)) if _holds(args) else []
        if isinstance(state, dict):
            parts = [part for part in _MODULE_PARTS if "_modules" in state and isinstance(state.get(part), dict)]
            for part in parts:  # its tensors get the names that its state dict would give them
                pairs += state[part].items()
            pairs += [(key, item) for key, item in state.items() if key not in parts]
        elif state is not None:
            pairs.append(("state", state))
        pairs += [*enumerate(value.items), *value.entries.items()]
        if not pairs:
            return self.left_out(f"it is {name}")
        self.changed(f"{name}, written as a dict of what it holds")
        return _Frame(value, "dict", iter(pairs))

    def array(self, value: OpaqueObject) -> object:
        """A numpy array as a tensor of the same elements, so that no numpy is needed to load it."""
        state = value.state
        if type(state) is tuple and len(state) == 5:
            _, shape, dtype, is_fortran, data = state
            kind = _numpy_dtype(dtype)
            if kind is not None and type(data) is bytes and type(shape) is tuple and len(shape) <= 64:
                info = _array_info(shape, kind[0], is_fortran is True, len(data))
                if info is not None and (kind[1] == self.is_big_endian or DTYPE_SIZES[kind[0]] == 1):
                    key = info.storage = f"array/{len(self.made.literals)}"
                    self.made.literals[key] = data
                    self.changed("a numpy array, written as a tensor")
                    return TensorRef(info)
        return self.left_out("it is a numpy array of a kind that is not known")

    # --- what is said

    def changed(self, what: str) -> None:
        if len(self.made.changed) < MAX_LISTED:
            self.made.changed.append(Change(self.place(), what))

    def left_out(self, what: str) -> _LeftOut:
        if len(self.made.left_out) < MAX_LISTED:
            self.made.left_out.append(Change(self.place(), what))
        return _LEFT_OUT

    def place(self) -> str:
        return ".".join(str(key)[:200] for key in self.path[:64])


def _put(frame: _Frame, key: object, value: object) -> None:
    is_left_out = isinstance(value, _LeftOut)
    if isinstance(frame.target, dict):
        if not is_left_out:
            frame.target[key] = value
    elif frame.kind != "set" or not is_left_out:
        frame.target.append(None if is_left_out else value)


def _values(target: dict[object, object] | list[object]) -> Iterable[object]:
    return target.values() if isinstance(target, dict) else target


def _holds(args: tuple[object, ...]) -> bool:
    """Whether there are tensors, or containers that may hold some, among the arguments of an object."""
    return any(isinstance(item, (TensorRef, dict, list, tuple, OpaqueObject)) for item in args) and not any(
        isinstance(item, GlobalName) for item in args
    )


def _numpy_dtype(value: object) -> tuple[str, bool] | None:
    """(torch's name, is big-endian) of a numpy dtype as a pickle builds it."""
    if not isinstance(value, OpaqueObject) or not value.args:
        return None
    name = _NUMPY_DTYPES.get(str(value.args[0]))
    order = value.state[1] if type(value.state) is tuple and len(value.state) > 1 else "<"
    return (name, order == ">") if name is not None else None


def _array_info(shape: tuple[object, ...], dtype: str, is_fortran: bool, num_bytes: int) -> TensorInfo | None:
    extents = tuple(extent for extent in shape if type(extent) is int and extent >= 0)
    if len(extents) != len(shape) or prod(extents) * DTYPE_SIZES[dtype] != num_bytes:
        return None
    stride = contiguous_stride(extents[::-1])[::-1] if is_fortran else contiguous_stride(extents)
    return TensorInfo("", "", extents, dtype, num_bytes, "", stride)
