"""The levels that need the bytes, over every file of a checkpoint: checksums, NaN and Inf, holes that a crash left.

What vouches for a byte, and what does not:

- A zip records a CRC-32 of the content of every record. Each single flipped bit in one of those bytes is found (a
  CRC-32 finds every error burst of up to 32 bits), in every zip of a directory, also in those without tensors. Not
  covered are what lies between the records (padding, local headers) and the central directory. Nothing there is
  content: what decides which bytes are read (names, sizes, offsets, methods) stands twice or is held against the
  checksum of what it leads to; a flip in the rest (times, attributes, padding) changes nothing that is loaded.
- `.distcp` files are runs of small zips, each with checksums of its own; `.metadata` beside them is a bare pickle.
- safetensors, legacy torch files, plain pickles, JSON and archives written with checksums off have none. A digest of
  the whole file, from the run's log or registry or of each from a directory's manifest, covers every byte of it;
  without one the level is `not-checked`.

A level passes only when every file that the checkpoint consists of is vouched for. Where some are and some are not,
it is `not-checked`, and a finding says which are which.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import field

from ckpt_tui.checkpoints.archive import Archive, read_archive
from ckpt_tui.checkpoints.file_scan import USE_ANOTHER, FileOutcome, FileScan
from ckpt_tui.checkpoints.finite import judge_numbers
from ckpt_tui.checkpoints.model import Checkpoint, Finding, Severity, Storage, TensorInfo
from ckpt_tui.checkpoints.readers.directory import Listing, is_inside
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import plural, safe_text, size

_MAX_DAMAGED_FILES = 1000  # with findings of their own


@dataclass(slots=True)
class ByteFindings:
    """What reading the bytes showed. integrity, numbers: outcomes of those levels."""

    findings: list[Finding] = field(default_factory=list)
    integrity: str = "not-checked"
    numbers: str = "not-checked"
    bytes_checked: int = 0


@dataclass(frozen=True, slots=True)
class ByteChecks:
    """What to look for, and who is told. digests: of whole files as the run recorded them, by name in the checkpoint
    ("" when the checkpoint is the file)."""

    with_integrity: bool = True
    with_numbers: bool = True
    digests: Mapping[str, str] = field(default_factory=dict)
    on_bytes: Callable[[int], None] | None = None
    is_cancelled: Callable[[], bool] | None = None


@dataclass(slots=True)
class _Tally:
    """How much is vouched for, over all files of the checkpoint. unvouched: bytes of files of which some are not."""

    vouched_bytes: int = 0
    unvouched: dict[str, int] = field(default_factory=dict)
    differs: bool = False


def check_bytes(checkpoint: Checkpoint, checks: ByteChecks) -> ByteFindings:
    """Read the files of `checkpoint` once and judge what they hold.

    A file of a directory that cannot be read is a finding; raises CkptError when the checkpoint is one file and that
    cannot be read, and Cancelled.
    """
    found, tally = ByteFindings(), _Tally()
    by_storage: dict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in checkpoint.tensors:
        by_storage[tensor.storage].append(tensor)
    by_file: dict[str, list[Storage]] = defaultdict(list)
    for storage in checkpoint.storages.values():
        by_file[storage.file].append(storage)
    suspicious: set[str] = set()
    if os.path.isdir(checkpoint.path):
        for file, file_bytes, is_part in _files_of(checkpoint, by_file, checks):
            outcome = _scan_part(checkpoint, file, by_file.get(file, []), by_storage, is_part, checks)
            _add(outcome, file, file_bytes, found, tally)
            suspicious |= outcome.suspicious
    else:
        archive = read_archive(checkpoint.path)
        outcome = _scan(checkpoint.path, "", by_file.get("", []), by_storage, archive, checks)
        _add(outcome, "", checkpoint.size_bytes, found, tally)
        suspicious = outcome.suspicious
    if checks.with_integrity:
        if tally.differs:
            found.integrity = "fail"
        elif tally.vouched_bytes and not tally.unvouched:
            found.integrity = "pass"
        else:
            found.findings += _why_not_checked(checkpoint, tally, found.findings)
    if checks.with_numbers:
        found.numbers, findings = judge_numbers(checkpoint, by_storage, suspicious, checks.is_cancelled)
        found.findings += findings
    return found


def _files_of(checkpoint: Checkpoint, by_file: Mapping[str, object], checks: ByteChecks) -> list[tuple[str, int, bool]]:
    """(name, bytes, whether the checkpoint consists of it) of the files beside which its parts lie.

    Only names of the directory's own listing: a name that a file gives for another one leads nowhere else.
    """
    listing = Listing(checkpoint.path)
    state = checkpoint.state if isinstance(checkpoint.state, dict) else {}
    parts = {name for name in (*state, *by_file, *checks.digests) if isinstance(name, str) and is_inside(name)}
    folders = {name.rpartition("/")[0] for name in parts} | {""}
    return [
        (name, num_bytes, name in parts or name.rpartition("/")[2] == ".metadata")  # DCP's list of what lies where
        for name, num_bytes in sorted(listing.files.items())
        if name.rpartition("/")[0] in folders
    ]


def _scan_part(
    checkpoint: Checkpoint,
    file: str,
    storages: list[Storage],
    by_storage: Mapping[str, list[TensorInfo]],
    is_part: bool,
    checks: ByteChecks,
) -> FileOutcome:
    """One file of a directory. What is neither a part nor an archive is none of ours and is not read."""
    path = os.path.join(checkpoint.path, *file.split("/"))
    try:
        archive = read_archive(path)
        if archive is None and not is_part:
            return FileOutcome()
        if archive is None and not storages and file not in checks.digests:
            outcome = FileOutcome()
            outcome.unvouched_bytes = max(os.path.getsize(path), 1)
            return outcome
        return _scan(path, file, storages, by_storage, archive, checks)
    except (CkptError, OSError) as error:
        outcome = FileOutcome()
        outcome.differs = True
        said = any(f.severity == Severity.ERROR and f.where.split(": ")[0] == file for f in checkpoint.findings)
        if not said:
            message = error.message if isinstance(error, CkptError) else error.strerror or str(error)
            message = message.replace(f"{path}: ", "").removeprefix(f"{path} is ")
            finding = Finding("unreadable-part", Severity.ERROR, safe_text(file), message, USE_ANOTHER, "integrity")
            outcome.findings.append(finding)
        return outcome


def _scan(
    path: str,
    file: str,
    storages: list[Storage],
    by_storage: Mapping[str, list[TensorInfo]],
    archive: Archive | None,
    checks: ByteChecks,
) -> FileOutcome:
    return FileScan(path, file, storages, by_storage, archive).run(
        with_integrity=checks.with_integrity,
        with_numbers=checks.with_numbers,
        digest=checks.digests.get(file),
        on_bytes=checks.on_bytes,
        is_cancelled=checks.is_cancelled,
    )


def _add(outcome: FileOutcome, file: str, file_bytes: int, found: ByteFindings, tally: _Tally) -> None:
    if len(found.findings) < _MAX_DAMAGED_FILES * 2:
        found.findings += outcome.findings
    found.bytes_checked += outcome.bytes_read
    tally.vouched_bytes += outcome.vouched_bytes
    tally.differs |= outcome.differs
    if outcome.unvouched_bytes:
        tally.unvouched[file] = file_bytes


def _why_not_checked(checkpoint: Checkpoint, tally: _Tally, findings: list[Finding]) -> list[Finding]:
    """What nothing vouches for; nothing to add where a finding has said it."""
    if any(finding.code in ("checksum-not-recorded", "unknown-compression") for finding in findings):
        return []
    where = safe_text(os.path.basename(os.path.abspath(checkpoint.path)))
    hint = "A run's log or registry may hold a digest."
    if not tally.vouched_bytes:
        message = "no checksums are recorded in it, so that a changed byte cannot be seen"
        return [Finding("no-checksums", Severity.INFO, where, message, hint, "integrity")]
    names = [safe_text(name, 60) for name in tally.unvouched]
    listed = ", ".join(names[:3]) + (f" and {plural(len(names) - 3, 'more file')}" if len(names) > 3 else "")
    message = (
        f"{size(tally.vouched_bytes)} match their checksums; nothing vouches for {listed} "
        f"({size(sum(tally.unvouched.values()))}), so that a changed byte in there cannot be seen"
    )
    return [Finding("no-checksums", Severity.INFO, where, message, "", "integrity")]
