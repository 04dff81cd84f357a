"""Plain data as a pickle that `torch.load(weights_only=True)` opens: protocol 2, and only globals that it allows.

What may stand in the data: dict, list, tuple, str, int, float, bool, None, bytes, dtypes, complex numbers, devices,
sets, `TensorRef` and sparse `CompositeRef`. Containers that stand in several places stay one object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

from ckpt_tui.checkpoints.model import DTYPE_SIZES, CompositeRef, OpaqueObject, TensorInfo, TensorRef
from ckpt_tui.checkpoints.pickle_globals import STORAGE_DTYPES
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName

_UINT32 = Struct("<I").pack
_INT32 = Struct("<i").pack
_UINT16 = Struct("<H").pack
_FLOAT64 = Struct(">d").pack
_STORAGE_CLASSES = {dtype: name for name, dtype in STORAGE_DTYPES.items() if name != "UntypedStorage"}
_MAX_SHARED_TEXT = 200  # longer texts are not looked up: they hardly come twice
_MARK, _TUPLE, _REDUCE, _STOP = b"(", b"t", b"R", b"."
_CANNOT_HAVE_GRADIENTS = ("int", "uint", "bool", "bits")


class StorageKeys:
    """Names of storages in the archive, given as tensors ask for them, and how many bytes each has.

    num_bytes: of a storage by the key that tensors know it by. is_typed: False for one that tensors of several
    dtypes share, which torch only takes as bytes.
    """

    def __init__(self, num_bytes: Callable[[str], int], is_typed: Callable[[str], bool]) -> None:
        self.num_bytes = num_bytes
        self.is_typed = is_typed
        self.names: dict[str, str] = {}

    def name(self, key: str) -> str:
        found = self.names.get(key)
        if found is None:
            found = self.names[key] = str(len(self.names))
        return found


def write_pickle(state: object, storages: StorageKeys) -> bytes:
    """The pickle of `state`; `storages.names` then holds every storage that it needs, in order."""
    return _Writer(storages).write(state)


class _Writer:
    def __init__(self, storages: StorageKeys) -> None:
        self.storages = storages
        self.out = bytearray(b"\x80\x02")
        self.memo_of_object: dict[int, int] = {}
        self.remembered: list[object] = []  # kept, so that no id() is used twice
        self.memo_of_text: dict[str, int] = {}
        self.memo_of_global: dict[str, int] = {}
        self.num_memo = 0

    def write(self, state: object) -> bytes:
        """Containers are opened and filled from a stack, so that depth is no matter."""
        waiting: list[Iterator[object]] = [iter((state,))]
        while waiting:
            for value in waiting[-1]:
                children = self.begin(value)
                if children is not None:
                    waiting.append(children)
                    break
            else:
                waiting.pop()
        self.out += _STOP
        return bytes(self.out)

    def begin(self, value: object) -> Iterator[object] | None:
        """Write a leaf, or what opens a container; gives what then has to be written for it."""
        out = self.out
        if isinstance(value, _Raw):
            out += value.code
            if value.remember is not None:
                self.remember(value.remember)
        elif value is None:
            out += b"N"
        elif value is True or value is False:
            out += b"\x88" if value else b"\x89"
        elif type(value) is str:
            self.text(value)
        elif type(value) is int:
            self.integer(value)
        elif type(value) is float:
            out += b"G" + _FLOAT64(value)
        elif type(value) is bytes:
            self.call("_codecs", "encode", (value.decode("latin-1"), "latin1"))
        elif type(value) is TensorRef:
            self.tensor(value.info)
        elif isinstance(value, GlobalName):
            module, _, name = value.type_name.rpartition(".")
            self.global_name(module, name)
        else:
            return self.container(value)
        return None

    def container(self, value: object) -> Iterator[object]:
        out = self.out
        place = self.memo_of_object.get(id(value))
        if place is not None:
            self.get(place)
            return iter(())
        if type(value) is dict:
            out += b"}"
            self.remember(value)
            return _in_mark([part for pair in value.items() for part in pair], b"u") if value else iter(())
        if type(value) is list:
            out += b"]"
            self.remember(value)
            return _in_mark(value, b"e") if value else iter(())
        if type(value) is tuple:
            if not value:
                out += b")"
                return iter(())
            return _in_mark(value, _TUPLE, value)
        if isinstance(value, CompositeRef):
            return self.sparse(value)
        assert isinstance(value, OpaqueObject)
        return self.plain_object(value)

    def plain_object(self, value: OpaqueObject) -> Iterator[object]:
        name = value.type_name
        if name.endswith("complex"):
            self.global_name("__builtin__", "complex")
            return _in_mark(value.args, _TUPLE + _REDUCE, value)
        if name == "torch.device":
            self.global_name("torch", "device")
            return _in_mark(value.args, _TUPLE + _REDUCE, value)
        assert name == "builtins.set", name
        self.global_name("__builtin__", "set")
        return _in_mark((list(value.items),), _TUPLE + _REDUCE, value)

    # --- tensors

    def tensor(self, info: TensorInfo) -> None:
        """One call that rebuilds it; a parameter is one more around that."""
        if info.device == "meta":
            self.global_name("torch._utils", "_rebuild_meta_tensor_no_storage")
            self.out += _MARK
            self.global_name("torch", info.dtype)
            self.numbers(info.shape)
            self.numbers(info.stride)
            self.begin(_has_gradient(info))
            self.out += _TUPLE + _REDUCE
            return
        if info.is_parameter:
            self.global_name("torch._utils", "_rebuild_parameter")
            self.out += _MARK
        storage_class = _STORAGE_CLASSES.get(info.dtype) if self.storages.is_typed(info.storage) else None
        num_bytes = self.storages.num_bytes(info.storage)
        item = DTYPE_SIZES[info.dtype]
        if num_bytes % item:
            storage_class = None
        self.global_name("torch._utils", "_rebuild_tensor_v2" if storage_class else "_rebuild_tensor_v3")
        self.out += _MARK + _MARK
        self.text("storage")
        if storage_class:
            self.global_name("torch", storage_class)
        else:
            self.global_name("torch.storage", "UntypedStorage")
        self.text(self.storages.name(info.storage))
        self.text("cpu")
        self.integer(num_bytes // item if storage_class else num_bytes)
        self.out += _TUPLE + b"Q"
        self.integer(info.offset)
        self.numbers(info.shape)
        self.numbers(info.stride)
        self.begin(_has_gradient(info) and not info.is_parameter)
        self.no_hooks()
        if not storage_class:
            self.global_name("torch", info.dtype)
        bits = {name: True for name, is_set in (("conj", info.is_conj), ("neg", info.is_neg)) if is_set}
        if bits:
            self.out += b"}"
            for name in bits:
                self.text(name)
                self.out += b"\x88s"
        self.out += _TUPLE + _REDUCE
        if info.is_parameter:
            self.begin(_has_gradient(info))
            self.no_hooks()
            self.out += _TUPLE + _REDUCE

    def sparse(self, value: CompositeRef) -> Iterator[object]:
        """torch._utils._rebuild_sparse_tensor(layout, (its parts ..., shape))."""
        info = value.info
        if info.is_parameter:
            self.global_name("torch._utils", "_rebuild_parameter")
            self.out += _MARK
        self.global_name("torch._utils", "_rebuild_sparse_tensor")
        self.out += _MARK
        self.global_name("torch.serialization", "_get_layout")
        self.out += _MARK
        self.text(f"torch.{info.layout}")
        self.out += _TUPLE + _REDUCE + _MARK
        yield from value.parts.values()
        self.numbers(info.shape)
        self.out += _TUPLE + _TUPLE + _REDUCE
        if info.is_parameter:
            self.begin(_has_gradient(info))
            self.no_hooks()
            self.out += _TUPLE + _REDUCE

    def no_hooks(self) -> None:
        self.call("collections", "OrderedDict", ())

    # --- small things

    def call(self, module: str, name: str, arguments: tuple[object, ...]) -> None:
        self.global_name(module, name)
        if arguments:
            self.out += _MARK
            for argument in arguments:
                self.begin(argument)
            self.out += _TUPLE + _REDUCE
        else:
            self.out += b")" + _REDUCE

    def global_name(self, module: str, name: str) -> None:
        full = f"{module}\n{name}\n"
        place = self.memo_of_global.get(full)
        if place is not None:
            self.get(place)
            return
        self.out += b"c" + full.encode()
        self.memo_of_global[full] = self.put()

    def numbers(self, values: tuple[int, ...]) -> None:
        if not values:
            self.out += b")"
            return
        self.out += _MARK
        for value in values:
            self.integer(value)
        self.out += _TUPLE

    def integer(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes((value,))
        elif 0 <= value < 65536:
            self.out += b"M" + _UINT16(value)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"J" + _INT32(value)
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self.out += b"\x8a" + bytes((len(raw),)) + raw

    def text(self, value: str) -> None:
        is_short = len(value) <= _MAX_SHARED_TEXT
        place = self.memo_of_text.get(value) if is_short else None
        if place is not None:
            self.get(place)
            return
        raw = value.encode("utf-8", "surrogatepass")
        self.out += b"X" + _UINT32(len(raw)) + raw
        if is_short:
            self.memo_of_text[value] = self.put()

    def remember(self, value: object) -> None:
        self.remembered.append(value)
        self.memo_of_object[id(value)] = self.put()

    def put(self) -> int:
        place = self.num_memo
        self.num_memo += 1
        self.out += b"q" + bytes((place,)) if place < 256 else b"r" + _UINT32(place)
        return place

    def get(self, place: int) -> None:
        self.out += b"h" + bytes((place,)) if place < 256 else b"j" + _UINT32(place)


class _Raw:
    """Opcodes between children. remember: what then lies on the stack, to be found again."""

    __slots__ = ("code", "remember")

    def __init__(self, code: bytes, remember: object = None) -> None:
        self.code = code
        self.remember = remember


def _in_mark(values: tuple[object, ...] | list[object], end: bytes, remember: object = None) -> Iterator[object]:
    yield _Raw(_MARK)
    yield from values
    yield _Raw(end, remember)


def _has_gradient(info: TensorInfo) -> bool:
    return info.requires_grad and not info.dtype.startswith(_CANNOT_HAVE_GRADIENTS)
