"""What the globals that we understand build, as inert data: tensors as `TensorRef`, containers, plain values.

A builder gets the arguments that the pickle gives to a global. It raises TypeError or ValueError when they make no
sense; the machine then keeps the call as an `OpaqueObject`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ckpt_tui.checkpoints.model import DTYPE_SIZES, CompositeRef, OpaqueObject, TensorInfo, TensorRef
from ckpt_tui.checkpoints.pickle_globals import STORAGE_DTYPES

_MAX_DIMENSIONS = 64
_MAX_EXTENT = 1 << 63
_MAX_ATTRIBUTES = 64  # of a tensor; more are listed, but not looked at before
_ALIASES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32", "short": "int16",
    "cfloat": "complex64", "cdouble": "complex128",
}  # fmt: skip
_NUMPY_CODES = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H",
    "u1": "B", "b1": "?",
}  # fmt: skip


class GlobalName(OpaqueObject):
    """A global that the pickle names. In the decoded state it stands for itself: a dtype, a class, a function."""

    __slots__ = ("builder", "copies")

    def __init__(self, type_name: str) -> None:
        super().__init__(type_name)
        self.builder = BUILDERS.get(type_name)
        self.copies = type_name in COPYING


_NOT_NAMED = TensorInfo("", "", (), "uint8", 0, "", ())


class StorageRef(TensorRef):
    """A storage as a persistent id names it; `num_elements` as claimed, in elements of `dtype`.

    One that stands in the state by itself is listed as a tensor of one dimension: `as_tensor` is called for it.
    """

    __slots__ = ("device", "dtype", "key", "num_elements")

    def __init__(self, key: str, dtype: str, device: str, num_elements: int) -> None:
        self.key = key
        self.dtype = dtype
        self.device = device
        self.num_elements = num_elements
        self.info = _NOT_NAMED
        self.index = -1

    def as_tensor(self) -> TensorInfo:
        """All of its elements."""
        num_elements = min(max(self.num_elements, 0), _MAX_EXTENT - 1)
        num_bytes = num_elements * DTYPE_SIZES.get(self.dtype, 0)
        return TensorInfo("", "", (num_elements,), self.dtype, num_bytes, "data/" + self.key, (1,), 0, self.device)


def resolve_persistent_id(value: object) -> object:
    """A `StorageRef` for ('storage', class, key, location, numel), an `OpaqueObject` for anything else."""
    if type(value) is tuple and len(value) >= 5 and value[0] == "storage":
        kind, key, device, num_elements = value[1:5]
        if (
            isinstance(kind, GlobalName)
            and type(key) in (str, int)
            and type(device) is str
            and type(num_elements) is int
        ):
            dtype = STORAGE_DTYPES.get(kind.type_name.rpartition(".")[2])
            if dtype is not None:
                return StorageRef(str(key), dtype, device, num_elements)
    return OpaqueObject("persistent id", (value,))


class MalformedTensor(ValueError):  # noqa: N818 - caught by the machine, never seen by a person
    """A tensor on a real storage whose shape, strides or offset no tensor can have: torch would refuse it."""


def _extents(value: object) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > _MAX_DIMENSIONS:
        raise MalformedTensor("a shape must be a tuple of at most 64 numbers")
    for extent in value:
        if type(extent) is not int or not 0 <= extent < _MAX_EXTENT:
            raise MalformedTensor("a shape must hold whole numbers")
    return value


def _size_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of that shape; 0 for a dtype whose elements we cannot size."""
    num_elements = 1
    for extent in shape:
        num_elements *= extent
        if num_elements >= _MAX_EXTENT:
            raise MalformedTensor("a shape must hold less than 2^63 elements")
    return num_elements * DTYPE_SIZES.get(dtype, 0)


def dtype_name(value: object) -> str:
    """torch's name of a dtype that a pickle names as a global."""
    if isinstance(value, GlobalName) and value.type_name.startswith("torch."):
        name = value.type_name[6:]
        # Dtypes of a later torch are named, too; but it goes to the screen as it is.
        if name.isascii() and name.isidentifier() and len(name) <= 32:
            return _ALIASES.get(name, name)
    raise ValueError("not a dtype")


