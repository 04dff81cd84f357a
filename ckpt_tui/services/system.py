"""Which processes live, and who of them holds a run directory."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path

from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.process_identity import process_is_alive as process_is_alive

LOCK_NAME = "trainer.lock"
_MAX_BYTES = 1 << 16


def identify(pid: int) -> ProcessIdentity:
    """Who a process of this machine is; started now when it is gone already, so that none comes to be taken for it."""
    found = ProcessIdentity.of(pid)
    if found.pid_started:
        return found
    import psutil  # where there is no /proc

    try:
        started = float(psutil.Process(pid).create_time())
    except (psutil.Error, OverflowError, ValueError):
        started = time.time()
    return replace(found, pid_started=started)


def lock_owner(directory: str) -> ProcessIdentity | None:
    """Who holds the directory's lock now; None when nobody does, or the lock cannot be opened. pid 0: somebody does,
    and the lock's content does not tell who.

    A lock file that nobody holds (its owner died) does not count. On another host of a network mount the lock itself
    still tells, where the mount passes flock on.
    """
    descriptor = _open(directory)
    if descriptor is None:
        return None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return None
        else:
            return None  # closing the descriptor lets it go
        owner, inode = _named(descriptor), os.fstat(descriptor).st_ino
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if owner.birth or owner.pid <= 0 or not owner.is_on_this_host:
        return owner
    # Recorded by the clock alone, which may have been set since: where the kernel says that it is the process of that
    # number that has the lock, it is that very process.
    return identify(owner.pid) if owner.pid in _holders(inode, _locks() or []) else owner


def holder_after(directory: str, last: ProcessIdentity) -> ProcessIdentity | None:
    """Who holds the lock of a directory in which `last` is not seen to live: itself where it cannot be seen, or what it
    left behind, or a session that has not told of itself yet. None for nobody, and for an act of a viewer: that holds
    the lock where nobody trains.

    Who is named by the lock and is known to be dead is asked for without a touch of the lock: who looks holds it for a
    moment, and a crashed run is looked at every second, perhaps in the moment in which it is started again.
    """
    descriptor = _open(directory)
    if descriptor is None:
        return None
    try:
        named, inode = _named(descriptor), os.fstat(descriptor).st_ino
    except OSError:
        return None
    finally:
        os.close(descriptor)
    locks = _locks()
    holders = _holders(inode, locks or [])
    if locks is not None and last.is_of_this_boot and last.is_same(named) and process_is_alive(last) is False:
        holder = named if holders else None
    else:
        holder = lock_owner(directory)
    return None if holder is None or _is_act(directory, holders, locks or []) else holder


def has_let_go(directory: str, process: ProcessIdentity) -> bool:
    """Whether that very process held the lock of a directory, as a trainer does for its life, and holds it no more: of
    one in another container, that cannot be seen, the kernel tells so much."""
    descriptor = _open(directory)
    if descriptor is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # an error where it is held, or where there are no locks
        return bool(process.birth) and _named(descriptor).birth == process.birth
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_act(directory: str, holders: set[int], locks: list[tuple[int, int]]) -> bool:
    from ckpt_tui.services.deed_record import FOLDER_NAME

    try:
        folder = os.stat(os.path.join(directory, FOLDER_NAME)).st_ino
    except OSError:
        return False
    return not holders.isdisjoint(_holders(folder, locks))


def _open(directory: str) -> int | None:
    try:
        return os.open(os.path.join(directory, LOCK_NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None


def _named(descriptor: int) -> ProcessIdentity:
    import json  # 2 ms of a start, for a directory that is owned

    try:
        return ProcessIdentity.from_fields({"pid_started": 0.0, **json.loads(os.pread(descriptor, _MAX_BYTES, 0))})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return NOBODY


def _locks() -> list[tuple[int, int]] | None:
    """Pid and inode of every `flock` that keeps others out, of processes that can be seen; None where nobody tells."""
    try:
        lines = Path("/proc/locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    # "1: FLOCK  ADVISORY  WRITE 4711 08:01:123456 0 EOF"; of one who waits for it "->" comes second
    rows = [line.split() for line in lines if " FLOCK " in line and " WRITE " in line and "->" not in line]
    told = [(row[4], row[5].rpartition(":")[2]) for row in rows if len(row) > 5]
    return [(int(pid), int(inode)) for pid, inode in told if pid.isdecimal() and inode.isdecimal()]


def _holders(inode: int, locks: list[tuple[int, int]]) -> set[int]:
    return {pid for pid, one in locks if one == inode}
