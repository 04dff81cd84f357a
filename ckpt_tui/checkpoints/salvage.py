"""What can be got back from a damaged checkpoint: which storages are there as they were written, and why others not.

A storage counts as whole when all of its bytes are in the file and match their checksum. In a file that records
checksums, one that has lost its own is lost with it: nothing that is given back was guessed. In a format without
checksums nothing vouches for the bytes, and that is said.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.checkpoints.archive import ZIP_HEAD, Record, read_archive
from ckpt_tui.checkpoints.byte_pass import Region, RegionResult, read_once
from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Finding, Part, Severity, Storage, TensorInfo
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.checkpoints.salvage_zip import BrokenZip, open_broken_zip
from ckpt_tui.checkpoints.zip_walk import FoundRecord
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.text import count, safe_text, size

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.readers.directory import Listing

_ZIP_FORMATS = ("torch-zip", "torchscript")
_ROLES = {
    "optimizer": "optimizer", "scheduler": "scheduler", "scaler": "scaler", "rng_state": "rng", "random_states": "rng",
    "model": "model", "pytorch_model": "model", "adapter_model": "model", "diffusion_pytorch_model": "model",
}  # fmt: skip
_USE_BACKUP = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of a whole storage lie: `stored_bytes` at `offset` of the file at `path`.

    crc32: of the elements, as they were just read. is_vouched: a checksum in the file says the same. spans: where the
    bytes lie one after another (path, offset, size), of a storage that is put together from pieces.
    """

    path: str
    offset: int
    size_bytes: int
    stored_bytes: int
    crc32: int
    is_vouched: bool
    is_deflated: bool = False
    is_big_endian: bool = False
    spans: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class LostTensor:
    """A tensor that is not got back. shape and dtype: None and "" where nothing tells them any more."""

    name: str
    file: str
    shape: tuple[int, ...] | None
    dtype: str
    size_bytes: int | None
    reason: str


@dataclass(slots=True)
class Examined:
    """A damaged checkpoint, and what of it is whole. `sources` and `lost_storages` are by storage key.

    is_damaged: False when nothing at all is wrong with it. missing: tensors that an index names and no file holds.
    """

    checkpoint: Checkpoint
    sources: dict[str, Source] = field(default_factory=dict)
    lost_storages: dict[str, str] = field(default_factory=dict)
    missing: list[LostTensor] = field(default_factory=list)
    has_names: bool = True
    has_own_names: bool = True  # False: they are those of another checkpoint, and no other value is known
    has_checksums: bool = False
    is_verified: bool = True  # every storage was read and compared with its checksum
    records: list[FoundRecord] | None = None  # of a walk; None: the archive's own directory tells them
    is_damaged: bool = False
    bytes_read: int = 0

    def lost_reason(self, tensor: TensorInfo) -> str:
        """Why a tensor that lies on a storage cannot be got back; "" when it can."""
        if not tensor.storage or tensor.device == "meta":
            return ""
        reason = self.lost_storages.get(tensor.storage)
        if reason is not None:
            return reason
        source = self.sources.get(tensor.storage)
        if source is None:
            return f"{tensor.storage} was not found"
        needed = bytes_needed(tensor)
        if needed is None:
            return "its shape, strides and offset do not go together"
        if needed > source.size_bytes:
            return f"it needs {count(needed)} bytes, {tensor.storage} has {count(source.size_bytes)}"
        return ""


def bytes_needed(tensor: TensorInfo) -> int | None:
    """Bytes of the storage up to the last element that a tensor shows; None when its numbers make no sense."""
    from ckpt_tui.checkpoints.model import DTYPE_SIZES

    if len(tensor.shape) != len(tensor.stride) or min((*tensor.shape, *tensor.stride, tensor.offset)) < 0:
        return None
    item = DTYPE_SIZES.get(tensor.dtype)
    if item is None:
        return None
    if not tensor.num_elements:
        return 0
    return (tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True)) + 1) * item


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
            examined = _open_directory(path, limits, is_cancelled)
        else:
            examined = _open_file(path, limits, is_cancelled, names_from)
        examined.is_verified = not (trusts_checksums and examined.records is not None)
        _verify(examined, on_bytes, is_cancelled)
    except OSError as error:
        raise from_os_error(error, safe_text(path, 1000)) from error
    return examined


# --- opening


