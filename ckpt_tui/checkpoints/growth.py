"""Is somebody writing this checkpoint right now? A file or directory is compared with itself a moment later."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import field

from ckpt_tui.records import dataclass

_RECENT_S = 5.0  # what changed less than this ago is looked at twice
_WAIT_S = 0.4
_LOOK_S = 0.02
_MAX_FILES = 20_000


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file or directory at one moment. files: (size, mtime_ns) by relative name, "" for a file by itself."""

    place: tuple[int, int]  # inode and device
    is_directory: bool
    files: dict[str, tuple[int, int]] = field(hash=False)

    @property
    def size_bytes(self) -> int:
        return sum(size for size, _ in self.files.values())

    @property
    def changed_at(self) -> float:
        """When the newest file in it was written, Unix seconds; 0 for an empty directory."""
        return max((mtime_ns for _, mtime_ns in self.files.values()), default=0) / 1e9


def stamp_of(path: str) -> Stamp:
    """Raises OSError when there is nothing, ValueError for what can be no path."""
    status = os.stat(path)
    place = (status.st_ino, status.st_dev)
    if not stat.S_ISDIR(status.st_mode):
        return Stamp(place, False, {"": (status.st_size, status.st_mtime_ns)})
    files: dict[str, tuple[int, int]] = {}
    for folder, _, names in os.walk(path):
        for name in names:
            inner = os.path.join(folder, name)
            try:
                found = os.stat(inner)
            except OSError:
                continue  # a link to nothing, or gone meanwhile
            if stat.S_ISREG(found.st_mode):
                files[os.path.relpath(inner, path)] = (found.st_size, found.st_mtime_ns)
        if len(files) >= _MAX_FILES:
            break
    return Stamp(place, True, files)


def has_changed(path: str, before: Stamp) -> bool:
    """Whether it was written to since. What was put in its place by a rename is whole, and another one."""
    try:
        now = stamp_of(path)
    except (OSError, ValueError):
        return False
    return now.place == before.place and now.files != before.files


def grows(path: str, before: Stamp) -> bool:
    """Whether somebody is writing it: only what changed just now is watched for a moment."""
    if has_changed(path, before):
        return True
    if not -_RECENT_S < time.time() - before.changed_at < _RECENT_S:
        return False
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        if has_changed(path, before):
            return True
    return False
