"""Arrays and tensors whose bytes lie in the pickle itself: numpy's, and torch's where it was pickled plainly.

torch gives each storage as `_load_from_bytes(a whole file in its format before 1.6)`: that file is decoded inertly
where it lies. Elements are never read here; a storage says where in the file they are.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import DTYPE_SIZES, Finding, GlobalRef, OpaqueObject, Storage, TensorInfo, TensorRef
from ckpt_tui.checkpoints.pickle_globals import FROM_BUFFER
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName
from ckpt_tui.checkpoints.pickle_source import DistantBytes, MemorySource, PickleSource
from ckpt_tui.errors import CkptError

_MAX_DIMENSIONS = 64
_MAX_BYTES = 1 << 62
_NUMPY_DTYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool", "c8": "complex64", "c16": "complex128",
}  # fmt: skip


class InPlace:
    """What was found in one pickle. `places`: where in the source a bytes value lies, by the value's id."""

    def __init__(self, source: PickleSource, record: str, limits: ReadLimits) -> None:
        self.source = source
        self.record = record
        self.limits = limits
        self.places: dict[int, tuple[object, int]] = {}
        self.storages: dict[str, Storage] = {}
        self.findings: list[Finding] = []
        self.globals: list[GlobalRef] = []
        self.opened: set[int] = set()  # ids of the bytes values that were decoded here
        self.num_opened = 0
        self.num_opened_bytes = 0

    def call(self, name: str, arguments: tuple[object, ...]) -> object:
        """What a call of torch's opener, or of numpy's for a buffer, gives; None when it cannot be decoded."""
        if name in FROM_BUFFER:
            if len(arguments) != 4:
                return None
            raw, dtype, shape, order = arguments
            return self._array(shape, dtype, order == "F", raw)
        return self._opened(arguments[0]) if len(arguments) == 1 else None

    def array(self, state: object) -> TensorRef | None:
        """The array that BUILD gives (version, shape, dtype, is Fortran order, raw bytes); None for one of objects."""
        if type(state) is not tuple or len(state) != 5:
            return None
        _version, shape, dtype, is_fortran, raw = state
        return self._array(shape, dtype, is_fortran is True, raw)

    def _array(self, shape: object, dtype: object, is_fortran: bool, raw: object) -> TensorRef | None:
        kind = _dtype(dtype)
        if kind is None or type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
            return None
        name, is_big_endian = kind
        num_bytes = DTYPE_SIZES[name]
        strides = [1] * len(shape)
        step = 1
        order = range(len(shape)) if is_fortran else range(len(shape) - 1, -1, -1)
        for axis in order:
            extent = shape[axis]
            if type(extent) is not int or extent < 0:
                return None
            strides[axis] = step
            step *= max(extent, 1)
            num_bytes *= extent
            if num_bytes >= _MAX_BYTES or step >= _MAX_BYTES:
                return None
        start, length = self._place(raw)
        if length is not None and length != num_bytes:
            return None
        key = f"array/{len(self.storages)}" if start is None else f"array/{start}"
        self.storages[key] = Storage(key, "", start, num_bytes, None, is_big_endian)
        return TensorRef(TensorInfo("", "", shape, name, num_bytes, key, tuple(strides)))

    def _place(self, raw: object) -> tuple[int | None, int | None]:
        """Where a bytes value lies in the file, and how long it is; None for what is not known."""
        if type(raw) is DistantBytes:
            is_plain = raw.type_name == "builtins.bytes"
            return (raw.source.place(raw.offset), raw.num_bytes) if is_plain else (None, None)
        if isinstance(raw, (bytes, str)):
            found = self.places.get(id(raw))
            return (self.source.place(found[1]) if found is not None else None), len(raw)
        return None, None

    def _opened(self, raw: object) -> object:
        """The object in a torch file that lies here as bytes."""
        if isinstance(raw, bytes):
            found = self.places.get(id(raw))
            source, start, num_bytes = self.source, found[1] if found is not None else 0, len(raw)
            if found is None:
                source = MemorySource(raw, self.source.path)
        elif type(raw) is DistantBytes and raw.type_name == "builtins.bytes":
            source, start, num_bytes = raw.source, raw.offset, raw.num_bytes
        else:
            return None
        # Each honest one is opened once: a hostile pickle names the same bytes a million times.
        self.num_opened_bytes += num_bytes
        if self.num_opened_bytes > 2 * self.source.end + 4096:
            return None
        from ckpt_tui.checkpoints.readers.torch_legacy import LegacyFile, begins_like_legacy

        source = source.until(start + num_bytes)
        if not begins_like_legacy(source.read(start, 256)):
            return None
        self.num_opened += 1
        prefix = f"{self.num_opened}/"
        try:
            nested = LegacyFile(source, start, f"{self.record}: bytes at {start:,}", self.limits, prefix, 1)
        except CkptError:
            return None
        self.opened.add(id(raw))
        self.storages.update(nested.storages)
        self.findings += nested.findings
        self.globals += nested.globals
        return OpaqueObject("builtins.NoneType") if nested.root is None else nested.root  # None means: not decoded


def _dtype(value: object) -> tuple[str, bool] | None:
    """torch's name of a numpy dtype, and whether it is big-endian; None for those that torch has not."""
    if type(value) is not OpaqueObject or value.type_name != "numpy.dtype" or not value.args:
        return None
    code = value.args[0]
    if type(code) is GlobalName and code.type_name.startswith("ml_dtypes."):
        name: str | None = code.type_name[10:]
    else:
        name = _NUMPY_DTYPES.get(code) if type(code) is str else None
    if name is None or name not in DTYPE_SIZES:
        return None
    state = value.state
    return name, type(state) is tuple and len(state) > 1 and state[1] == ">"
