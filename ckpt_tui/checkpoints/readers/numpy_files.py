"""NumPy's files: `.npy`, and `.npz` archives of them, stored or compressed.

Arrays of Python objects are pickles: they are decoded inertly and judged, as `np.load(allow_pickle=True)` would run
what they name. Structured and text arrays stand in the state with their description; their elements are not read.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    Checkpoint,
    Finding,
    GlobalRef,
    OpaqueObject,
    Severity,
    Storage,
    TensorInfo,
    TensorRef,
    Verdict,
)
from ckpt_tui.checkpoints.pickle_decode import decode_pickle
from ckpt_tui.checkpoints.readers.zip_records import HINT, PickleBudget, add_pickle, join_storages, storage_of
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.checkpoints.zip_index import ZipEntry, ZipIndex
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text

MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 64 * 1024  # numpy itself refuses more than 10,000 unless it is told to trust the file
_MAX_EXTENT = 1 << 63
_MAX_FINDINGS = 100
_PEEK_BYTES = 256  # nearly every header is shorter
_DTYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool", "c8": "complex64", "c16": "complex128",
}  # fmt: skip


class _Header:
    """What stands before the elements. num_bytes: how many bytes it takes itself. dtype: torch's name of it, "" when
    torch has none; descr: numpy's."""

    __slots__ = ("descr", "dtype", "is_big_endian", "is_fortran", "num_bytes", "shape")

    def __init__(self, data: bytes) -> None:
        """data: the first bytes of the file. ValueError when they are no header; `needed` says how many it takes."""
        begin, length = _extent(data)
        self.num_bytes = begin + length
        if self.num_bytes > len(data):
            raise ValueError("its header is cut off")
        fields = _literal(data[begin : self.num_bytes].decode("latin-1" if data[6] < 3 else "utf-8"))
        if not isinstance(fields, dict) or not {"descr", "fortran_order", "shape"} <= set(fields):
            raise ValueError("its header does not say shape, order and dtype")
        shape = fields["shape"]
        if not isinstance(shape, tuple) or len(shape) > 64:
            raise ValueError("a shape is a tuple of at most 64 numbers")
        num_elements = 1
        for extent in shape:
            if type(extent) is not int or not 0 <= extent < _MAX_EXTENT:
                raise ValueError("a shape holds whole numbers")
            num_elements *= extent
        if num_elements >= _MAX_EXTENT >> 5:
            raise ValueError("a shape holds fewer elements than that")
        self.shape: tuple[int, ...] = shape
        self.is_fortran = fields["fortran_order"] is True
        self.descr = fields["descr"]
        kind = self.descr if isinstance(self.descr, str) else ""
        self.is_big_endian = kind[:1] == ">"
        self.dtype = _DTYPES.get(kind[1:], "") if kind[:1] in ("<", ">", "|", "=") else ""

    @property
    def strides(self) -> tuple[int, ...]:
        strides, step = [], 1
        for extent in self.shape if self.is_fortran else reversed(self.shape):
            strides.append(step)
            step *= max(extent, 1)
        return tuple(strides if self.is_fortran else reversed(strides))

    @property
    def holds_objects(self) -> bool:
        """Whether numpy would unpickle the elements: also where only one field of a structure is an object."""
        waiting: list[object] = [self.descr]
        while waiting:
            part = waiting.pop()
            if isinstance(part, str):
                if "O" in part or "object" in part:
                    return True
            elif isinstance(part, list):
                waiting += part
            elif isinstance(part, tuple):
                waiting += part[1:]  # the first is the field's name
        return False


def _extent(data: bytes) -> tuple[int, int]:
    """(where the header's text begins, its length in bytes). ValueError when it is no header of numpy's."""
    if data[:6] != MAGIC or len(data) < 12 or data[6] not in (1, 2, 3):
        raise ValueError("it does not begin as NumPy's files do")
    begin = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:begin], "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header claims {count(length)} bytes")
    return begin, length


def _literal(text: str) -> object:
    """A Python literal; nothing is run. ValueError when it is none."""
    from ast import literal_eval

    try:
        found: object = literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"its header is no literal ({safe_text(type(error).__name__)})") from None
    return found


class NumpyReader:
    """A single `.npy`."""

    formats: tuple[str, ...] = ("npz",)

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        return "npz" if head[:6] == MAGIC else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits) -> Checkpoint:
        checkpoint = Checkpoint(path, "npz", file_bytes)
        head = read_exactly(descriptor, min(file_bytes, _MAX_HEADER_BYTES + 16), 0, path)
        try:
            header = _Header(head)
        except ValueError as error:
            raise CkptError("Damaged checkpoint", f"{path}: {safe_text(error)}", HINT) from None
        rest = file_bytes - header.num_bytes
        if header.holds_objects:
            if rest > limits.max_pickle_bytes:
                raise CkptError("Not readable", f"{path}: a pickle of {count(rest)} bytes is more than an array needs")
            decoded = decode_pickle(read_exactly(descriptor, file_bytes, 0, path), path, limits, header.num_bytes)
            checkpoint.state, checkpoint.globals = decoded.root, decoded.globals
        elif not header.dtype:
            checkpoint.state = _described(header)
        else:
            checkpoint.state = _tensor(header, "array", 0)
            storage = Storage("array", "", header.num_bytes, rest, None, header.is_big_endian)
            checkpoint.storages["array"] = storage
        checkpoint.tensors = name_tensors(checkpoint.state, limits, checkpoint.findings)
        _check_sizes(checkpoint)
        return checkpoint


