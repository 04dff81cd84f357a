"""The levels that need the bytes: every checksum, NaN and Inf, holes that a crash left. One pass per file.

Gives findings in words; it never says that a byte is right which nothing vouches for.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ckpt_tui.checkpoints.byte_pass import Crc32Digest, PassResult, Region, RegionResult, read_once
from ckpt_tui.checkpoints.model import Checkpoint, Finding, Severity, Storage, TensorInfo
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.text import count, plural, safe_text, size

MAX_FINDINGS = 1000  # of one kind; the rest are counted in one more
USE_ANOTHER = "Do not train on from it. `ckpt-tui list` on its directory shows which checkpoints are valid."
_MIN_ZERO_TAIL_BYTES = 64 * 1024
# A metric that became infinite is news about the training, not damage of the weights.
_NOT_WEIGHTS = frozenset(
    {"loss_history", "metrics", "val_metrics", "best_metric", "train_loss", "val_loss", "losses", "history", "log"}
)


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an archive, as its directory describes it. crc32: as recorded; 0 may mean not recorded."""

    name: str
    offset: int
    size_bytes: int
    stored_bytes: int
    crc32: int
    is_stored: bool


@dataclass(slots=True)
class ByteFindings:
    """What reading the bytes showed. integrity, numbers: outcomes of those levels."""

    findings: list[Finding] = field(default_factory=list)
    integrity: str = "not-checked"
    numbers: str = "not-checked"
    bytes_checked: int = 0


@dataclass(slots=True)
class _Tally:
    """How much is vouched for by a checksum, over all files of the checkpoint."""

    vouched_bytes: int = 0
    unvouched_bytes: int = 0
    differs: bool = False


def check_bytes(
    checkpoint: Checkpoint,
    records_of: Callable[[str], list[Record] | None],
    *,
    with_integrity: bool,
    with_numbers: bool,
    digest: str | None,
    on_bytes: Callable[[int], None] | None,
    is_cancelled: Callable[[], bool] | None,
) -> ByteFindings:
    """Read the files of `checkpoint` once and judge what they hold.

    records_of: the records of the archive at a path, None when it is not an archive. Raises CkptError when a file
    cannot be read, and Cancelled.
    """
    found = ByteFindings()
    tally = _Tally()
    by_storage: dict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in checkpoint.tensors:
        by_storage[tensor.storage].append(tensor)
    by_file: dict[str, list[Storage]] = defaultdict(list)
    for storage in checkpoint.storages.values():
        by_file[storage.file].append(storage)
    suspicious: set[str] = set()
    for file, storages in sorted(by_file.items()) or [("", [])]:
        path = os.path.join(checkpoint.path, file) if file else checkpoint.path
        if Path(path).is_dir() or ".." in file.split("/"):
            continue
        scan = _FileScan(checkpoint, path, storages, by_storage, records_of(path))
        suspicious |= scan.run(found, tally, with_integrity, with_numbers, digest, on_bytes, is_cancelled)
    if with_integrity:
        if tally.differs:
            found.integrity = "fail"
        elif tally.vouched_bytes and not tally.unvouched_bytes:
            found.integrity = "pass"
    if with_numbers:
        _judge_numbers(checkpoint, by_storage, suspicious, found, is_cancelled)
    return found


