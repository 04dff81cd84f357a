"""`ckpt-tui watch` on a real pseudo terminal of a size, its bytes read as they come."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class WatchedPty:
    """A command on a pseudo terminal. Leave it with `end()`."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, *, columns: int = 80, rows: int = 24
    ) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            # By the child: it may be up before we run again.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.chdir(cwd)
            os.execve(sys.executable, [sys.executable, "-m", "ckpt_tui", *command], dict(env))
        self.received = b""

    def read_until(self, *wanted: bytes, since: int = 0, timeout_s: float = 180.0) -> bytes:
        """Everything received so far, once it holds all of `wanted` from byte `since` on."""
        ends = time.monotonic() + timeout_s
        while not all(one in self.received[since:] for one in wanted):
            assert time.monotonic() < ends, f"never came: {wanted}\n{self.received[-3000:]!r}"
            self.read_for(0.05)
        return self.received

    def read_for(self, seconds: float) -> bytes:
        """What comes within so many seconds."""
        before, ends = len(self.received), time.monotonic() + seconds
        while (left_s := ends - time.monotonic()) > 0:
            if select.select([self.descriptor], [], [], left_s)[0]:
                try:
                    self.received += os.read(self.descriptor, 65536)
                except OSError:  # it has ended
                    break
        return self.received[before:]

    def write(self, keys: bytes) -> None:
        os.write(self.descriptor, keys)

    def end(self) -> int:
        """Leave it with q; killed when it does not go. Its exit code."""
        ends = time.monotonic() + 180
        try:
            self.write(b"q")
            while time.monotonic() < ends:
                self.read_for(0.02)
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    return os.waitstatus_to_exitcode(status)
            os.kill(self.pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        finally:
            os.close(self.descriptor)
