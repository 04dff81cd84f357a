"""torch's format before 1.6: five pickles (magic number, protocol, sys_info, object, storage keys), then the storages.

Each storage is an int64 count of elements and their bytes, little-endian on every machine, whatever sys_info says:
torch swaps them as it writes on a big-endian one. Nothing is checksummed. Any of the pickles can hold a payload.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import DTYPE_SIZES, Checkpoint, Finding, GlobalRef, Severity, Storage, Verdict
from ckpt_tui.checkpoints.pickle_decode import UnsoundPickleError, decode_pickle, decode_stream
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName, StorageRef, resolve_persistent_id
from ckpt_tui.checkpoints.pickle_source import PickleSource
from ckpt_tui.checkpoints.readers.lost_tensors import note_lost_tensors
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
MAGIC_BYTES = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_MAGIC_DIGITS = b"119547037146038801333356"
_PROTOCOL_VERSION = 1001
_HINT = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."
_MAX_ELEMENTS = 1 << 62


class TorchLegacyReader:
    """`torch.save(..., _use_new_zipfile_serialization=False)`, and everything that torch 0.1.10 to 1.5 wrote."""

    formats: tuple[str, ...] = ("torch-legacy",)

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        return "torch-legacy" if begins_like_legacy(head) else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits) -> Checkpoint:
        checkpoint = Checkpoint(path, "torch-legacy", file_bytes)
        found = LegacyFile(PickleSource(descriptor, file_bytes, path), 0, path, limits)
        checkpoint.state = found.root
        checkpoint.globals = found.globals
        checkpoint.findings = found.findings
        checkpoint.storages = found.storages
        checkpoint.metadata.update(found.metadata)
        checkpoint.tensors = name_tensors(found.root, limits, checkpoint.findings)
        note_lost_tensors(checkpoint)
        return checkpoint


def begins_like_legacy(head: bytes) -> bool:
    """Whether the first pickle of `head` is the magic number, by whichever protocol and detours."""
    if MAGIC_BYTES not in head[:256] and _MAGIC_DIGITS not in head[:256]:
        return False
    try:
        root = decode_pickle(head, "head").root
    except CkptError:
        return False
    return type(root) is int and root == MAGIC_NUMBER


class LegacyFile:
    """A legacy file from `start` of a source on. Raises CkptError when its object cannot be decoded.

    root: the object; its storages are found under `prefix` and their key. Storages whose bytes are not there, or not
    to be found, are in `storages` without an offset and bytes; one that is cut has the bytes that are left.
    depth: in how many other pickles it lies as bytes.
    """

    def __init__(
        self,
        source: PickleSource,
        start: int,
        record: str,
        limits: ReadLimits = DEFAULT_LIMITS,
        prefix: str = "",
        depth: int = 0,
    ) -> None:
        self.depth = depth
        self.source = source
        self.record = record
        self.limits = limits
        self.prefix = prefix
        self.root: object = None
        self.globals: list[GlobalRef] = []
        self.findings: list[Finding] = []
        self.storages: dict[str, Storage] = {}
        self.metadata: dict[str, object] = {}
        self.num_malformed = 0
        self._refs: dict[str, StorageRef] = {}  # by key: torch keeps the first dtype that names it
        self._views: dict[str, tuple[str, int, StorageRef]] = {}  # by key: root's key, first element
        self._named: set[str] = set()
        self.position = start
        self._read()

    def _read(self) -> None:
        if self._pickle("magic number") != MAGIC_NUMBER:
            raise CkptError("Not a checkpoint", f"{self.record} does not begin with torch's magic number")
        version = self._pickle("protocol version")
        if version != _PROTOCOL_VERSION or type(version) is not int:
            found = safe_text(version if type(version) is int else type(version).__name__, 40)
            self._note("odd-version", Severity.ERROR, "protocol version", f"it is {found}, torch loads 1001 only")
        sys_info = self._pickle("sys_info")
        if isinstance(sys_info, dict) and type(sys_info.get("little_endian")) is bool:
            self.metadata["written_on"] = "little-endian" if sys_info["little_endian"] else "big-endian"
        self.root = self._pickle("object")
        try:
            keys = self._pickle("storage keys")
        except UnsoundPickleError as error:
            named = [ref for ref in error.globals if ref.key not in self._named]
            reason = "a pickle that could not be decoded to its end: what it would do is not known"
            self.globals += [*named, GlobalRef("storage keys", Verdict.UNKNOWN, reason, self.record)]
            message = error.message.removeprefix(f"{self.record}: ")
            self._note("unreadable-pickle", Severity.ERROR, "storage keys", message, _HINT)
            keys = None
        if type(keys) is list:
            self._find_storages(keys)
        elif keys is not None:
            self._note("odd-storage-keys", Severity.ERROR, "storage keys", "they are no list: no tensor can be found")
        for key in self._refs:
            self._add(key, None, 0)
        self._add_views()

    def _pickle(self, name: str) -> object:
        where = f"{self.record}: {name}"
        decoded = decode_stream(self.source, self.position, where, self.limits, self._resolve, depth=self.depth)
        self.position = decoded.end
        self.globals += [ref for ref in decoded.globals if ref.key not in self._named]
        self._named.update(ref.key for ref in decoded.globals)
        if decoded.num_malformed:
            self.num_malformed += decoded.num_malformed
            broken = f"{count(decoded.num_malformed)} of its tensors have shapes or strides that no tensor can have"
            self._note("malformed-tensor", Severity.ERROR, name, broken, _HINT)
        return decoded.root

    def _resolve(self, value: object) -> object:
        """('storage', class, key, location, numel, view of it or None), or ('module', class, file, source)."""
        if type(value) is not tuple or not value:
            return resolve_persistent_id(value)
        kind = _ascii(value[0])
        if kind == "module" and len(value) == 4 and isinstance(value[1], GlobalName):
            return value[1]
        if kind != "storage" or len(value) != 6:
            return resolve_persistent_id(value)
        ref = resolve_persistent_id((kind, value[1], _ascii(value[2]), _ascii(value[3]), value[4]))
        if type(ref) is not StorageRef or not 0 <= ref.num_elements < _MAX_ELEMENTS:
            return ref
        key = ref.key
        ref.key = self.prefix + key
        ref = self._refs.setdefault(key, ref)
        view = value[5]
        if type(view) is tuple and len(view) == 3:
            view_key, first, num_elements = _ascii(view[0]), view[1], view[2]
            is_whole = type(first) is int and type(num_elements) is int and 0 <= first < _MAX_ELEMENTS
            if type(view_key) in (str, int) and is_whole and 0 <= num_elements < _MAX_ELEMENTS:
                name = str(view_key)
                shown = StorageRef(f"{self.prefix}{name}", ref.dtype, ref.device, num_elements)
                return self._views.setdefault(name, (key, first, shown))[2]
        return ref

    def _find_storages(self, keys: list[object]) -> None:
        """Go from count to count; behind one that makes no sense nothing can be found any more."""
        position = self.position
        end = self.source.end
        for number, written in enumerate(keys):
            key = str(_ascii(written)) if type(written) in (str, int, bytes) else ""
            ref = self._refs.get(key)
            if position + 8 > end:
                self._say_cut(number, len(keys))
                return
            claimed = int.from_bytes(self.source.read(position, 8), "little", signed=True)
            where = f"byte {count(position)}"
            if ref is None:
                words = f"storage {safe_text(key, 40)} is in the list of keys and used by nothing: torch refuses that"
                self._note(
                    "unknown-storage", Severity.ERROR, where, f"{words}, and what follows cannot be found", _HINT
                )
                return
            if claimed != ref.num_elements:
                words = f"storage {safe_text(key, 40)} says {count(claimed)} elements, the object says "
                words += f"{count(ref.num_elements)}: torch refuses that, and what follows cannot be found"
                self._note("odd-storage-size", Severity.ERROR, where, words, _HINT)
                return
            num_bytes = claimed * DTYPE_SIZES[ref.dtype]
            position += 8
            del self._refs[key]
            if position + num_bytes > end:
                self._add(key, position, end - position)
                self._say_cut(number, len(keys))
                return
            self._add(key, position, num_bytes)
            position += num_bytes
        self.position = position
        if position < end:
            rest = f"{count(end - position)} bytes follow the last storage"
            self._note("trailing-data", Severity.WARNING, f"byte {count(position)}", rest, "Compare its size.")

    def _say_cut(self, number: int, num_keys: int) -> None:
        words = f"the file ends there: {count(number)} of {count(num_keys)} storages are whole"
        self._note("truncated", Severity.ERROR, f"byte {count(self.source.end)}", words, _HINT)

    def _add(self, key: str, offset: int | None, num_bytes: int) -> None:
        name = f"data/{self.prefix}{key}"
        place = None if offset is None else self.source.place(offset)
        self.storages[name] = Storage(name, "", place, num_bytes)

    def _add_views(self) -> None:
        """A view of a storage, as torch before 0.4 saved them: a stretch of its root."""
        for key, (root_key, first, ref) in self._views.items():
            root = self.storages[f"data/{self.prefix}{root_key}"]
            item = DTYPE_SIZES[ref.dtype]
            start = first * item
            num_bytes = min(ref.num_elements * item, max(root.size_bytes - start, 0))
            name = f"data/{self.prefix}{key}"
            place = None if root.offset is None else root.offset + start
            if name not in self.storages:
                self.storages[name] = Storage(name, "", place, num_bytes)

    def _note(self, code: str, severity: Severity, where: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(code, severity, where, message, hint))


def _ascii(value: object) -> object:
    """Texts that Python 2 wrote may come as bytes."""
    return value.decode("ascii", "replace") if type(value) is bytes else value


READER = TorchLegacyReader()