def read(
    descriptor: int, file_bytes: int, path: str, limits: ReadLimits, index: ZipIndex, by_name: dict[str, ZipEntry]
) -> Checkpoint:
    """An archive of them (`np.savez`): an array under the name of each record."""
    checkpoint = Checkpoint(path, "npz", file_bytes, findings=index.findings)
    state: dict[object, object] = {}
    budget = PickleBudget(checkpoint)
    num_bad = 0
    for entry in index.entries:
        name = entry.name.removesuffix(".npy")
        try:
            header = _Header(_first_bytes(descriptor, entry, path))
            if header.holds_objects:
                decoded = add_pickle(descriptor, entry, checkpoint, limits, budget, header.num_bytes)
                value = _described(header) if isinstance(decoded, CkptError) else decoded.root
            else:
                value = _array(header, entry, checkpoint)
        except (ValueError, CkptError) as error:
            num_bad += 1
            if num_bad <= _MAX_FINDINGS:
                message = (error.message if isinstance(error, CkptError) else str(error)).removeprefix(f"{path}: ")
                finding = Finding("unreadable-array", Severity.ERROR, entry.name, safe_text(message), HINT)
                checkpoint.findings.append(finding)
            if num_bad == 1:
                reason = "an array that could not be read: whether it is a pickle is not known"
                checkpoint.globals.append(GlobalRef(entry.name, Verdict.UNKNOWN, reason, path))
            continue
        state.setdefault(name, value)  # a second one of this name is a finding of the index
    if not state:
        first = next(
            (f"{f.where}: {f.message}" for f in index.findings if f.code == "unreadable-array"), "there is none"
        )
        raise CkptError("Damaged checkpoint", f"{path}: none of its arrays is readable: {first}", HINT)
    checkpoint.state = state
    checkpoint.tensors = name_tensors(state, limits, checkpoint.findings)
    join_storages(checkpoint, "", by_name)
    return checkpoint


READER = NumpyReader()


def _first_bytes(descriptor: int, entry: ZipEntry, path: str) -> bytes:
    """The beginning of a record, as much as its header takes."""
    if entry.offset is None:
        raise ValueError("it has no bytes to read")
    wanted = _PEEK_BYTES
    while True:
        if entry.method == 0:
            data = read_exactly(descriptor, min(wanted, entry.size_bytes), entry.offset, path)
        elif entry.method == 8:
            from zlib import decompressobj, error

            packed = read_exactly(descriptor, min(2 * wanted + 512, entry.compressed_bytes), entry.offset, path)
            try:
                data = decompressobj(-15).decompress(packed, wanted)
            except error as problem:
                raise ValueError(f"does not decompress: {problem}") from None
        else:
            raise ValueError(f"it is compressed by method {entry.method}")
        needed = sum(_extent(data))
        if needed <= len(data) or wanted > needed:
            return data
        wanted = needed + 1


def _array(header: _Header, entry: ZipEntry, checkpoint: Checkpoint) -> object:
    """An array of numbers as a tensor whose storage is the whole record: the header counts as its first elements,
    which is how the record's checksum covers it."""
    if not header.dtype:
        return _described(header)
    item = DTYPE_SIZES[header.dtype]
    key = entry.name
    if header.num_bytes % item == 0:
        storage = storage_of(entry, key, header.is_big_endian)
        start = header.num_bytes // item
    elif entry.method == 0:
        assert entry.offset is not None
        size = entry.size_bytes - header.num_bytes
        storage, start = Storage(key, "", entry.offset + header.num_bytes, size, None, header.is_big_endian), 0
    else:
        raise ValueError("it is compressed, and its elements do not begin at a multiple of their size")
    checkpoint.storages.setdefault(key, storage)
    return _tensor(header, key, start)


def _tensor(header: _Header, key: str, start: int) -> TensorRef:
    num_bytes = DTYPE_SIZES[header.dtype]
    for extent in header.shape:
        num_bytes *= extent
    return TensorRef(TensorInfo("", "", header.shape, header.dtype, num_bytes, key, header.strides, start))


def _described(header: _Header) -> OpaqueObject:
    """An array whose elements are no numbers of torch's: its shape, and its dtype as numpy writes it."""
    return OpaqueObject("numpy.ndarray", (header.shape, safe_text(header.descr, 2000)))


def _check_sizes(checkpoint: Checkpoint) -> None:
    """Say when a single file has fewer bytes than its array needs, or more."""
    for tensor in checkpoint.tensors:
        have = checkpoint.storages[tensor.storage].size_bytes if tensor.storage in checkpoint.storages else None
        if have is None or have == tensor.size_bytes:
            continue
        if have < tensor.size_bytes:
            message = f"it needs {count(tensor.size_bytes)} bytes, {count(have)} are there: it is cut short"
            checkpoint.findings.append(Finding("short-storage", Severity.ERROR, tensor.name, message, HINT))
        else:
            message = f"{count(have - tensor.size_bytes)} bytes follow the array"
            checkpoint.findings.append(Finding("trailing-data", Severity.WARNING, tensor.name, message))
