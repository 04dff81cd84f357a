"""A damaged checkpoint opened as far as it goes: by its reader, by walking it, file by file where it is a directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ckpt_tui.checkpoints.archive import ZIP_HEAD
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Part, Severity
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.checkpoints.salvage_facts import Examined, LostTensor
from ckpt_tui.checkpoints.salvage_zip import BrokenZip, open_broken_zip
from ckpt_tui.errors import CkptError

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.readers.directory import Listing

_ZIP_FORMATS = ("torch-zip", "torchscript")
_ROLES = {
    "optimizer": "optimizer", "scheduler": "scheduler", "scaler": "scaler", "rng_state": "rng", "random_states": "rng",
    "model": "model", "pytorch_model": "model", "adapter_model": "model", "diffusion_pytorch_model": "model",
}  # fmt: skip


def open_damaged_file(
    path: str, limits: ReadLimits, is_cancelled: Callable[[], bool] | None, names_from: str | None = None
) -> Examined:
    from ckpt_tui.checkpoints.registry import open_file

    other = open_file(names_from, limits) if names_from is not None else None
    checkpoint: Checkpoint | None = None
    problem: CkptError | None = None
    try:
        checkpoint = open_file(path, limits)
        if checkpoint.format not in _ZIP_FORMATS and not _may_be_cut_zip(checkpoint):
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
            if checkpoint is not None and checkpoint.format == "pickle":
                return _of_reader(checkpoint)
            is_zip = os.pread(file.descriptor, 4, 0) == ZIP_HEAD
            raise (error if problem is None or is_zip else problem) from None
    if checkpoint is None or checkpoint.format == "pickle" or broken.is_walked:
        return _of_zip(broken)
    if not (broken.has_names and broken.has_own_names):
        return _of_zip(broken)
    # Its directory and its data.pkl hold: the reader knows more of it, but for records behind damaged headers.
    examined = _of_reader(checkpoint)
    for key, storage in checkpoint.storages.items():
        if storage.offset is None and key in broken.checkpoint.storages:
            checkpoint.storages[key] = broken.checkpoint.storages[key]
            if key in broken.lost:
                examined.lost_storages[key] = broken.lost[key]
    return examined


def _may_be_cut_zip(checkpoint: Checkpoint) -> bool:
    """Whether a zip that lost its front could look so: a file that then begins with its data.pkl, and goes on."""
    return checkpoint.format == "pickle" and any(f.code.startswith("trailing-") for f in checkpoint.findings)


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


def open_damaged_directory(path: str, limits: ReadLimits, is_cancelled: Callable[[], bool] | None) -> Examined:
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
                found = open_damaged_file(listing.path_of(file), limits, is_cancelled)
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
                    reason = f"its shard {'does not hold it' if shard in listing.files else 'is missing'}"
                    missing.append(LostTensor(str(name), str(shard), None, "", None, reason))
    return missing
