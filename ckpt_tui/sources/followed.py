"""Whole lines of a text file that another program writes, over every accident that can happen to it.

A torn last line waits for its end. A file that was replaced, cut or rewritten (another inode, fewer bytes, or other
bytes where we had read) is read again from its start, and the piece says so.
"""

from __future__ import annotations

import os
import re

from ckpt_tui.events.schema import BadLine
from ckpt_tui.records import dataclass
from ckpt_tui.sources.base import CHUNK_BYTES, READ_AGAIN

MAX_LINE_BYTES = 4 << 20
_FINGERPRINT_BYTES = 4096  # holds any header of a table: one more column changes it
_START_BYTES = 200
_BACKWARD_BYTES = 64 * 1024
_LINE_ENDS = re.compile(rb"[\r\n]")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one read brought. lines: (where it begins, its bytes without the end), or what is wrong with a line.

    restarted: they begin at the start of a file that is not the one read before. mtime: when it was last written.
    """

    lines: list[tuple[int, bytes] | BadLine]
    notices: tuple[str, ...] = ()
    restarted: bool = False
    is_caught_up: bool = True
    progress: float = 1.0
    mtime: float | None = None


class FollowedLines:
    """The lines of the file at `path`. ends_at_return: a carriage return ends a line, too, as progress bars do."""

    def __init__(self, path: str, *, ends_at_return: bool = False) -> None:
        self.path = path
        self._ends_at_return = ends_at_return
        self._identity: tuple[int, int] | None = None  # device, inode
        self._mtime_ns = 0
        self._trouble = ""  # why it cannot be read, said once
        self._restarted = False
        self.forget()

    def forget(self) -> None:
        """Read from the start of the file at the next time."""
        self._offset = 0
        self._rest = b""  # the unfinished line
        self._too_long: BadLine | None = None  # the beginning of a line that is too long to keep
        self._num_rest_bytes = 0
        self._head = b""
        self._tail = b""

    @property
    def offset(self) -> int:
        """How much of the file is read, an unfinished line included."""
        return self._offset

    def skip_to_last(self, num_lines: int) -> None:
        """Before the first read: go to where the last `num_lines` lines begin. Raises OSError."""
        with open(self.path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            start, block = size, b""
            while (
                start > 0
                and len(_LINE_ENDS.findall(block) if self._ends_at_return else block.split(b"\n")) <= num_lines
            ):
                start = max(start - _BACKWARD_BYTES, 0)
                file.seek(start)
                block = file.read(size - start)
            if not start:
                return
            first = _LINE_ENDS.search(block) if self._ends_at_return else re.search(rb"\n", block)
            self._offset = start + (first.end() if first is not None else 0)
            file.seek(0)
            self._head = file.read(min(self._offset, _FINGERPRINT_BYTES))
            file.seek(self._offset - len(self._head))
            self._tail = file.read(len(self._head))

    @property
    def rest(self) -> tuple[int, bytes]:
        """The unfinished last line and where it begins."""
        return self._offset - self._num_rest_bytes, self._rest

    def read(self, max_bytes: int) -> Piece:
        """What came since the last time, at most about `max_bytes` of it."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            return self._cannot_read(error)
        notices: list[str] = []
        lines: list[tuple[int, bytes] | BadLine] = []
        mtime: float | None = None
        try:
            facts = os.fstat(descriptor)
            mtime = facts.st_mtime
            self._look_for_accidents(descriptor, facts, notices)
            left = max_bytes
            while left > 0:
                chunk = os.pread(descriptor, min(left, CHUNK_BYTES), self._offset)
                if not chunk:
                    break
                self._take(chunk, lines)
                left -= len(chunk)
            size = os.fstat(descriptor).st_size
        except OSError as error:
            notices += self._cannot_read(error).notices
            size = self._offset
        else:
            if self._trouble:
                notices.append(READ_AGAIN)
                self._trouble = ""
        finally:
            os.close(descriptor)
        restarted, self._restarted = self._restarted and bool(lines), self._restarted and not lines
        progress = min(self._offset / size, 1.0) if size else 1.0
        return Piece(lines, tuple(notices), restarted, self._offset >= size, progress, mtime)

    def _cannot_read(self, error: OSError) -> Piece:
        is_gone = isinstance(error, FileNotFoundError)
        trouble = (
            "the log is gone: it was deleted or moved"
            if is_gone
            else f"the log cannot be read: {error.strerror or error}"
        )
        is_news = trouble != self._trouble and (self._identity is not None or not is_gone)
        self._trouble = trouble if is_news or self._trouble else ""
        return Piece([], (trouble,) if is_news else ())

    def _look_for_accidents(self, descriptor: int, facts: os.stat_result, notices: list[str]) -> None:
        identity = (facts.st_dev, facts.st_ino)
        has_changed = identity != self._identity or facts.st_size != self._offset or facts.st_mtime_ns != self._mtime_ns
        if self._offset and has_changed and (facts.st_size < self._offset or not self._is_what_we_read(descriptor)):
            is_rewrite = self._is_rewritten(descriptor)
            if not is_rewrite:
                what = "replaced" if identity != self._identity or facts.st_size >= self._offset else "truncated"
                notices.append(f"the log was {what} after {self._offset:,} bytes; read again from its start")
            self.forget()
            self._restarted = True
        self._identity, self._mtime_ns = identity, facts.st_mtime_ns

    def _is_rewritten(self, descriptor: int) -> bool:
        """Whether it is a table that its writer wrote again with more columns, as Lightning does: no accident."""
        old, new = (head.partition(b"\n")[0].strip() for head in (self._head, os.pread(descriptor, 4096, 0)))
        names, new_names = set(old.split(b",")), set(new.split(b","))
        return len(names) > 1 and (not new or names < new_names)

    def _is_what_we_read(self, descriptor: int) -> bool:
        start = self._offset - len(self._tail)
        return (
            os.pread(descriptor, len(self._head), 0) == self._head
            and os.pread(descriptor, len(self._tail), start) == self._tail
        )

    def _take(self, chunk: bytes, lines: list[tuple[int, bytes] | BadLine]) -> None:
        if len(self._head) < _FINGERPRINT_BYTES:
            self._head += chunk[: _FINGERPRINT_BYTES - len(self._head)]
        self._tail = (self._tail + chunk[-_FINGERPRINT_BYTES:])[-_FINGERPRINT_BYTES:]
        start = self._offset - self._num_rest_bytes
        self._offset += len(chunk)
        first, *others = _LINE_ENDS.split(chunk) if self._ends_at_return else chunk.split(b"\n")
        self._keep(first, start)
        if not others:
            return
        if self._too_long is not None:
            bad = self._too_long
            lines.append(BadLine(reason=bad.reason, start=bad.start, num_bytes=self._num_rest_bytes, offset=bad.offset))
        else:
            lines.append((start, self._rest))
        position = start + self._num_rest_bytes + 1
        self._rest, self._num_rest_bytes, self._too_long = b"", 0, None
        for line in others[:-1]:
            lines.append((position, line))
            position += len(line) + 1
        self._keep(others[-1], position)

    def _keep(self, piece: bytes, start: int) -> None:
        """Add to the unfinished line, or only count it once it is longer than any line of a log."""
        self._num_rest_bytes += len(piece)
        if self._too_long is None:
            self._rest += piece
            if self._num_rest_bytes > MAX_LINE_BYTES:
                self._too_long = BadLine(reason="line too long", start=self._rest[:_START_BYTES], offset=start)
                self._rest = b""
