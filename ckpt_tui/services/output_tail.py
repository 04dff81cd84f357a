"""What a training writes to its file, shown to a person as it comes, without ever waiting for that person.

With Ctrl+S, on a line that hangs, or before a pager that is full nobody takes what is written; a supervisor that waited
for that would start nothing again. A training prints what it likes (samples of a model of bytes, for one): what would
make a terminal answer, change its title or its clipboard is shown as text there. The file keeps all as it was written.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import stat
import time
from collections import deque

from ckpt_tui import text
from ckpt_tui.services.last_lines import last_lines

MAX_BEHIND_BYTES = 16 << 20  # who is further behind than that is not shown what is in between
_CHUNK_BYTES = 1 << 16
_PIECE_BYTES = 4096  # what a pipe that is writable takes at once
_SHARE_S = 0.1  # of the supervisor's time, at each look
_LAST_S = 2.0  # when nothing more comes
# Colours and what progress bars move by stay.
_CONTROLS = re.compile(rb"\x1b\[[0-9;]{0,20}[mABCDGK]|[\x00-\x07\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
_BROKEN_OFF = re.compile(rb"(?:\x1b(?:\[[0-9;]{0,20})?|\xc2)\Z")


class Outlet:
    """A terminal, pipe or file of a person; -1 for nowhere. is_open: whether there still is somebody."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._is_file = -1, False
        self.is_terminal = False
        if descriptor < 0:
            return
        with contextlib.suppress(OSError):
            self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            self.is_terminal = os.isatty(descriptor)
            self._descriptor = os.dup(descriptor) if self._is_file else _without_waiting(descriptor)

    @property
    def is_open(self) -> bool:
        return self._descriptor >= 0

    def write(self, data: bytes) -> int:
        """How many bytes were taken now; all of them where nobody is."""
        view = memoryview(data)
        while view and self.is_open:
            if not self._is_file and not self.wait(0.0):
                break
            try:
                view = view[os.write(self._descriptor, view if self._is_file else view[:_PIECE_BYTES]) :]
            except BlockingIOError:
                break
            except OSError:
                self.close()  # who looked has gone
        return len(data) - len(view) if self.is_open else len(data)

    def wait(self, seconds: float) -> bool:
        """Whether it takes something within that time."""
        if not self.is_open:
            return True
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        return bool(waiting.poll(max(seconds, 0.0) * 1000))

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _without_waiting(descriptor: int) -> int:
    """A descriptor of ours for the same terminal or pipe: the flag belongs to what all who have the other one share."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return os.dup(descriptor)  # a socket, or another user's terminal


class Talk:
    """Lines for a person or a program that wait until they are taken, the newest ones at least, and each one whole."""

    def __init__(self, descriptor: int) -> None:
        self._outlet = Outlet(descriptor)
        self._begun = b""  # the rest of a line that was taken in part
        self._waiting: deque[bytes] = deque()

    def say(self, line: str) -> None:
        self._waiting.append(line.encode("utf-8", "replace") + b"\n")
        while len(self._waiting) > 1 and sum(map(len, self._waiting)) > _CHUNK_BYTES:
            self._waiting.popleft()
        self._write()

    def _write(self) -> None:
        while self._begun or self._waiting:
            line = self._begun or self._waiting.popleft()
            self._begun = line[self._outlet.write(line) :]
            if self._begun:
                return

    def close(self) -> None:
        deadline = time.monotonic() + _LAST_S
        while (self._begun or self._waiting) and self._outlet.wait(deadline - time.monotonic()):
            self._write()
        self._outlet.close()


class OutputTail:
    """What a training has written to its file, passed on to a descriptor as it comes. to: -1 for nowhere."""

    def __init__(self, path: str, to: int) -> None:
        self.path = path
        self.begin = self._offset = self._seen = _size(path)
        self._outlet = Outlet(to)
        self._pending = b""  # to be written
        self._broken_off = b""  # the beginning of a sequence whose rest has not come
        self._ends_line = True
        self._file = -1

    def pump(self, *, is_last: bool = False) -> bool:
        """Pass on what is new, as much of it as is taken; whether there was something new. is_last: no more comes."""
        try:
            if self._file < 0:
                self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(self._file).st_size
        except OSError:
            return False
        if size < self._seen:
            self._offset = self.begin = self._seen = size  # somebody emptied it
        has_news = size > self._seen
        self._seen = size
        if self._outlet.is_open:
            self._pass_on(size, time.monotonic() + (_LAST_S if is_last else _SHARE_S), is_last=is_last)
        else:
            self._offset = size
        return has_news

    def _pass_on(self, size: int, deadline: float, *, is_last: bool) -> None:
        while self._outlet.is_open:
            self._pending = self._pending[self._outlet.write(self._pending) :]
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            if self._pending:
                self._outlet.wait(left_s)
            elif self._offset < size:
                self._pending = self._next(size)
            elif is_last and not self._ends_line:
                self._pending, self._ends_line = _CONTROLS.sub(_as_shown, self._broken_off) + b"\n", True
            else:
                return

    def _next(self, size: int) -> bytes:
        """What comes next of it, as it is shown."""
        left_out = b""
        if size - self._offset > MAX_BEHIND_BYTES:
            num_bytes = size - self._offset - _CHUNK_BYTES
            self._offset += num_bytes
            left_out = f"\n[{text.size(num_bytes)} not shown; {os.path.basename(self.path)} has all]\n".encode()
        chunk = os.pread(self._file, min(size - self._offset, _CHUNK_BYTES), self._offset)
        if not chunk:  # emptied just now
            self._offset = size
            return left_out
        self._offset += len(chunk)
        self._ends_line = chunk.endswith(b"\n")
        if not self._outlet.is_terminal:
            return left_out + chunk
        chunk = self._broken_off + chunk
        broken_off = _BROKEN_OFF.search(chunk)
        self._broken_off = broken_off[0] if broken_off else b""
        return left_out + _CONTROLS.sub(_as_shown, chunk[: len(chunk) - len(self._broken_off)])

    def last_lines(self, number: int) -> tuple[str, ...]:
        """What it wrote last, as it was seen."""
        return tuple(line.strip() for line in last_lines(self.path, self.begin, number))

    def close(self) -> None:
        self._outlet.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _as_shown(control: re.Match[bytes]) -> bytes:
    found = control[0]
    return found if len(found) > 2 else b"".join(b"\\x%02x" % byte for byte in found)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
