"""Which processes live: by pid and start time, because pids come again. psutil is loaded when first asked."""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from ckpt_tui.records import dataclass

LOCK_NAME = "trainer.lock"
# /proc counts a start in hundredths of a second since boot, and two ways of computing boot time differ by more.
_START_TOLERANCE_S = 2.0


@dataclass(frozen=True, slots=True)
class LockOwner:
    """The live trainer that holds a run directory. pid 0: it lives, but the lock's content does not tell who."""

    pid: int
    pid_started: float
    host: str


def process_is_alive(pid: int, pid_started: float, host: str) -> bool | None:
    """Whether that process still runs. None: it is on another host, or was never named.

    pid_started: Unix seconds; 0 when it was not recorded, then any process of that pid counts.
    """
    if pid <= 0 or (host and host != socket.gethostname()):
        return None
    import psutil

    try:
        process = psutil.Process(pid)
        if pid_started and abs(process.create_time() - pid_started) > _START_TOLERANCE_S:
            return False
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
    except psutil.Error:
        return None


def lock_owner(directory: str) -> LockOwner | None:
    """Who holds the directory's lock now; None when nobody does, or the lock cannot be opened.

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
        content = os.pread(descriptor, 1 << 16, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    import json  # 2 ms of a start, for a directory that is owned

    try:
        fields = json.loads(content)
        return LockOwner(int(fields["pid"]), float(fields.get("pid_started", 0.0)), str(fields.get("host", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return LockOwner(0, 0.0, "")
