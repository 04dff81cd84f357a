"""One writer per run directory: `trainer.lock`, held with flock for life, so that a dead owner does not hold it."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path

from ckpt_tui.events.writer import process_started

LOCK_NAME = "trainer.lock"


class LockedError(Exception):
    """Another trainer owns the directory."""


class DirectoryLock:
    """Held from construction until `release()` or the end of the process, however it ends.

    The file stays: removing it would let two trainers lock two files of one name. Its content says who holds it.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK_NAME
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            content = os.pread(self._descriptor, 4096, 0).decode("utf-8", "replace")
            os.close(self._descriptor)
            raise LockedError(_who(content)) from None
        owner = {
            "pid": os.getpid(),
            "pid_started": process_started(os.getpid()),
            "host": platform.node(),
            "started_at": time.time(),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(owner).encode() + b"\n", 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _who(content: str) -> str:
    try:
        fields = json.loads(content)
        return f"process {int(fields['pid'])} on {fields['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