def _open_file(
    path: str, limits: ReadLimits, is_cancelled: Callable[[], bool] | None, names_from: str | None = None
) -> Examined:
    from ckpt_tui.checkpoints.registry import open_file

    other = open_file(names_from, limits) if names_from is not None else None
    checkpoint: Checkpoint | None = None
    problem: CkptError | None = None
    try:
        checkpoint = open_file(path, limits)
        if checkpoint.format not in _ZIP_FORMATS:
            return _of_reader(checkpoint)
    except CkptError as error:
        if error.title in ("Not found", "No permission", "Cannot read", "A directory", "Not a directory"):
            raise
        problem = error
    with RegularFile(path) as file:
        try:
            broken = open_broken_zip(file.descriptor, file.file_bytes, path, limits, is_cancelled, other)
        except CkptError as error:
            if error.title == "Not of the same kind":
                raise
            is_zip = os.pread(file.descriptor, 4, 0) == ZIP_HEAD
            raise (error if problem is None or is_zip else problem) from None
    if checkpoint is None or broken.is_walked or not (broken.has_names and broken.has_own_names):
        return _of_zip(broken)
    # Its directory and its data.pkl hold: the reader knows more of it, but for records behind damaged headers.
    examined = _of_reader(checkpoint)
    for key, storage in checkpoint.storages.items():
        if storage.offset is None and key in broken.checkpoint.storages:
            checkpoint.storages[key] = broken.checkpoint.storages[key]
            if key in broken.lost:
                examined.lost_storages[key] = broken.lost[key]
    return examined


def _of_reader(checkpoint: Checkpoint) -> Examined:
    return Examined(checkpoint, is_damaged=_says_damage(checkpoint))


def _of_zip(broken: BrokenZip) -> Examined:
    return Examined(
        broken.checkpoint,
        lost_storages=dict(broken.lost),
        has_names=broken.has_names,
        has_own_names=broken.has_own_names,
        has_checksums=broken.has_checksums,
        records=broken.records if broken.is_walked else None,
        is_damaged=True,
    )


def _says_damage(checkpoint: Checkpoint) -> bool:
    """Whether its reader found bytes missing or wrong; NaN and dangerous names are no damage."""
    return any(f.severity == Severity.ERROR and f.level in ("structure", "integrity") for f in checkpoint.findings)


def _open_directory(path: str, limits: ReadLimits, is_cancelled: Callable[[], bool] | None) -> Examined:
    """All files that can be read; one that cannot is examined by itself, and what is whole of it joins the others."""
    from ckpt_tui.checkpoints.readers.directory import Listing, Parts
    from ckpt_tui.checkpoints.registry import open_checkpoint

    checkpoint = open_checkpoint(path, limits)
    examined = _of_reader(checkpoint)
    listing = Listing(path)
    damaged = [f.where for f in checkpoint.findings if f.code == "unreadable-part" and f.where in listing.files]
    if damaged and isinstance(checkpoint.state, dict):
        parts = Parts(listing, checkpoint.format, limits)
        parts.checkpoint, parts.state = checkpoint, checkpoint.state
        for file in damaged:
            try:
                found = _open_file(listing.path_of(file), limits, is_cancelled)
            except CkptError:
                continue  # that it cannot be read has been said
            if found.has_names:
                parts.take(file, found.checkpoint)
                role = _role_of(file)
                checkpoint.parts += [Part(role, file, "", found.checkpoint.state)] if role else []
                examined.lost_storages.update({f"{file}:{key}": why for key, why in found.lost_storages.items()})
    examined.missing = _not_in_any_shard(checkpoint, listing)
    return examined


def _role_of(file: str) -> str:
    """What a file of a directory is, by the names that the common writers give it."""
    name = file.rpartition("/")[2]
    return next((role for begin, role in _ROLES.items() if name.startswith(begin)), "")


def _not_in_any_shard(checkpoint: Checkpoint, listing: Listing) -> list[LostTensor]:
    """Tensors that an index of shards names, and no shard holds."""
    held = {tensor.name for tensor in checkpoint.tensors}
    missing: list[LostTensor] = []
    for file in listing.files:
        if "/" in file or ".index." not in file or not file.endswith(".json"):
            continue
        try:
            index = listing.read_json(file)
        except (CkptError, OSError):
            continue
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if isinstance(weight_map, dict):
            for name, shard in weight_map.items():
                if name not in held:
                    held.add(name)
                    shown = safe_text(shard)
                    reason = f"its shard {shown} " + ("does not hold it" if shard in listing.files else "is missing")
                    missing.append(LostTensor(str(name), str(shard), None, "", None, reason))
    return missing


# --- reading every byte once


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
