"""Which processes live, and who of them holds a run directory."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.process_identity import process_is_alive as _is_alive

LOCK_NAME = "trainer.lock"


def process_is_alive(process: ProcessIdentity | int, pid_started: float = 0.0, host: str = "") -> bool | None:
    """Whether that process still runs. None: it is on another host, or was never named."""
    return _is_alive(ProcessIdentity(process, pid_started, host) if isinstance(process, int) else process)


def lock_owner(directory: str) -> ProcessIdentity | None:
    """Who holds the directory's lock now; None when nobody does, or the lock cannot be opened. pid 0: somebody does,
    and the lock's content does not tell who.

    A lock file that nobody holds (its owner died) does not count. On another host of a network mount the lock itself
    still tells, where the mount passes flock on.
    """
    try:
        descriptor = os.open(os.path.join(directory, LOCK_NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return None
        else:
            return None  # closing the descriptor lets it go
        content, inode = os.pread(descriptor, 1 << 16, 0), os.fstat(descriptor).st_ino
    except OSError:
        return None
    finally:
        os.close(descriptor)
    import json  # 2 ms of a start, for a directory that is owned

    try:
        owner = ProcessIdentity.from_fields(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return ProcessIdentity()
    return owner if owner.birth else _as_it_lives(owner, inode)


def _as_it_lives(owner: ProcessIdentity, inode: int) -> ProcessIdentity:
    """One that was recorded by the clock alone, which may have been set since: where the kernel says that it is the
    process of that number that has the lock, it is that very process."""
    if owner.pid <= 0 or not owner.is_on_this_host:
        return owner
    try:
        lines = Path("/proc/locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return owner
    # "1: FLOCK  ADVISORY  WRITE 4711 08:01:123456 0 EOF"; who waits for one has "->" behind the number
    held = ("FLOCK", "WRITE", str(owner.pid), str(inode))
    rows = (line.split() for line in lines)
    is_it = any((row[1], row[3], row[4], row[5].rpartition(":")[2]) == held for row in rows if len(row) > 5)
    return ProcessIdentity.of(owner.pid) if is_it else owner