def _tensor(
    storage: object, offset: object, size: object, stride: object, requires_grad: object, dtype: str | None = None
) -> TensorRef:
    if type(storage) is not StorageRef:
        raise ValueError("a tensor needs a storage")
    shape, strides = _extents(size), _extents(stride)
    if len(shape) != len(strides) or type(offset) is not int or not 0 <= offset < _MAX_EXTENT:
        raise MalformedTensor("shape, strides and offset do not fit together")
    if dtype is None:
        dtype = storage.dtype
    num_bytes = _size_bytes(shape, dtype)
    return TensorRef(
        TensorInfo(
            "",
            "",
            shape,
            dtype,
            num_bytes,
            "data/" + storage.key,
            strides,
            offset,
            storage.device,
            "strided",
            requires_grad is True,
        )
    )


def _with_bits(tensor: TensorRef, metadata: tuple[object, ...]) -> TensorRef:
    """Mark a tensor with torch's lazy bits, which stand in a dict behind its other arguments."""
    bits = metadata[0]
    if type(bits) is dict:
        tensor.info.is_conj = bits.get("conj") is True
        tensor.info.is_neg = bits.get("neg") is True
    return tensor


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object) -> object:
    return _tensor(storage, offset, size, stride, False)


def _rebuild_tensor_v2(
    storage: object, offset: object, size: object, stride: object, requires_grad: object = False,
    _hooks: object = None, *metadata: object,
) -> object:  # fmt: skip
    tensor = _tensor(storage, offset, size, stride, requires_grad)
    return _with_bits(tensor, metadata) if metadata else tensor


def _rebuild_tensor_v3(
    storage: object, offset: object, size: object, stride: object, requires_grad: object, _hooks: object,
    dtype: object, *metadata: object,
) -> object:  # fmt: skip
    tensor = _tensor(storage, offset, size, stride, requires_grad, dtype_name(dtype))
    return _with_bits(tensor, metadata) if metadata else tensor


def _rebuild_qtensor(
    storage: object, offset: object, size: object, stride: object, quantizer: object, requires_grad: object,
    *_: object,
) -> object:  # fmt: skip
    tensor = _tensor(storage, offset, size, stride, requires_grad)
    if type(quantizer) is tuple and len(quantizer) == 4:  # per channel: (scheme, scales, zero points, axis)
        return CompositeRef(tensor.info, -1, {"scales": quantizer[1], "zero_points": quantizer[2]})
    return tensor


def _rebuild_meta(dtype: object, size: object, stride: object, requires_grad: object) -> object:
    shape, name = _extents(size), dtype_name(dtype)
    num_bytes = _size_bytes(shape, name)
    return TensorRef(
        TensorInfo("", "", shape, name, num_bytes, "", _extents(stride), 0, "meta", "strided", requires_grad is True)
    )


def _rebuild_parameter(data: object, requires_grad: object = True, *_: object) -> object:
    if not isinstance(data, TensorRef) or type(data) is StorageRef:
        raise ValueError("a parameter needs a tensor")
    old = data.info
    info = TensorInfo(
        "",
        "",
        old.shape,
        old.dtype,
        old.size_bytes,
        old.storage,
        old.stride,
        old.offset,
        old.device,
        old.layout,
        requires_grad is True,
        True,
        False,
        old.is_conj,
        old.is_neg,
    )
    return CompositeRef(info, -1, data.parts) if type(data) is CompositeRef else TensorRef(info)


def _rebuild_parameter_with_state(
    data: object, requires_grad: object = True, _hooks: object = None, state: object = None, *_: object
) -> object:
    return _with_attributes(_rebuild_parameter(data, requires_grad), state)


def _rebuild_from_type(function: object, _type: object, arguments: object, state: object) -> object:
    """A tensor with attributes or of a subclass: the tensor that is in it. One level: the function is a rebuild."""
    if not isinstance(function, GlobalName) or function.builder is None or function.builder is _rebuild_from_type:
        raise ValueError("not a function that rebuilds a tensor")
    if type(arguments) is not tuple or function.copies:
        raise ValueError("not a function that rebuilds a tensor")
    return _with_attributes(function.builder(*arguments), state)


