"""How many bytes really become free when names are removed: what has another name elsewhere stays on the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from ckpt_tui.services.files import tree_entries


def bytes_freed(paths: Iterable[str]) -> int:
    """Of all these files and directories removed together: content with several names is counted once, and not at
    all while a name of it stays. What cannot be looked at is not counted."""
    return sum(size for num_names, num_links, size in _contents(paths) if num_names >= num_links)


def bytes_staying(paths: Iterable[str]) -> int:
    """Of the same: what stays on the disk, because a name of it stays."""
    return sum(size for num_names, num_links, size in _contents(paths) if num_names < num_links)


def _contents(paths: Iterable[str]) -> list[tuple[int, int, int]]:
    """Of each content (names of it among these, names in all, bytes)."""
    counted: dict[tuple[int, int], tuple[int, int, int]] = {}
    for path in paths:
        for status in _statuses(path):
            if stat.S_ISREG(status.st_mode):
                key = (status.st_dev, status.st_ino)
                num_names = counted[key][0] + 1 if key in counted else 1
                counted[key] = (num_names, status.st_nlink, status.st_size)
    return list(counted.values())


def _statuses(path: str) -> list[os.stat_result]:
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return [status]
        return [entry.status for entry in tree_entries(path)]
    except OSError:
        return []
