"""One file of a checkpoint: its bytes held against their checksums, and what that says in words.

Also finds holes that a crash left: where no checksum tells, zeros from page to page inside a tensor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from ckpt_tui.checkpoints.archive import Archive, Record
from ckpt_tui.checkpoints.byte_pass import Crc32Digest, PassResult, Region, RegionResult, read_once
from ckpt_tui.checkpoints.model import Finding, Severity, Storage, TensorInfo
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.records import dataclass
from ckpt_tui.text import count, plural, safe_text, size

MAX_FINDINGS = 1000  # of one kind; the rest are counted in one more
USE_ANOTHER = "Do not train on from it. `ckpt-tui list` on its directory shows which checkpoints are valid."
_MIN_ZERO_TAIL_BYTES = 64 * 1024


@dataclass(slots=True)
class FileOutcome:
    """What reading one file showed. vouched_bytes: those that a checksum says are right; unvouched_bytes: those that
    no checksum covers, as far as they are content. suspicious: keys of storages in which something is NaN or Inf."""

    findings: list[Finding] = field(default_factory=list)
    vouched_bytes: int = 0
    unvouched_bytes: int = 0
    differs: bool = False
    suspicious: set[str] = field(default_factory=set)
    bytes_read: int = 0


class FileScan:
    """One file of the checkpoint: which of its bytes are judged how, and what came of it.

    file: its relative name in a directory, "" when it is the checkpoint. storages: those that lie in it.
    archive: its records when it is a zip; what is not one is held against the storages' own checksums.
    """

    def __init__(
        self,
        path: str,
        file: str,
        storages: Sequence[Storage],
        by_storage: Mapping[str, Sequence[TensorInfo]],
        archive: Archive | None,
    ) -> None:
        self.path = path
        self.file = file
        self.by_storage = by_storage
        # Empty ones begin where their neighbour does.
        self.storage_at = {s.offset: s for s in storages if s.offset is not None and s.size_bytes}
        self.num_unknown = archive.num_unknown if archive is not None else 0
        records = archive.records if archive is not None else [_own_record(s) for s in self.storage_at.values()]
        self.records = {record.offset: record for record in records if record.size_bytes or record.crc32}
        # Elements that lie inside a record or under another storage, not at the head of their own record: the pass does
        # not see them as numbers, so each tensor of theirs is looked at by itself.
        self.unseen = {
            s.key
            for s in storages
            if s.offset is not None and s.size_bytes
            if s.offset not in self.records or self.storage_at[s.offset].key != s.key
        }
        # An archive written with checksums off has 0 everywhere; so do formats that have none.
        self.has_checksums = any(record.crc32 for record in records)

    def run(
        self,
        *,
        with_integrity: bool,
        with_numbers: bool,
        digest: str | None,
        on_bytes: Callable[[int], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> FileOutcome:
        """Read the file and judge it. Raises CkptError when it cannot be read, and Cancelled."""
        regions = [self._region(record, with_numbers) for record in self.records.values()]
        whole, expected = _whole_digest(digest) if with_integrity and digest else (None, "")
        outcome = FileOutcome()
        with RegularFile(self.path) as file:
            descriptor, file_bytes = file.descriptor, file.file_bytes
            looks_for_holes = with_integrity and any(region.crc32 is None for region in regions)
            result = read_once(
                descriptor,
                file_bytes,
                regions,
                digest=whole,
                find_zero_pages=looks_for_holes,
                on_bytes=on_bytes,
                is_cancelled=is_cancelled,
            )
            outcome.bytes_read = result.bytes_read
            if with_integrity:
                outcome.findings += self._judge_checksums(result, outcome, descriptor, file_bytes)
                if looks_for_holes:
                    holes = list(self._judge_zero_runs(result, descriptor, file_bytes))
                    outcome.findings += holes
                    outcome.differs |= any(hole.severity == Severity.ERROR for hole in holes)
                if whole is not None:
                    self._judge_digest(str(digest), whole.hexdigest(), expected, outcome, file_bytes)
        outcome.suspicious = {
            self.storage_at[read.region.offset].key
            for read in result.regions
            if (read.is_suspicious or read.problem) and read.region.offset in self.storage_at
        } | self.unseen
        return outcome

    def _region(self, record: Record, with_numbers: bool) -> Region:
        storage = self.storage_at.get(record.offset)
        bits = self._bits(storage) if storage is not None and with_numbers else None
        recorded = record.crc32 if self.has_checksums else None
        stored = None if record.is_stored else record.stored_bytes
        is_big = storage is not None and storage.is_big_endian
        return Region(self._where(record.name), record.offset, record.size_bytes, recorded, bits, is_big, stored)

    def _where(self, name: str) -> str:
        """The place as findings call it: with the file before it where there are several."""
        return name if not self.file or name.startswith(f"{self.file}:") else f"{self.file}: {name}"

    def _bits(self, storage: Storage) -> Any:
        """How NaN looks in a storage that is all of one kind of float; None when it is not."""
        from ckpt_tui.checkpoints.elements import FLOAT_BITS

        kinds = {FLOAT_BITS.get(tensor.dtype) for tensor in self.by_storage.get(storage.key, ())}
        return kinds.pop() if len(kinds) == 1 else None

    def tenants(self, record_offset: int, begin: int | None = None, end: int | None = None) -> str:
        """Which tensors live there, in words: `model.wte.weight and 2 more`."""
        storage = self.storage_at.get(record_offset)
        if storage is None:
            return ""
        tensors = self.by_storage.get(storage.key, ())
        if begin is not None and end is not None:
            tensors = [t for t in tensors if _overlaps(t, begin - record_offset, end - record_offset)] or tensors
        names = [safe_text(tensor.name, 80) for tensor in tensors]
        if not names:
            return ""
        return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")

    def _judge_checksums(
        self, result: PassResult, found: FileOutcome, descriptor: int, file_bytes: int
    ) -> Iterator[Finding]:
        shown = hidden = 0
        unrecorded: list[str] = []
        for outcome in result.regions:
            region = outcome.region
            finding: Finding | None = None
            if not outcome.is_read:
                finding = _error("overlapping-records", region, "overlaps other records so often that it was not read")
            elif outcome.missing_bytes:
                message = f"the file ends {size(outcome.missing_bytes)} before the record does"
                finding = _error("truncated", region, message + self._holds(region))
            elif outcome.problem:
                finding = _error("not-decompressible", region, outcome.problem + self._holds(region))
            elif region.crc32 is None or (region.crc32 == 0 and outcome.checksum_differs):
                if region.crc32 == 0 and self._is_all_zero(descriptor, region):
                    message = "nothing but zeros, and no checksum: its data was never written" + self._holds(region)
                    finding = _error("never-written", region, message)
                elif region.size_bytes:
                    unrecorded.append(region.name)
                    found.unvouched_bytes += region.size_bytes
            elif outcome.checksum_differs:
                finding = self._checksum_finding(outcome, descriptor)
            else:
                found.vouched_bytes += region.size_bytes
            if finding is not None:
                found.differs = True
                shown, hidden = (shown + 1, hidden) if shown < MAX_FINDINGS else (shown, hidden + 1)
                if shown <= MAX_FINDINGS and not hidden:
                    yield finding
        if hidden:
            message = f"{plural(hidden, 'more record')} damaged"
            yield Finding("checksum", Severity.ERROR, safe_text(self.path), message, USE_ANOTHER, "integrity")
        if self.num_unknown:
            message = f"{plural(self.num_unknown, 'record')} compressed by an unknown method; damage cannot be seen"
            where = safe_text(self.file or os.path.basename(self.path))
            yield Finding("unknown-compression", Severity.WARNING, where, message, level="integrity")
            found.unvouched_bytes += 1
        if unrecorded and self.has_checksums:
            message = f"no checksum is recorded for {plural(len(unrecorded), 'record')}; damage in them cannot be seen"
            where = safe_text(unrecorded[0])
            yield Finding("checksum-not-recorded", Severity.WARNING, where, message, level="integrity")

    def _holds(self, region: Region) -> str:
        tenants = self.tenants(region.offset)
        return f"; it holds {tenants}" if tenants else ""

    def _checksum_finding(self, outcome: RegionResult, descriptor: int) -> Finding:
        region = outcome.region
        begin, end = region.offset, region.offset + region.size_bytes
        place = f"bytes {count(begin)} to {count(end)}"
        if region.stored_bytes is None and self._is_all_zero(descriptor, region):
            message = f"all of it ({place}) is zeros, its checksum says it was not: a hole"
            return _error("hole", region, message + self._holds(region))
        if region.stored_bytes is None:
            pages = _zero_pages_in(descriptor, region)
            if pages:
                begin, end = pages[0][0], pages[0][1]
                more = f" and {plural(len(pages) - 1, 'more place')}" if len(pages) > 1 else ""
                tenants = self.tenants(region.offset, begin, end)
                message = f"its checksum differs; bytes {count(begin)} to {count(end)}{more} are zeros: a hole"
                return _error("hole", region, message + (f"; they belong to {tenants}" if tenants else ""))
        if region.offset not in self.storage_at and region.name.endswith("data.pkl"):
            meaning = "; names, shapes, step and settings live here, so none of them can be trusted"
        else:
            meaning = self._holds(region)
        return _error("checksum", region, f"its checksum differs: {place} are not what was written{meaning}")

    @staticmethod
    def _is_all_zero(descriptor: int, region: Region) -> bool:
        if region.stored_bytes is not None or not region.size_bytes:
            return False
        from ckpt_tui.checkpoints.elements import is_all_zero, read_into

        buffer = memoryview(bytearray(min(region.size_bytes, 1 << 20)))
        for position in range(region.offset, region.offset + region.size_bytes, len(buffer)):
            piece = buffer[: min(len(buffer), region.offset + region.size_bytes - position)]
            if not is_all_zero(piece[: read_into(descriptor, piece, position)]):
                return False
        return True

    def _judge_zero_runs(self, result: PassResult, descriptor: int, file_bytes: int) -> Iterator[Finding]:
        """Holes where no checksum tells: zeros that begin or end on a page inside a tensor that is not zero there."""
        regions = [outcome.region for outcome in result.regions if outcome.region.crc32 is None]
        for begin, end in result.zero_runs[:MAX_FINDINGS]:
            reaches_end = file_bytes - end < 4096
            first = next((r for r in regions if r.offset < begin < r.offset + r.size_bytes), None)
            last = next((r for r in regions if r.offset < end < r.offset + r.size_bytes), None)
            starts_odd = first is not None and self._is_odd_place(first, begin, descriptor, begin - 16)
            ends_odd = last is not None and self._is_odd_place(last, end, descriptor, end)
            place = f"bytes {count(begin)} to {count(end)}"
            if starts_odd and (ends_odd or reaches_end):
                assert first is not None
                tenants = self.tenants(first.offset, begin, end)
                message = f"{place} are zeros from page to page in the middle of {tenants}: a hole, as a crash leaves"
                yield _error("hole", first, message)
            elif reaches_end and end - begin >= _MIN_ZERO_TAIL_BYTES:
                message = f"{place}, the whole end of the file, are zeros; nothing here tells whether that is meant"
                hint = "Compare with another checkpoint: `ckpt-tui diff`."
                yield Finding("zero-tail", Severity.WARNING, f"byte {count(begin)}", message, hint, "integrity")

    def _is_odd_place(self, region: Region, edge: int, descriptor: int, neighbour: int) -> bool:
        """Whether zeros that end or begin at `edge` do so where no row of a float tensor does, right beside numbers."""
        from ckpt_tui.checkpoints.elements import FLOAT_BITS, read_into
        from ckpt_tui.checkpoints.model import DTYPE_SIZES

        storage = self.storage_at.get(region.offset)
        tensors = self.by_storage.get(storage.key, ()) if storage is not None else ()
        if not tensors or any(tensor.dtype not in FLOAT_BITS for tensor in tensors):
            return False
        row = (tensors[0].shape[-1] if tensors[0].shape else 1) * DTYPE_SIZES[tensors[0].dtype]
        if row and len(tensors[0].shape) > 1 and (edge - region.offset) % row == 0:
            return False
        beside = memoryview(bytearray(16))
        return any(beside[: read_into(descriptor, beside, neighbour)])

    def _judge_digest(self, digest: str, actual: str, expected: str, outcome: FileOutcome, file_bytes: int) -> None:
        if actual == expected:
            # The digest vouches for every byte of this file.
            outcome.vouched_bytes, outcome.unvouched_bytes, self.num_unknown = file_bytes, 0, 0
            return
        outcome.differs = True
        algorithm = digest.partition(":")[0]
        message = f"{algorithm} of the file is {actual}, recorded was {expected}: it is not the file that was saved"
        where = safe_text(self.file or os.path.basename(self.path))
        outcome.findings.append(Finding("digest", Severity.ERROR, where, message, USE_ANOTHER, "integrity"))


def _own_record(storage: Storage) -> Record:
    """A storage as if it were a record of an archive."""
    assert storage.offset is not None
    stored = storage.size_bytes if storage.deflated_bytes is None else storage.deflated_bytes
    is_stored = storage.deflated_bytes is None
    return Record(storage.key, storage.offset, storage.size_bytes, stored, storage.crc32 or 0, is_stored)


def _whole_digest(digest: str) -> tuple[Any, str]:
    """(running digest, expected hex); (None, "") for an algorithm that we do not know."""
    algorithm, _, expected = digest.partition(":")
    expected = expected.strip().lower()
    if algorithm == "crc32":
        return Crc32Digest(), expected.rjust(8, "0")
    if algorithm in ("sha256", "sha1", "md5", "blake2b", "sha512"):
        import hashlib

        return hashlib.new(algorithm, usedforsecurity=False), expected
    return None, ""


def _overlaps(tensor: TensorInfo, begin: int, end: int) -> bool:
    """Whether a tensor shows bytes begin..end of its storage."""
    item = tensor.size_bytes // tensor.num_elements if tensor.num_elements else 0
    first = tensor.offset * item
    span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=False)) + 1
    return first < end and begin < first + span * item


def _zero_pages_in(descriptor: int, region: Region) -> list[tuple[int, int]]:
    """Zero pages inside a damaged record, as (begin, end) in the file."""
    probe = Region(region.name, region.offset, region.size_bytes)
    runs = read_once(descriptor, region.offset + region.size_bytes, [probe], find_zero_pages=True).zero_runs
    inside = [(max(begin, region.offset), min(end, region.offset + region.size_bytes)) for begin, end in runs]
    return [(begin, end) for begin, end in inside if end > begin]


def _error(code: str, region: Region, message: str) -> Finding:
    return Finding(code, Severity.ERROR, safe_text(region.name), message, USE_ANOTHER, "integrity")