def _with_attributes(tensor: object, state: object) -> object:
    """A tensor and what its Python object carries beside it: attributes, or (attributes, slots) as of a DTensor."""
    found = state if type(state) is tuple and len(state) == 2 else (state,)
    groups = [group for group in found if type(group) is dict and group]
    if not isinstance(tensor, TensorRef) or not groups:
        return tensor
    if any(group.get("_is_param") is True for group in groups):
        tensor.info.is_parameter = True
    # A hostile pickle calls this with the same large dict again and again: it is neither searched nor copied.
    groups = [group for group in groups if len(group) > _MAX_ATTRIBUTES or any(map(_can_hold, group.values()))]
    if tensor.info.layout == "jagged" or not groups:
        return tensor  # a jagged tensor's attributes are its components again
    if type(tensor) is CompositeRef:
        groups.insert(0, tensor.parts)
    if len(groups) == 1:
        return CompositeRef(tensor.info, -1, groups[0])
    if all(len(group) <= _MAX_ATTRIBUTES for group in groups):
        return CompositeRef(tensor.info, -1, {name: part for group in groups for name, part in group.items()})
    return CompositeRef(tensor.info, -1, dict(enumerate(groups)))


def _can_hold(value: object) -> bool:
    return isinstance(value, (TensorRef, OpaqueObject, dict, list, tuple))


# --- tensors made of others


def _info(value: object) -> TensorInfo:
    if type(value) not in (TensorRef, CompositeRef):
        raise ValueError("not a tensor")
    assert isinstance(value, TensorRef)
    return value.info


def _composite(shape: tuple[int, ...], like: TensorInfo, layout: str, parts: dict[object, object]) -> CompositeRef:
    num_bytes = _size_bytes(shape, like.dtype)
    info = TensorInfo("", "", shape, like.dtype, num_bytes, "", (), 0, like.device, layout, like.requires_grad)
    return CompositeRef(info, -1, {name: part for name, part in parts.items() if isinstance(part, TensorRef)})


def _rebuild_sparse(layout: object, data: object) -> object:
    name = layout.type_name.removeprefix("torch.") if isinstance(layout, OpaqueObject) else ""
    if type(data) is not tuple or name not in _SPARSE_PARTS:
        return OpaqueObject("torch.sparse tensor", (layout, data))
    names = _SPARSE_PARTS[name]
    if len(data) <= len(names):
        raise ValueError("its parts are missing")
    return _composite(
        _extents(data[len(names)]), _info(data[len(names) - 1]), name, dict(zip(names, data, strict=False))
    )


_SPARSE_PARTS = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow_indices", "col_indices", "values"),
    "sparse_bsr": ("crow_indices", "col_indices", "values"),
    "sparse_csc": ("ccol_indices", "row_indices", "values"),
    "sparse_bsc": ("ccol_indices", "row_indices", "values"),
}


def _rebuild_nested(buffer: object, sizes: object, strides: object, offsets: object) -> object:
    values = _info(buffer)
    parts: dict[object, object] = {"values": buffer, "sizes": sizes, "strides": strides, "offsets": offsets}
    return _composite(values.shape, values, "nested", parts)


def _rebuild_jagged(arguments: object) -> object:
    if type(arguments) is not dict:
        raise ValueError("not its arguments")
    values = _info(arguments.get("values"))
    parts: dict[object, object] = {name: arguments.get(name) for name in ("values", "offsets", "lengths")}
    return _composite(values.shape, values, "jagged", parts)


def _rebuild_wrapper(
    _class: object, dtype: object, size: object, stride: object, offset: object, layout: object, device: object,
    requires_grad: object, *_: object,
) -> object:  # fmt: skip
    """A subclass that holds other tensors (quantized, distributed): they are in its attributes."""
    shape, name = _extents(size), dtype_name(dtype)
    words = device.args if isinstance(device, OpaqueObject) else ()
    place = ":".join(str(word) for word in words[:2] if type(word) in (str, int)) or "cpu"
    kind = layout.type_name.removeprefix("torch.") if isinstance(layout, OpaqueObject) else "strided"
    num_bytes = _size_bytes(shape, name)
    start = offset if type(offset) is int and 0 <= offset < _MAX_EXTENT else 0
    return TensorRef(
        TensorInfo("", "", shape, name, num_bytes, "", _extents(stride), start, place, kind, requires_grad is True)
    )


