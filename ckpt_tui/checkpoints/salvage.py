"""What can be got back from a damaged checkpoint: which storages are there as they were written, and why others not.

A storage counts as whole when all of its bytes are in the file and match their checksum. In a file that records
checksums, one that has lost its own is lost with it: nothing that is given back was guessed. In a format without
checksums nothing vouches for the bytes, and that is said.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

from ckpt_tui.checkpoints.archive import Record, read_archive
from ckpt_tui.checkpoints.byte_pass import Region, RegionResult, read_once
from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import Finding, Severity, Storage
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.checkpoints.salvage_facts import Examined, Source
from ckpt_tui.checkpoints.salvage_open import open_damaged_directory, open_damaged_file
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.text import safe_text, size

_USE_BACKUP = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


def examine(
    path: str,
    limits: ReadLimits = DEFAULT_LIMITS,
    *,
    names_from: str | None = None,
    trusts_checksums: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Examined:
    """Look at everything in the checkpoint at `path`, a file or a directory, and read all of its bytes once.

    names_from: another checkpoint of the same run, for the names and shapes where those of a torch zip are lost.
    trusts_checksums: do not read storages of a truncated zip whose checksums are recorded; who copies them compares.
    Raises CkptError when there is nothing to get back from it, and Cancelled.
    """
    try:
        if "\0" not in path and Path(path).is_dir():
            examined = open_damaged_directory(path, limits, is_cancelled)
        else:
            examined = open_damaged_file(path, limits, is_cancelled, names_from)
        examined.is_verified = not (trusts_checksums and examined.records is not None)
        _verify(examined, on_bytes, is_cancelled)
    except OSError as error:
        raise from_os_error(error, safe_text(path, 1000)) from error
    return examined


def _verify(
    examined: Examined, on_bytes: Callable[[int], None] | None, is_cancelled: Callable[[], bool] | None
) -> None:
    checkpoint = examined.checkpoint
    by_file: dict[str, list[Storage]] = {}
    as_text: set[str] = set()
    for storage in checkpoint.storages.values():
        if storage.key in examined.lost_storages:
            continue
        if storage.offset is None:
            examined.lost_storages[storage.key] = f"the bytes of {storage.key} are not in the file"
            if not examined.is_damaged:  # its reader sees nothing wrong: its elements stand there as text
                as_text.add(storage.key)
        else:
            by_file.setdefault(storage.file, []).append(storage)
    if "" not in by_file and not Path(checkpoint.path).is_dir():
        by_file[""] = []
    for file, storages in by_file.items():
        if file and not _is_inside(file):
            examined.lost_storages.update(dict.fromkeys((s.key for s in storages), "it lies outside of the checkpoint"))
            continue
        path = os.path.join(checkpoint.path, *file.split("/")) if file else checkpoint.path
        _verify_file(examined, path, storages, on_bytes, is_cancelled)
    _keep_empty(examined)
    examined.is_damaged |= bool(examined.lost_storages.keys() - as_text) or bool(examined.missing)


def _keep_empty(examined: Examined) -> None:
    """A tensor without elements has lost nothing, wherever its storage is."""
    if not examined.has_names:
        return
    needed: dict[str, int] = {}
    for tensor in examined.checkpoint.tensors:
        if tensor.storage in examined.lost_storages:
            needed[tensor.storage] = needed.get(tensor.storage, 0) + tensor.num_elements
    for key, num_elements in needed.items():
        if not num_elements:
            del examined.lost_storages[key]
            examined.sources[key] = Source(examined.checkpoint.path, 0, 0, 0, 0, is_vouched=True)


def _is_inside(file: str) -> bool:
    from ckpt_tui.checkpoints.readers.directory import is_inside

    return is_inside(file)


def _verify_file(
    examined: Examined,
    path: str,
    storages: list[Storage],
    on_bytes: Callable[[int], None] | None,
    is_cancelled: Callable[[], bool] | None,
) -> None:
    lost = examined.lost_storages
    with RegularFile(path) as file:
        regions, others = [], _other_records(examined, path, storages)
        of_region: dict[int, Storage | None] = {}
        for storage in storages:
            assert storage.offset is not None
            stored = storage.size_bytes if storage.deflated_bytes is None else storage.deflated_bytes
            if storage.offset + stored > file.file_bytes:
                gone = size(storage.offset + stored - file.file_bytes)
                lost[storage.key] = f"the file ends {gone} before {storage.key} does"
                continue
            region = Region(
                storage.key, storage.offset, storage.size_bytes, storage.crc32, stored_bytes=storage.deflated_bytes
            )
            of_region[id(region)] = storage
            regions.append(region)
        if not examined.is_verified and all(r.crc32 or not r.size_bytes for r in regions):
            _trust(examined, path, regions)
            return
        examined.is_verified = True
        result = read_once(
            file.descriptor, file.file_bytes, [*regions, *others], on_bytes=on_bytes, is_cancelled=is_cancelled
        )
    examined.bytes_read += result.bytes_read
    examined.has_checksums |= any(region.crc32 for region in (*regions, *others))
    bad: list[Region] = []
    for outcome in result.regions:
        found = of_region.get(id(outcome.region))
        if found is None:
            if outcome.checksum_differs or outcome.missing_bytes or outcome.problem:
                bad.append(outcome.region)
            continue
        is_vouched = bool(found.crc32) or _lies_in(found, others)
        reason = _why_lost(found, outcome, examined.has_checksums and not is_vouched)
        if reason:
            lost[found.key] = reason
            continue
        assert found.offset is not None
        examined.sources[found.key] = Source(
            path, found.offset, found.size_bytes,
            found.size_bytes if found.deflated_bytes is None else found.deflated_bytes,
            outcome.crc32, is_vouched, found.deflated_bytes is not None, found.is_big_endian,
        )  # fmt: skip
    for region in bad:
        _judge_bad_record(examined, region)


def _trust(examined: Examined, path: str, regions: list[Region]) -> None:
    """Take the recorded checksums for those of the bytes."""
    examined.has_checksums = True
    for region in regions:
        storage = examined.checkpoint.storages[region.name]
        stored = region.size_bytes if region.stored_bytes is None else region.stored_bytes
        examined.sources[region.name] = Source(
            path, region.offset, region.size_bytes, stored, region.crc32 or 0, True, region.stored_bytes is not None,
            storage.is_big_endian,
        )  # fmt: skip


def _lies_in(storage: Storage, records: list[Region]) -> bool:
    """Whether a record with a checksum holds the storage and more: an array in data.pkl, or behind its own header."""
    assert storage.offset is not None
    place = bisect_right(records, storage.offset, key=_offset) - 1
    record = records[place] if place >= 0 else None
    if record is None or not record.crc32:
        return False
    stored = record.size_bytes if record.stored_bytes is None else record.stored_bytes
    return storage.offset + (storage.deflated_bytes or storage.size_bytes) <= record.offset + stored


def _offset(record: Region) -> int:
    return record.offset


def _why_lost(storage: Storage, outcome: RegionResult, needs_checksum: bool) -> str:
    key = storage.key
    if not outcome.is_read:
        return f"{key} overlaps others so often that it was not read"
    if outcome.missing_bytes:
        return f"the file ends {size(outcome.missing_bytes)} before {key} does"
    if outcome.problem:
        return f"{key} {outcome.problem}"
    if outcome.checksum_differs and storage.crc32:
        return f"{key} is not what was written: its checksum differs"
    if needs_checksum and outcome.crc32 and storage.size_bytes:
        return f"{key} has no checksum, and everything else in the file has one"
    return ""


def _other_records(examined: Examined, path: str, storages: list[Storage]) -> list[Region]:
    """Records of an archive that are not just one storage: what describes it, or holds a storage and a header."""
    records: list[Record] = []
    if examined.records is not None and path == examined.checkpoint.path:
        records = [
            Record(r.name, r.offset, r.size_bytes, r.compressed_bytes, r.crc32 or 0, not r.method)
            for r in examined.records
            if r.is_complete
        ]
    else:
        try:
            archive = read_archive(path)
        except CkptError:
            return []
        records = archive.records if archive is not None else []
    taken = {(storage.offset, storage.size_bytes) for storage in storages}
    return [
        Region(r.name, r.offset, r.size_bytes, r.crc32 or None, stored_bytes=None if r.is_stored else r.stored_bytes)
        for r in sorted(records, key=lambda record: record.offset)
        if (r.offset, r.size_bytes) not in taken
    ]


def _judge_bad_record(examined: Examined, region: Region) -> None:
    """A damaged record that is no storage: the storages inside it are lost; one that describes others is said."""
    name = safe_text(region.name)
    end = region.offset + (region.size_bytes if region.stored_bytes is None else region.stored_bytes)
    inside = [key for key, source in examined.sources.items() if region.offset <= source.offset < end]
    for key in inside:
        del examined.sources[key]
        examined.lost_storages[key] = f"{name} is not what was written: its checksum differs"
    examined.is_damaged = True
    note = Finding("checksum", Severity.ERROR, name, "its checksum differs", _USE_BACKUP, "integrity")
    if not any(finding.where == name for finding in examined.checkpoint.findings):
        examined.checkpoint.findings.append(note)
