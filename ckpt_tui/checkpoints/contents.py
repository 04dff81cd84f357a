"""Of a checkpoint that is a directory: its files, what each is, and which should be there and are not."""

from __future__ import annotations

import os

from ckpt_tui.checkpoints.model import Checkpoint

_MAX_FILES = 10_000


class PartFile:
    """One file. roles: what it holds, in words. size_bytes: None where it cannot be told. is_missing: it should be
    there. is_unreadable: it is, and nothing could be made of it; a finding says why."""

    __slots__ = ("is_missing", "is_unreadable", "name", "num_tensors", "roles", "size_bytes")

    def __init__(self, name: str, *, is_missing: bool = False) -> None:
        self.name = name
        self.roles: list[str] = []
        self.num_tensors = 0
        self.size_bytes: int | None = None
        self.is_missing = is_missing
        self.is_unreadable = False

    @property
    def fault(self) -> str:
        """MISSING or UNREADABLE, "" where it is neither."""
        return "MISSING" if self.is_missing else "UNREADABLE" if self.is_unreadable else ""


def holds_files(checkpoint: Checkpoint) -> bool:
    """Whether its state is by files, as that of a directory is."""
    return any(part.file for part in checkpoint.parts) or any(tensor.file for tensor in checkpoint.tensors[:1])


def files_of(checkpoint: Checkpoint) -> list[PartFile]:
    """The files that were read, and before them those that are missing or could not be; [] for a single file."""
    if not holds_files(checkpoint):
        return []
    missing = {finding.where for finding in checkpoint.findings if finding.code == "missing-part"}
    files = {name: PartFile(name, is_missing=True) for name in sorted(missing)[:_MAX_FILES]}

    def file_of(name: str) -> PartFile:
        found = files.get(name)
        if found is None:
            found = files[name] = PartFile(name)
        return found

    for finding in checkpoint.findings[:_MAX_FILES]:
        if finding.code == "unreadable-part" and _is_file_of(checkpoint, finding.where):
            file_of(finding.where).is_unreadable = True
    if isinstance(checkpoint.state, dict):
        for name in list(checkpoint.state)[:_MAX_FILES]:
            if isinstance(name, str):
                file_of(name)
    for part in checkpoint.parts[:_MAX_FILES]:
        found = file_of(part.file) if part.file else None
        if found is not None and part.role not in found.roles:
            found.roles.append(part.role)
    counted: dict[str, int] = {}
    for tensor in checkpoint.tensors:
        if tensor.file and not tensor.is_component:
            counted[tensor.file] = counted.get(tensor.file, 0) + 1
    for name, num_tensors in list(counted.items())[:_MAX_FILES]:
        file_of(name).num_tensors = num_tensors
    for file in files.values():
        if not file.is_missing:
            try:
                file.size_bytes = os.stat(os.path.join(checkpoint.path, file.name)).st_size
            except (OSError, ValueError):
                file.size_bytes = None  # a part of a file, or one that went away
    # DeepSpeed's weights by parameter, a distributed checkpoint's parts: in the state, and no files.
    return [f for f in files.values() if f.is_missing or f.roles or f.num_tensors or f.size_bytes is not None]


def _is_file_of(checkpoint: Checkpoint, name: str) -> bool:
    """Whether it is one of the files in the directory, and not a record of an archive or a path that leads out."""
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        return False
    return os.path.isfile(os.path.join(checkpoint.path, name))