def _rebuild_on_device(data: object, _dtype: object, device: object, requires_grad: object) -> object:
    """A tensor of a device without storages of its own (XLA): its elements as they were on the CPU."""
    info = _info(data)
    if type(device) is str:
        info.device = device
    info.requires_grad = requires_grad is True
    return data


def _layout(name: object) -> object:
    return OpaqueObject(name if type(name) is str and len(name) < 64 else "torch.layout")


def _tagged(value: object, *_type: object) -> object:
    """A value that TorchScript marks with its type."""
    return value


def _mapping(items: object = (), *_: object) -> object:
    if type(items) is dict:
        return dict(items)
    if type(items) not in (list, tuple):
        raise ValueError("not pairs")
    assert isinstance(items, (list, tuple))
    pairs: dict[object, object] = {}
    for pair in items:
        key, value = pair
        if type(key) is not str:
            raise ValueError("not names")
        pairs[key] = value
    return pairs


def _default_dict(_factory: object = None, items: object = (), *_: object) -> object:
    return _mapping(items)


def _size(extents: object = ()) -> object:
    if type(extents) is tuple:
        return extents
    if type(extents) is list:
        return tuple(extents)
    raise ValueError("not a size")


def _encode(string: object, encoding: object = "utf-8", *_: object) -> object:
    if type(string) is not str or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise ValueError("not text")
    return string.encode(str(encoding), "surrogatepass" if str(encoding).startswith("utf") else "strict")


def _bytes(value: object = b"", encoding: object = "latin-1", *_: object) -> object:
    if type(value) is bytes:
        return value
    return _encode(value, encoding)


def _text(value: object = "", *_: object) -> object:
    if type(value) is not str:
        raise ValueError("not text")
    return value


def _complex(real: object = 0.0, imaginary: object = 0.0) -> object:
    return OpaqueObject("builtins.complex", (real, imaginary))


def _numpy_scalar(dtype: object, data: object = b"", *_: object) -> object:
    """A numpy scalar as the plain number that it is."""
    if type(dtype) is not OpaqueObject or type(data) is not bytes or not dtype.args:
        raise ValueError("not a number")
    code = _NUMPY_CODES.get(str(dtype.args[0])[:3])
    if code is None:
        raise ValueError("not a number")
    order = dtype.state[1] if type(dtype.state) is tuple and len(dtype.state) > 1 else "<"
    number: object = struct.unpack((">" if order == ">" else "<") + code, data)[0]
    return number


def _numpy_array(*_: object) -> object:
    return OpaqueObject("numpy.ndarray")


BUILDERS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_qtensor": _rebuild_qtensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter_with_state,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta,
    "torch._utils._rebuild_sparse_tensor": _rebuild_sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _rebuild_sparse,
    "torch._utils._rebuild_nested_tensor": _rebuild_nested,
    "torch._utils._rebuild_wrapper_subclass": _rebuild_wrapper,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _rebuild_on_device,
    "torch.nested._internal.nested_tensor._rebuild_njt": _rebuild_jagged,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.serialization._get_layout": _layout,
    **{
        f"torch.jit._pickle.{name}": _tagged
        for name in ("restore_type_tag", "build_intlist", "build_boollist", "build_doublelist", "build_tensorlist")
    },
    "torch.Size": _size,
    "torch.torch_version.TorchVersion": _text,
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _mapping,
    "builtins.dict": _mapping,
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "builtins.str": _text,
    "builtins.complex": _complex,
    "__builtin__.dict": _mapping,
    "__builtin__.bytearray": _bytes,
    "__builtin__.bytes": _bytes,
    "__builtin__.complex": _complex,
    "_codecs.encode": _encode,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray._reconstruct": _numpy_array,
}

# Builders whose result takes memory by the size of their argument: the machine counts what they make.
COPYING = frozenset(
    name for name, builder in BUILDERS.items() if builder in (_mapping, _default_dict, _size, _encode, _bytes)
)
