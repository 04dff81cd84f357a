"""Removing what a plan of gc named: one name after the other, never through a link, and never outside the directory."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ckpt_tui.services.deed_record import is_plain_path
from ckpt_tui.services.files import tree_entries


def remove(directory: str, place: str) -> None:
    """Remove the file, the link or the whole directory `place`, a path below `directory`; gone already is fine.

    Raises OSError; what is not removed by then is whole.
    """
    if not is_plain_path(place):
        raise ValueError(f"not a place below a directory: {place!r}")
    path = os.path.join(directory, place)
    if leads_elsewhere(directory, place):
        raise OSError(errno.ELOOP, "it lies behind a link", path)
    try:
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_directory:
        _unlink(path)
        return
    entries = list(tree_entries(path))
    for entry in entries:
        if not entry.is_directory:
            _unlink(os.path.join(path, entry.path))
    # The deepest first: their paths are the longest of each branch.
    for inside in sorted((entry.path for entry in entries if entry.is_directory), key=lambda p: -p.count("/")):
        os.rmdir(os.path.join(path, inside))
    os.rmdir(path)


def leads_elsewhere(directory: str, place: str) -> bool:
    """Whether a directory on the way to `place` is a link: what lies behind it may be anybody's."""
    parts = place.split("/")[:-1]
    return any(os.path.islink(os.path.join(directory, *parts[: depth + 1])) for depth in range(len(parts)))


def remove_empty_parents(directory: str, place: str, top: str) -> None:
    """Remove the directory `place` and those above it that are empty, up to `top`, which stays."""
    while place != top and place.startswith(f"{top}/"):
        try:
            os.rmdir(os.path.join(directory, place))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return  # somebody's file lies in it
            raise
        place = os.path.dirname(place)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