class _FileScan:
    """One file: which of its bytes are judged how, and what came of it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        path: str,
        storages: list[Storage],
        by_storage: dict[str, list[TensorInfo]],
        records: list[Record] | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.path = path
        self.by_storage = by_storage
        self.storage_at = {storage.offset: storage for storage in storages if storage.offset is not None}
        self.has_records = records is not None
        if records is None:
            records = [
                Record(s.key, s.offset, s.size_bytes, s.size_bytes, s.crc32 or 0, True)
                for s in storages
                if s.offset is not None
            ]
        self.records = {record.offset: record for record in records}
        # An archive written with checksums off has 0 everywhere; so do formats that have none.
        self.has_checksums = any(record.crc32 for record in records)

    def run(
        self,
        found: ByteFindings,
        tally: _Tally,
        with_integrity: bool,
        with_numbers: bool,
        digest: str | None,
        on_bytes: Callable[[int], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> set[str]:
        """Read the file; gives the keys of storages in which something is NaN or Inf."""
        regions = [region for record in self.records.values() for region in self._regions(record, with_numbers)]
        whole, expected = _whole_digest(digest) if with_integrity and digest else (None, "")
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise from_os_error(error, safe_text(self.path)) from error
        try:
            file_bytes = os.fstat(descriptor).st_size
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
            found.bytes_checked += result.bytes_read
            if with_integrity:
                found.findings += self._judge_checksums(result, tally, descriptor, file_bytes)
                if looks_for_holes:
                    holes = list(self._judge_zero_runs(result, descriptor, file_bytes))
                    found.findings += holes
                    tally.differs |= any(hole.severity == Severity.ERROR for hole in holes)
                if whole is not None:
                    self._judge_digest(str(digest), whole.hexdigest(), expected, found, tally)
        finally:
            os.close(descriptor)
        return {
            self.storage_at[outcome.region.offset].key
            for outcome in result.regions
            if outcome.is_suspicious and outcome.region.offset in self.storage_at
        }

    def _regions(self, record: Record, with_numbers: bool) -> Iterator[Region]:
        storage = self.storage_at.get(record.offset)
        bits = self._bits(storage) if storage is not None and with_numbers else None
        recorded = record.crc32 if self.has_checksums else None
        stored = None if record.is_stored else record.stored_bytes
        is_big = storage is not None and storage.is_big_endian
        yield Region(record.name, record.offset, record.size_bytes, recorded, bits, is_big, stored)

    def _bits(self, storage: Storage):  # type: ignore[no-untyped-def]
        """How NaN looks in a storage that is all of one kind of float; None when it is not."""
        from ckpt_tui.checkpoints.elements import FLOAT_BITS

        kinds = {FLOAT_BITS.get(tensor.dtype) for tensor in self.by_storage[storage.key]}
        return kinds.pop() if len(kinds) == 1 else None

    def tenants(self, record_offset: int, begin: int | None = None, end: int | None = None) -> str:
        """Which tensors live there, in words: `model.wte.weight and 2 more`."""
        storage = self.storage_at.get(record_offset)
        if storage is None:
            return ""
        tensors = self.by_storage[storage.key]
        if begin is not None and end is not None:
            tensors = [t for t in tensors if _overlaps(t, begin - record_offset, end - record_offset)] or tensors
        names = [safe_text(tensor.name, 80) for tensor in tensors]
        if not names:
            return ""
        return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")

    def _judge_checksums(
        self, result: PassResult, tally: _Tally, descriptor: int, file_bytes: int
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
                    tally.unvouched_bytes += region.size_bytes
            elif outcome.checksum_differs:
                finding = self._checksum_finding(outcome, descriptor)
            else:
                tally.vouched_bytes += region.size_bytes
            if finding is not None:
                tally.differs = True
                shown, hidden = (shown + 1, hidden) if shown < MAX_FINDINGS else (shown, hidden + 1)
                if shown <= MAX_FINDINGS and not hidden:
                    yield finding
        if hidden:
            message = f"{plural(hidden, 'more record')} damaged"
            yield Finding("checksum", Severity.ERROR, safe_text(self.path), message, USE_ANOTHER, "integrity")
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
        tensors = self.by_storage[storage.key] if storage is not None else []
        if not tensors or any(tensor.dtype not in FLOAT_BITS for tensor in tensors):
            return False
        row = (tensors[0].shape[-1] if tensors[0].shape else 1) * DTYPE_SIZES[tensors[0].dtype]
        if row and len(tensors[0].shape) > 1 and (edge - region.offset) % row == 0:
            return False
        beside = memoryview(bytearray(16))
        return any(beside[: read_into(descriptor, beside, neighbour)])

    def _judge_digest(self, digest: str, actual: str, expected: str, found: ByteFindings, tally: _Tally) -> None:
        if actual == expected:
            # The digest vouches for every byte of this file.
            tally.vouched_bytes += max(tally.unvouched_bytes, 1)
            tally.unvouched_bytes = 0
            return
        tally.differs = True
        algorithm = digest.partition(":")[0]
        message = f"{algorithm} of the file is {actual}, recorded was {expected}: it is not the file that was saved"
        where = safe_text(Path(self.path).name)
        found.findings.append(Finding("digest", Severity.ERROR, where, message, USE_ANOTHER, "integrity"))


def _whole_digest(digest: str):  # type: ignore[no-untyped-def]
    """(running digest, expected hex); (None, "") for an algorithm that we do not know."""
    algorithm, _, expected = digest.partition(":")
    expected = expected.strip().lower()
    if algorithm == "crc32":
        return Crc32Digest(), expected.rjust(8, "0")
    if algorithm in ("sha256", "sha1", "md5", "blake2b", "sha512"):
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


# --- numbers


def _judge_numbers(
    checkpoint: Checkpoint,
    by_storage: dict[str, list[TensorInfo]],
    suspicious: Iterable[str],
    found: ByteFindings,
    is_cancelled: Callable[[], bool] | None,
) -> None:
    from ckpt_tui.checkpoints.elements import FLOAT_BITS

    to_count = set(suspicious)
    num_float = num_unread = num_bad = 0
    for key, tensors in by_storage.items():
        kinds = {FLOAT_BITS.get(tensor.dtype) for tensor in tensors}
        if kinds == {None}:
            continue
        num_float += len(tensors)
        storage = checkpoint.storages.get(key)
        if storage is None or storage.offset is None:
            num_unread += sum(1 for tensor in tensors if tensor.num_elements)
        elif len(kinds) > 1:
            to_count.add(key)  # several kinds of numbers share it: each tensor is looked at by itself
    from ckpt_tui.checkpoints.values import count_nonfinite

    failed = False
    for tensor in checkpoint.tensors:
        if tensor.storage not in to_count or tensor.dtype not in FLOAT_BITS:
            continue
        try:
            counted = count_nonfinite(checkpoint, tensor, is_cancelled=is_cancelled)
        except CkptError:
            num_unread += 1
            continue
        if not counted.nan and not counted.inf:
            continue
        num_bad += 1
        finding = _nonfinite_finding(tensor, counted.nan, counted.inf, counted.first_bad_index or 0, counted.is_mask)
        failed |= finding.severity == Severity.ERROR
        if num_bad <= MAX_FINDINGS:
            found.findings.append(finding)
    if num_bad > MAX_FINDINGS:
        message = f"{plural(num_bad - MAX_FINDINGS, 'more tensor')} with NaN or Inf"
        found.findings.append(Finding("nonfinite", Severity.ERROR, "", message, level="numbers"))
    if num_unread:
        message = f"{plural(num_unread, 'tensor')} could not be looked at: no plain bytes in the file"
        found.findings.append(Finding("numbers-not-read", Severity.INFO, "", message, level="numbers"))
    if failed:
        found.numbers = "fail"
    elif not num_float:
        found.numbers = "not-applicable"
    else:
        found.numbers = "not-checked" if num_unread else "pass"


def _nonfinite_finding(tensor: TensorInfo, nan: int, inf: int, first: int, is_mask: bool) -> Finding:
    name = safe_text(tensor.name)
    index = []
    for extent in reversed(tensor.shape):
        first, here = divmod(first, extent)
        index.append(here)
    place = f"the first at {list(reversed(index))}" if index else "it is a single number"
    amounts = " and ".join(f"{count(n)} {word}" for n, word in ((nan, "NaN"), (inf, "Inf")) if n)
    message = f"{amounts} of {count(tensor.num_elements)}, {place}"
    if is_mask:
        message += "; only zeros and -Inf: an attention mask, as it should be"
        return Finding("mask", Severity.INFO, name, message, level="numbers")
    if not _NOT_WEIGHTS.isdisjoint(tensor.name.split(".")):
        return Finding("nonfinite-metric", Severity.WARNING, name, message, level="numbers")
    hint = "Training on from it gives NaN. Go back to a checkpoint from before: `ckpt-tui rollback`."
    return Finding("nonfinite", Severity.ERROR, name, message, hint, "numbers")
