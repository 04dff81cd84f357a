"""The tar archives of torch before 0.1.10, which torch still opens: members sys_info, pickle, tensors, storages.

`storages` is a pickled number, then per storage a pickle (key, location, class), an int64 count and the elements, and
at the end a pickled list of views. `tensors` is alike: (key, key of its storage, class), then shape, strides, offset.
`pickle` names both by persistent ids. Nothing is extracted; nothing but the headers of the archive has a checksum.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import unpack

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    Checkpoint,
    Finding,
    OpaqueObject,
    Severity,
    Storage,
    TensorInfo,
    TensorRef,
)
from ckpt_tui.checkpoints.pickle_decode import UnsoundPickleError, decode_stream
from ckpt_tui.checkpoints.pickle_globals import STORAGE_DTYPES
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName, StorageRef, resolve_persistent_id
from ckpt_tui.checkpoints.pickle_source import PickleSource
from ckpt_tui.checkpoints.readers.lost_tensors import note_lost_tensors
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text

_BLOCK = 512
_MEMBERS = ("sys_info", "storages", "tensors", "pickle")  # in the order in which they explain each other
_MAX_HEADERS = 1000
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 1 << 62
_HINT = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


class TorchTarReader:
    """`torch.save` of early 2017 and before."""

    formats: tuple[str, ...] = ("torch-tar",)

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        if head[257:262] != b"ustar" or not _is_header(head[:_BLOCK]):
            return None
        # Another archive is none of ours; one that begins with a note on its first member may be.
        name = head[:100].rstrip(b"\0").decode("latin-1")
        return "torch-tar" if name in _MEMBERS or head[156:157] in (b"x", b"g") else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits) -> Checkpoint:
        checkpoint = Checkpoint(path, "torch-tar", file_bytes)
        _TarFile(descriptor, checkpoint, limits).read()
        checkpoint.tensors = name_tensors(checkpoint.state, limits, checkpoint.findings)
        note_lost_tensors(checkpoint)
        return checkpoint


class _TarFile:
    def __init__(self, descriptor: int, checkpoint: Checkpoint, limits: ReadLimits) -> None:
        self.descriptor = descriptor
        self.checkpoint = checkpoint
        self.limits = limits
        self.objects: dict[int, object] = {}  # what a persistent id stands for
        self.named: set[str] = set()
        self.position = 0

    def read(self) -> None:
        members = self.members()
        missing = [name for name in _MEMBERS if name not in members]
        if "pickle" in missing:
            raise CkptError(
                "Damaged checkpoint" if len(missing) < len(_MEMBERS) else "Not a checkpoint",
                f"{self.checkpoint.path} is a tar archive without {', '.join(missing)}: cut short, or not torch's",
                _HINT,
            )
        for name in missing:
            self.note("missing-record", Severity.ERROR, name, "it is not in the archive", _HINT)
        steps: dict[str, Callable[[int], None]] = {
            "sys_info": self.read_sys_info, "storages": self.read_storages, "tensors": self.read_tensors,
            "pickle": self.read_object,
        }  # fmt: skip
        for name in _MEMBERS:
            # Of several with one name torch opens the last; each is decoded, because each may be opened.
            for number, (start, end) in enumerate(members.get(name, ())):
                if number:
                    words = f"the archive holds {name} again: torch opens the last one"
                    self.note("duplicate-record", Severity.WARNING, name, words, _HINT)
                self.position = start
                try:
                    steps[name](min(end, self.checkpoint.size_bytes))
                except UnsoundPickleError as error:
                    if name == "pickle" and number == len(members[name]) - 1:
                        raise
                    self.take(error)
                    message = error.message.removeprefix(f"{self.checkpoint.path}: ")
                    self.note("unreadable-pickle", Severity.ERROR, name, message, _HINT)

    def members(self) -> dict[str, list[tuple[int, int]]]:
        """Where the members that torch opens begin and end; the end may lie beyond the file's."""
        found: dict[str, list[tuple[int, int]]] = {}
        file_bytes, path = self.checkpoint.size_bytes, self.checkpoint.path
        position = 0
        for _ in range(_MAX_HEADERS):
            if position + _BLOCK > file_bytes:
                self.note("truncated", Severity.ERROR, f"byte {count(file_bytes)}", "the archive has no end", _HINT)
                return found
            header = read_exactly(self.descriptor, _BLOCK, position, path)
            if not header.strip(b"\0"):
                return found
            if not _is_header(header):
                words = "the archive goes on with something that is no header: what follows cannot be found"
                self.note("damaged-record", Severity.ERROR, f"byte {count(position)}", words, _HINT)
                return found
            size_bytes = _number(header[124:136])
            start = position + _BLOCK
            name = header[:100].rstrip(b"\0").decode("utf-8", "replace")
            kind = header[156:157]
            if name in _MEMBERS:
                if kind not in (b"0", b"\0"):
                    raise CkptError("Not readable", f"{path}: {name} is no regular member of the archive", _HINT)
                found.setdefault(name, []).append((start, start + size_bytes))
                if start + size_bytes > file_bytes:
                    words = f"the file ends {count(start + size_bytes - file_bytes)} bytes before {name} does"
                    self.note("truncated", Severity.ERROR, f"byte {count(file_bytes)}", words, _HINT)
                    return found
            position = start + (size_bytes + _BLOCK - 1) // _BLOCK * _BLOCK
        raise CkptError("Not readable", f"{path}: it has more than {count(_MAX_HEADERS)} members")

    def read_sys_info(self, end: int) -> None:
        value = self.pickle("sys_info", end)
        if isinstance(value, dict) and type(value.get("little_endian")) is bool:
            self.checkpoint.metadata["written_on"] = "little-endian" if value["little_endian"] else "big-endian"

    def read_storages(self, end: int) -> None:
        self.checkpoint.storages.clear()
        for _ in range(self.number("storages", end)):
            described = self.pickle("storages", end)
            if not isinstance(described, tuple) or len(described) != 3 or self.position + 8 > end:
                self.cut("storages")
                return
            key, location, kind = described
            claimed = int.from_bytes(self.bytes(8), "little", signed=True)
            dtype = STORAGE_DTYPES.get(kind.type_name.rpartition(".")[2]) if type(kind) is GlobalName else None
            if type(key) is not int or dtype is None or not 0 <= claimed < _MAX_ELEMENTS:
                words = f"a storage with the key {safe_text(key, 40)} makes no sense: what follows cannot be found"
                self.note("odd-storage-size", Severity.ERROR, f"byte {count(self.position)}", words, _HINT)
                return
            num_bytes = claimed * DTYPE_SIZES[dtype]
            left = max(min(num_bytes, end - self.position), 0)
            self.store(str(key), self.position, left)
            self.objects[key] = StorageRef(str(key), dtype, location if type(location) is str else "cpu", claimed)
            self.position += num_bytes
            if left < num_bytes:
                self.cut("storages")
                return
        views = self.pickle("storages", end)
        for view in views if isinstance(views, list) else ():
            self.add_view(view)

    def add_view(self, view: object) -> None:
        """(key, key of the root, first element, number of elements)"""
        if type(view) is not tuple or len(view) != 4 or any(type(item) is not int for item in view):
            return
        key, root_key, first, num_elements = view
        root = self.objects.get(root_key)
        if type(root) is StorageRef and first >= 0 and num_elements >= 0 and first + num_elements <= root.num_elements:
            item = DTYPE_SIZES[root.dtype]
            whole = self.checkpoint.storages[f"data/{root.key}"]
            start, num_bytes = first * item, num_elements * item
            if whole.offset is not None:
                self.store(str(key), whole.offset + start, max(min(num_bytes, whole.size_bytes - start), 0))
            self.objects[key] = StorageRef(str(key), root.dtype, root.device, num_elements)

    def read_tensors(self, end: int) -> None:
        for _ in range(self.number("tensors", end)):
            described = self.pickle("tensors", end)
            if not isinstance(described, tuple) or len(described) != 3 or self.position + 16 > end:
                self.cut("tensors")
                return
            key, storage_key, kind = described
            num_dimensions = unpack("<i", self.bytes(8)[:4])[0]
            needed = 16 * num_dimensions + 8
            if not 0 <= num_dimensions <= _MAX_DIMENSIONS or self.position + needed > end or type(key) is not int:
                self.cut("tensors")
                return
            numbers = unpack(f"<{2 * num_dimensions + 1}q", self.bytes(needed))
            shape, stride, first = numbers[:num_dimensions], numbers[num_dimensions:-1], numbers[-1]
            tensor = self.tensor(storage_key, kind, shape, stride, first)
            if tensor is None:
                words = "a tensor has a shape or strides that no tensor can have"
                self.note("malformed-tensor", Severity.ERROR, f"byte {count(self.position)}", words, _HINT)
            else:
                self.objects[key] = tensor

    def tensor(
        self, storage_key: object, kind: object, shape: tuple[int, ...], stride: tuple[int, ...], first: int
    ) -> TensorRef | None:
        storage = self.objects.get(storage_key) if type(storage_key) is int else None
        device, dtype, key = "cpu", None, ""
        if type(storage) is StorageRef:
            device, dtype, key = storage.device, storage.dtype, f"data/{storage.key}"
        elif type(kind) is GlobalName:  # its storage is lost, its class still tells the dtype
            word = kind.type_name.rpartition(".")[2].removesuffix("Tensor")
            dtype = STORAGE_DTYPES.get(f"{word}Storage")
            key = f"data/{storage_key}" if type(storage_key) is int else ""
        num_elements = 1
        for extent in shape:
            num_elements *= extent
        if dtype is None or min((*shape, *stride, first, 0)) < 0 or num_elements >= _MAX_ELEMENTS:
            return None
        num_bytes = num_elements * DTYPE_SIZES[dtype]
        return TensorRef(TensorInfo("", "", shape, dtype, num_bytes, key, stride, first, device))

    def read_object(self, end: int) -> None:
        self.checkpoint.state = self.pickle("pickle", end)

    def resolve(self, value: object) -> object:
        """A number, as text, for a tensor or a storage; (class, file, source) for a module."""
        if type(value) is tuple and value and type(value[0]) is GlobalName:
            return value[0]
        if type(value) is int or (type(value) is str and value.isdecimal() and value.isascii() and len(value) <= 20):
            found = self.objects.get(int(value))
            if found is not None:
                return found
            return OpaqueObject("lost tensor or storage", (value,))
        return resolve_persistent_id(value)

    def number(self, name: str, end: int) -> int:
        value = self.pickle(name, end)
        if type(value) is not int or not 0 <= value <= self.limits.max_tensors:
            raise CkptError("Damaged checkpoint", f"{self.checkpoint.path}: {name} does not say how many there are")
        return value

    def pickle(self, name: str, end: int) -> object:
        source = PickleSource(self.descriptor, end, self.checkpoint.path)
        record = f"{self.checkpoint.path}: {name}"
        decoded = decode_stream(source, self.position, record, self.limits, self.resolve)
        self.position = decoded.end
        self.take(decoded)
        return decoded.root

    def take(self, found: object) -> None:
        for ref in getattr(found, "globals", ()):
            if ref.name not in self.named:
                self.named.add(ref.name)
                self.checkpoint.globals.append(ref)

    def bytes(self, num_bytes: int) -> bytes:
        self.position += num_bytes
        return read_exactly(self.descriptor, num_bytes, self.position - num_bytes, self.checkpoint.path)

    def store(self, key: str, offset: int, num_bytes: int) -> None:
        name = f"data/{key}"
        self.checkpoint.storages[name] = Storage(name, "", offset, num_bytes)

    def cut(self, name: str) -> None:
        words = f"{name} ends in the middle: what follows in it is lost"
        self.note("damaged-record", Severity.ERROR, f"byte {count(self.position)}", words, _HINT)

    def note(self, code: str, severity: Severity, where: str, message: str, hint: str = "") -> None:
        self.checkpoint.findings.append(Finding(code, severity, where, message, hint))


def _is_header(header: bytes) -> bool:
    """Whether the checksum of a header agrees."""
    if len(header) != _BLOCK:
        return False
    try:
        return _number(header[148:156]) == sum(header) - sum(header[148:156]) + 8 * ord(" ")
    except CkptError:
        return False


def _number(field: bytes) -> int:
    """Octal text; binary behind a set bit where the number is too large for that."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits.isdigit() or digits.strip(b"01234567"):
        raise CkptError("Damaged checkpoint", "a number in a header of the archive is none", _HINT)
    return int(digits, 8)


READER = TorchTarReader()
