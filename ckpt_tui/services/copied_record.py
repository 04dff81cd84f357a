"""What a directory's records name, where the directory is a copy: that trains in the original, and is not its own.

A log, a `launch.json` and a `supervisor.json` say where they were written. A directory that was moved keeps its
training, which has its files open; and a container may know it by a name that is another directory's here.
"""

from __future__ import annotations

import os
import socket

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.regular_file import open_regular

_FIRST_BYTES = 4096  # of a log: who began it, when, and with what


def is_of_another(directory: str, home: object, pid: int, host: str = "") -> bool:
    """Whether a process that a record in `directory` names is of another directory. home: where that record was
    written; older ones do not say, and count. host: of the process, "" for this one.

    What cannot be known counts, too: a live training that is taken for another's is the worse mistake.
    """
    if not isinstance(home, str) or not os.path.isabs(home):
        return False
    try:
        if os.path.samefile(home, directory) or _is_one_log(home, directory):
            return False
    except (OSError, ValueError):
        return False  # it is not there any more: moved
    from ckpt_tui.services.processes import writes_files_of, writes_in
    from ckpt_tui.services.system import lock_owner

    if pid > 0 and host in ("", socket.gethostname()):
        if writes_in(pid, directory):
            return False
        if writes_in(pid, home):
            return True  # and not by hard links that are here, too
        if writes_files_of(pid, directory):
            return False
    held = lock_owner(directory) if pid > 0 else None
    return (held is None or held.pid not in (0, pid)) and _is_told_of_in(home, directory)


def _is_one_log(path: str, other: str) -> bool:
    """Whether one directory is mounted twice, as devices of their own: a copy has files of its own."""
    try:
        before = os.stat(os.path.join(path, LOG_NAME))
        there = os.stat(os.path.join(other, LOG_NAME))
        after = os.stat(os.path.join(path, LOG_NAME))
    except OSError:
        return False
    return (
        before.st_dev != there.st_dev
        and before.st_ino == there.st_ino == after.st_ino
        and before.st_size <= there.st_size <= after.st_size
        and before.st_mtime_ns <= there.st_mtime_ns <= after.st_mtime_ns
    )


def _is_told_of_in(home: str, directory: str) -> bool:
    """Whether the log that lies there was begun by who began the one here; where there is none here, nobody knows."""
    told = _first_line(directory)
    return not told or told == _first_line(home)


def _first_line(directory: str) -> bytes:
    try:
        with open_regular(os.path.join(directory, LOG_NAME)) as file:
            return file.read(_FIRST_BYTES).partition(b"\n")[0]
    except OSError:
        return b""
