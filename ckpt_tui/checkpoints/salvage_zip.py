"""A damaged torch zip read as far as it goes: by its central directory where that holds, by walking it where not.

Gives a `Checkpoint` as a reader would, with storages for the records that were found. Whether their bytes are what
was written is not judged here (`salvage.py` does); but names, shapes and settings are taken only from a data.pkl
whose checksum holds, because a flipped bit in it can give a tensor the bytes of another one.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import field

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    Checkpoint,
    Finding,
    Severity,
    Storage,
    TensorInfo,
    TensorRef,
    bytes_needed,
)
from ckpt_tui.checkpoints.pickle_decode import UnsoundPickleError, decode_pickle
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.checkpoints.zip_index import ZipEntry, ZipIndex, read_zip_index
from ckpt_tui.checkpoints.zip_walk import DESCRIPTOR_BYTES, FoundRecord, ZipWalk
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import count, safe_text, size

_MAX_SMALL_BYTES = 64
_RAW_DTYPE = "uint8"


@dataclass(slots=True)
class BrokenZip:
    """checkpoint: what was found. has_names: False when its data.pkl is lost, and its storages are listed as bytes.

    lost: why storages are not there as a whole, by key. is_walked: its central directory was of no use.
    """

    checkpoint: Checkpoint
    has_names: bool = True
    has_own_names: bool = True  # False: they are those of another checkpoint
    is_walked: bool = False
    has_checksums: bool = False  # of any record
    lost: dict[str, str] = field(default_factory=dict)
    records: list[FoundRecord] = field(default_factory=list)


def open_broken_zip(
    descriptor: int,
    file_bytes: int,
    path: str,
    limits: ReadLimits,
    is_cancelled: Callable[[], bool] | None = None,
    names_from: Checkpoint | None = None,
) -> BrokenZip:
    """Everything that is left of a torch zip. Raises CkptError when it holds no record of one.

    names_from: another checkpoint of the same run, which tells what the storages are when data.pkl is lost.
    """
    broken = BrokenZip(Checkpoint(path, "torch-zip", file_bytes))
    reader = _Reader(descriptor, path, limits, broken, names_from)
    if not reader.by_directory(file_bytes):
        reader.by_walk(ZipWalk(descriptor, file_bytes, limits, is_cancelled))
    reader.finish()
    return broken


class _Reader:
    """Records of one file, and the state that its pickle gives them."""

    def __init__(
        self, descriptor: int, path: str, limits: ReadLimits, broken: BrokenZip, names_from: Checkpoint | None
    ) -> None:
        self.names_from = names_from
        self.descriptor = descriptor
        self.path = path
        self.limits = limits
        self.broken = broken
        self.checkpoint = broken.checkpoint
        self.records: dict[str, FoundRecord] = {}
        self.ambiguous: set[str] = set()
        self.is_cut = False  # a walk did not come to the central directory, and missed nothing on its way
        self.prefix: str | None = None  # of the data.pkl that is used
        self.pickle_problem = "its data.pkl is not there"
        self.tensors_by_key: dict[str, list[TensorInfo]] = {}

    def by_directory(self, file_bytes: int) -> bool:
        """Take the records from the central directory; False when there is none that holds."""
        try:
            index = read_zip_index(self.descriptor, file_bytes, self.path, self.limits)
        except CkptError:
            return False
        records = [
            FoundRecord(e.name, e.offset, e.size_bytes, e.compressed_bytes, e.method, e.crc32, True)
            for e in index.entries
            if e.offset is not None
        ]
        if len(records) < len(index.entries):
            records += self._behind_damaged_headers(index.entries, index.start)
        if not any(_is_pickle(record) for record in records):
            return False
        for record in records:
            self._take(record)
        self.checkpoint.findings += index.findings
        for entry in index.entries:
            if entry.name not in self.records:
                self.broken.lost[entry.name] = "the header of its record is damaged"
        return True

    def _behind_damaged_headers(self, entries: list[ZipEntry], directory_start: int) -> list[FoundRecord]:
        """Records whose local header is damaged: their data end before the next header, or before its descriptor."""
        found = []
        borders = sorted({entry.header_offset for entry in entries} | {directory_start})
        for entry in entries:
            following = bisect_right(borders, entry.header_offset)
            if entry.offset is not None or following == len(borders):
                continue
            end = borders[following]
            for num_bytes in DESCRIPTOR_BYTES:
                tail = os.pread(self.descriptor, 8, max(end - num_bytes, 0))
                if tail == b"PK\x07\x08" + entry.crc32.to_bytes(4, "little"):
                    end -= num_bytes
                    break
            offset = end - entry.compressed_bytes
            if entry.crc32 and offset > entry.header_offset:  # its checksum then tells whether that is the place
                found.append(
                    FoundRecord(
                        entry.name, offset, entry.size_bytes, entry.compressed_bytes, entry.method, entry.crc32, True
                    )
                )
        return found

    def by_walk(self, walk: ZipWalk) -> None:
        """Take the records in the order of the file."""
        self.broken.is_walked = True
        for record in walk.records():
            self._take(record)
            if self.prefix is not None and _is_pickle(record):
                walk.least_bytes = {
                    self.prefix + key: max(bytes_needed(tensor) or 0 for tensor in tensors)
                    for key, tensors in self.tensors_by_key.items()
                }
        self.is_cut = not walk.found_directory and not walk.num_skipped_bytes
        if not self.records:
            raise CkptError(
                "Nothing to salvage",
                f"{safe_text(self.path)}: no record of a torch archive was found in its {count(walk.file_bytes)} bytes",
                "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid.",
            )
        note = self.checkpoint.findings.append
        note(Finding("no-directory", Severity.ERROR, "end", "its central directory is missing or does not hold"))
        if walk.num_skipped_bytes:
            skipped = f"{count(walk.num_skipped_bytes)} bytes between its records could not be recognised"
            note(Finding("unrecognised", Severity.ERROR, "records", skipped))

    def _take(self, record: FoundRecord) -> None:
        self.broken.has_checksums |= bool(record.crc32)
        before = self.records.get(record.name)
        if before is not None and before.is_complete:
            if record.is_complete:  # programs disagree which one they read, and so could we
                self.ambiguous.add(record.name)
            return
        self.records[record.name] = record
        if _is_pickle(record) and self.prefix is None:
            self._decode(record)

    def _decode(self, record: FoundRecord) -> None:
        """Take the state from a data.pkl that is vouched for, or that nothing speaks against."""
        name = safe_text(record.name)
        if not record.is_complete:
            self.pickle_problem = f"{name} is cut off"
            return
        if record.method or record.size_bytes > self.limits.max_pickle_bytes:
            self.pickle_problem = f"{name} is compressed, or has {size(record.size_bytes)}"
            return
        data = read_exactly(self.descriptor, record.size_bytes, record.offset, self.path)
        if record.crc32:
            from isal import isal_zlib

            if isal_zlib.crc32(data) != record.crc32:
                self.pickle_problem = f"{name} is not what was written: its checksum differs"
                return
        checkpoint = self.checkpoint
        try:
            decoded = decode_pickle(data, f"{safe_text(self.path)}: {name}", self.limits)
            checkpoint.tensors = name_tensors(decoded.root, self.limits, checkpoint.findings)
        except CkptError as error:
            self.pickle_problem = error.message
            if isinstance(error, UnsoundPickleError):
                checkpoint.globals = error.globals
            return
        checkpoint.state, checkpoint.globals = decoded.root, decoded.globals
        self.prefix = record.name.removesuffix("data.pkl")
        for tensor in checkpoint.tensors:
            if tensor.storage:
                self.tensors_by_key.setdefault(tensor.storage, []).append(tensor)

    def finish(self) -> None:
        """Join tensors and records."""
        checkpoint, broken = self.checkpoint, self.broken
        broken.records = list(self.records.values())
        if self.prefix is None and not any(map(_is_pickle, broken.records)) and self._read_other_format():
            return
        if self.prefix is None and self.names_from is not None:
            self._take_names(self.names_from)
        elif self.prefix is None:
            self._list_raw_records()
        elif broken.is_walked and f"{self.prefix}constants.pkl" in self.records and self._read_other_format():
            return  # TorchScript: it has tensors among its constants, too
        prefix = self.prefix or ""
        for name in ("version", "byteorder"):
            text = self._small(name)
            if text:
                checkpoint.metadata[name] = text
        is_big = checkpoint.metadata.get("byteorder") == "big"
        for key in self.tensors_by_key:
            record = self.records.get(prefix + key)
            reason = broken.lost.pop(prefix + key, "")
            if record is None:
                where = "lay behind the cut" if self.is_cut else "was not found"
                reason = reason or f"{key} {where if broken.is_walked else 'is not in the file'}"
            elif prefix + key in self.ambiguous:
                reason = f"{key} is there twice, and nothing tells which one is meant"
            elif not record.is_complete:
                reason = f"{key} is cut off"
            if reason or record is None:
                broken.lost[key] = reason
                checkpoint.storages[key] = Storage(key, "", None, 0)
                continue
            checkpoint.storages[key] = Storage(
                key, "", record.offset, record.size_bytes, record.crc32 or None, is_big,
                record.compressed_bytes if record.method else None,
            )  # fmt: skip

    def _read_other_format(self) -> bool:
        """Let the readers of other zip formats (NumPy's, torch.export's) look at what is whole."""
        from ckpt_tui.checkpoints.readers.torch_zip import READER

        index = ZipIndex()
        index.entries = [
            ZipEntry(r.name, 0, r.offset, r.size_bytes, r.compressed_bytes, r.method, r.crc32 or 0, 0)
            for r in self.broken.records
            if r.is_complete and r.name not in self.ambiguous
        ]
        try:
            found = READER.read_records(self.descriptor, self.checkpoint.size_bytes, self.path, self.limits, index)
        except CkptError:
            return False
        found.findings += self.checkpoint.findings
        self.broken.checkpoint = found
        return True

    def _take_names(self, other: Checkpoint) -> None:
        """Let the storages be what those of the same records are in another checkpoint, if every one has its size."""
        checkpoint = self.checkpoint
        found = self._raw_names()
        self.prefix = found[0].removesuffix(found[0][found[0].rindex("data/") :]) if found else ""
        problem = "no storage was found" if not found else ""
        for name in found:
            record, key = self.records[name], name.removeprefix(self.prefix)
            expected = other.storages.get(key)
            if expected is None:
                problem = f"{key} is not in it"
            elif record.is_complete and record.size_bytes != expected.size_bytes:
                problem = f"{key} has {count(record.size_bytes)} bytes, there {count(expected.size_bytes)}"
        if problem:
            raise CkptError(
                "Not of the same kind",
                f"{safe_text(other.path)} does not tell what {safe_text(self.path)} holds: {problem}",
                "Give another checkpoint of the same run with --names-from, or none.",
            )
        problem = f"{self.pickle_problem}: names and shapes are those of {safe_text(other.path)}"
        checkpoint.findings.append(Finding("names-from-other", Severity.ERROR, "data.pkl", problem))
        checkpoint.state, checkpoint.tensors = other.state, other.tensors
        self.broken.has_own_names = False
        for tensor in checkpoint.tensors:
            if tensor.storage:
                self.tensors_by_key.setdefault(tensor.storage, []).append(tensor)

    def _raw_names(self) -> list[str]:
        """The records of storages, in the order of their numbers."""
        found = [name for name in self.records if "/data/" in f"/{name}" and name.rpartition("/")[2].isdigit()]
        found.sort(key=lambda name: (name.rpartition("/")[0], int(name.rpartition("/")[2][:18])))
        return found

    def _list_raw_records(self) -> None:
        """Without data.pkl nobody knows what the storages are: bytes under the names of their records."""
        checkpoint = self.checkpoint
        self.broken.has_names = False
        problem = f"{self.pickle_problem}: names, shapes, dtypes, step and settings are lost"
        checkpoint.findings.append(Finding("no-names", Severity.ERROR, "data.pkl", problem))
        state: dict[object, object] = {}
        found = self._raw_names()
        self.prefix = found[0].removesuffix(found[0][found[0].rindex("data/") :]) if found else ""
        for name in found:
            key = name.removeprefix(self.prefix)
            num_bytes = self.records[name].size_bytes
            info = TensorInfo(key, "", (num_bytes,), _RAW_DTYPE, num_bytes, key, (1,))
            state[key] = TensorRef(info, len(checkpoint.tensors))
            checkpoint.tensors.append(info)
            self.tensors_by_key[key] = [info]
        checkpoint.state = state

    def _small(self, name: str) -> str:
        """A record of one word; "" when it is not there as it was written."""
        record = self.records.get(f"{self.prefix or ''}{name}")
        if record is None or not record.is_complete or record.method or record.size_bytes > _MAX_SMALL_BYTES:
            return ""
        data = os.pread(self.descriptor, record.size_bytes, record.offset)
        if record.crc32:
            from isal import isal_zlib

            if isal_zlib.crc32(data) != record.crc32:
                note = Finding("checksum", Severity.ERROR, safe_text(record.name), "its checksum differs")
                self.checkpoint.findings.append(note)
                return ""
        return data.decode("ascii", "replace").strip()


def _is_pickle(record: FoundRecord) -> bool:
    return record.name == "data.pkl" or record.name.endswith("/data.pkl")
