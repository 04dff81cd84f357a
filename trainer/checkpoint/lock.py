"""One trainer per run directory. The lock is the kernel's: it ends with its owner, however that one ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time

from ckpt_tui.events.writer import process_started
from trainer.errors import UsageError

LOCK_NAME = "trainer.lock"
_PATIENCE_SECONDS = 0.2


class DirectoryLock:
    """Held until `release` or the end of the process. Raises UsageError when somebody else has it."""

    def __init__(self, directory: str) -> None:
        path = os.path.join(directory, LOCK_NAME)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _lock(self._fd):
            owner = _owner(self._fd)
            os.close(self._fd)
            raise UsageError(f"Another process trains in {directory}{owner}. Stop it first, or choose another --out.")
        content = {
            "pid": os.getpid(), "pid_started": process_started(), "host": socket.gethostname(),
            "started_at": time.time(),
        }  # fmt: skip
        # In place: a file that replaced this one would not carry the lock.
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(content).encode() + b"\n", 0)

    def release(self) -> None:
        os.close(self._fd)


def _lock(fd: int) -> bool:
    """Take the lock. A watch looks at it for microseconds at every tick: only who holds it for long owns it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        else:
            return True


def _owner(fd: int) -> str:
    try:
        fields = json.loads(os.pread(fd, 4096, 0))
        return f" (process {int(fields['pid'])} on {fields['host']!s})"
    except (ValueError, KeyError, TypeError, OSError):
        return ""
