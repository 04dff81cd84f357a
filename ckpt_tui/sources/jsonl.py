"""Follows a JSON-lines event log while it is written, over every accident that can happen to it.

Only whole lines are decoded; a torn last line waits for its newline. A log that was replaced (another inode, or other
bytes where we had read) or cut is read again from its start, and the batch says so. A copy that was swapped in with
the same bytes and more (rsync, an editor's save) is simply read on. The file stays open: one that is renamed is read
to its end before the one that has its name now, and one that is deleted goes on being read as long as it is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

from ckpt_tui.events.blocks import BlockDecoder, Told, cannot_be_events
from ckpt_tui.events.codec import MAX_LINE_BYTES, decode, decode_lines
from ckpt_tui.events.schema import COMMON_FIELDS, BadLine, Event
from ckpt_tui.sources.base import CHUNK_BYTES, LONG_LOG_BYTES, Batch

_FINGERPRINT_BYTES = 256
_BACKWARD_BYTES = 64 * 1024
_EVENT_STARTS = tuple(f'{{"{name}":'.encode() for name in COMMON_FIELDS)


class JsonlSource:
    """The tail of one file of JSON lines."""

    suffixes = (".jsonl", ".ndjson")

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None  # device, inode
        self._trouble = ""  # the last notice about not being able to read, said once
        self._restarted = False
        self._held = -1  # the file that is read stays open: renamed or deleted, it can be read to its end
        self._blocks: BlockDecoder | None = None
        self._forget()

    @staticmethod
    def accepts(path: str, head: bytes) -> bool:
        """Whether a file that begins with `head` is one of ours: an object, or nothing yet."""
        return head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\x00 \t\r\n")[:1] in (b"", b"{") or path.endswith(
            JsonlSource.suffixes
        )

    @property
    def path(self) -> str:
        return self._path

    @property
    def position(self) -> int:
        """Where the next poll goes on reading, in bytes from the start of the file."""
        return self._offset

    @property
    def unfinished(self) -> BadLine | None:
        """The last line, as long as it has no newline: being written, or torn by the end of who wrote it."""
        start = self._skipped.start if self._skipped is not None else b"".join(self._pieces)[:200]
        if not start.strip():
            return None
        offset = self._offset - self._num_piece_bytes
        return BadLine(reason="torn: the line has no end", start=start, num_bytes=self._num_piece_bytes, offset=offset)

    def _forget(self) -> None:
        self._offset = 0  # bytes read from the file, the unfinished line included
        self._pieces: list[bytes] = []  # the unfinished line
        self._num_piece_bytes = 0
        self._skipped: BadLine | None = None  # the beginning of a line that is too long to keep
        self._head = b""
        self._tail = b""  # the bytes before the offset

    def skip_to_last(self, num_lines: int) -> None:
        self._skip(lambda file: _start_of_last(file, num_lines))

    def skip_to(self, position: int) -> None:
        """Before the first poll: begin at `position`, which is the start of a line."""
        self._skip(lambda file: position)

    def _skip(self, find: Callable[[BinaryIO], int]) -> None:
        try:
            with open(self._path, "rb") as file:
                self._offset = find(file)
                file.seek(0)
                self._head = file.read(min(self._offset, _FINGERPRINT_BYTES))
                file.seek(self._offset - len(self._head))
                self._tail = file.read(len(self._head))
        except OSError:
            self._forget()  # the first poll says what is wrong

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        events: list[Event | BadLine] = []
        return self._poll(max_bytes, events, None)

    def poll_blocks(self, max_bytes: int = CHUNK_BYTES) -> tuple[list[Told], Batch]:
        """What `poll()` tells, with step lines in blocks where that is faster, and beside it the batch without them."""
        told: list[Told] = []
        if self._blocks is None:
            self._blocks = BlockDecoder()
        batch = self._poll(max_bytes, told, self._blocks)
        return told, replace(batch, events=[])

    def _poll(self, max_bytes: int, events: list[Any], blocks: BlockDecoder | None) -> Batch:
        notices: list[str] = []
        left, size = max_bytes, self._offset
        try:
            try:
                named: os.stat_result | None = os.stat(self._path)
            except FileNotFoundError:
                if self._held < 0:
                    raise
                named = None
            is_renamed = named is None or (named.st_dev, named.st_ino) != self._identity
            if self._held >= 0 and is_renamed and os.fstat(self._held).st_size - self._offset < LONG_LOG_BYTES:
                # Its name is another file's, or none's: who has it open may have written on, and may still.
                left, size = self._read(self._held, left, events, blocks)
            if named is None:
                notices += self._cannot_read(FileNotFoundError())
                return self._batch(events, notices, size)
            if self._held < 0 or is_renamed:
                opened = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                if self._held >= 0 and not self._is_what_we_read(opened):
                    self._end_unfinished(events)
                    if events:  # what comes of the other file is another batch
                        os.close(opened)
                        return self._batch(events, notices, size + 1)
                self.let_go()
                self._held = opened
            facts = os.fstat(self._held)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError("it is not a regular file")
            self._look_for_accidents(self._held, facts, notices)
            left, size = self._read(self._held, left, events, blocks)
        except OSError as error:
            notices += self._cannot_read(error)
            self.let_go()
        else:
            if self._trouble:
                notices.append("the log can be read again")
                self._trouble = ""
        return self._batch(events, notices, size)

    def _read(self, descriptor: int, left: int, events: list[Any], blocks: BlockDecoder | None) -> tuple[int, int]:
        """What of `left` was not needed, and how long the file is."""
        while left > 0:
            chunk = os.pread(descriptor, min(left, CHUNK_BYTES), self._offset)
            if not chunk:
                break
            self._take(chunk, events, blocks)
            left -= len(chunk)
        return left, os.fstat(descriptor).st_size

    def _batch(self, events: list[Any], notices: list[str], size: int) -> Batch:
        restarted, self._restarted = self._restarted and bool(events), self._restarted and not events
        return Batch(
            events=events,
            notices=tuple(notices),
            restarted=restarted,
            is_caught_up=self._offset >= size,
            progress=min(self._offset / size, 1.0) if size else 1.0,
        )

    def _end_unfinished(self, events: list[Any]) -> None:
        """Nobody will finish the last line: its file has another's name, or none."""
        torn = self.unfinished
        if torn is not None:
            events.append(torn)
            self._pieces, self._num_piece_bytes, self._skipped = [], 0, None

    def let_go(self) -> None:
        """Close the log; the next poll opens it again, and takes up where this one ended if it is still the same."""
        if self._held >= 0:
            held, self._held = self._held, -1
            with suppress(OSError):
                os.close(held)

    def __del__(self) -> None:
        self.let_go()

    def _cannot_read(self, error: OSError) -> tuple[str, ...]:
        trouble = (
            "the log is gone: it was deleted or moved"
            if isinstance(error, FileNotFoundError)
            else f"the log cannot be read: {error.strerror or error}"
        )
        is_news = trouble != self._trouble and (self._identity is not None or not isinstance(error, FileNotFoundError))
        self._trouble = trouble if is_news or self._trouble else ""
        return (trouble,) if is_news else ()

    def _look_for_accidents(self, descriptor: int, facts: os.stat_result, notices: list[str]) -> None:
        identity = (facts.st_dev, facts.st_ino)
        if self._offset and (identity != self._identity or facts.st_size != self._offset):
            if facts.st_size < self._offset:
                accident = "replaced" if identity != self._identity else "truncated"
            elif not self._is_what_we_read(descriptor):
                accident = "replaced"
            else:
                accident = ""
            if accident:
                notices.append(f"the log was {accident} after {self._offset:,} bytes; read again from its start")
                self._forget()
                self._restarted = True
        self._identity = identity

    def _is_what_we_read(self, descriptor: int) -> bool:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return True  # no log at all, and soon gone perhaps
        start = self._offset - len(self._tail)
        return (
            os.pread(descriptor, len(self._head), 0) == self._head
            and os.pread(descriptor, len(self._tail), start) == self._tail
        )

    def _take(self, chunk: bytes, events: list[Any], blocks: BlockDecoder | None) -> None:
        if len(self._head) < _FINGERPRINT_BYTES:
            self._head += chunk[: _FINGERPRINT_BYTES - len(self._head)]
        self._tail = (self._tail + chunk[-_FINGERPRINT_BYTES:])[-_FINGERPRINT_BYTES:]
        line_start = self._offset - self._num_piece_bytes
        self._offset += len(chunk)
        end = chunk.rfind(b"\n")
        if end < 0:
            self._keep(chunk, line_start)
            return
        text: bytes | None
        if self._skipped is None and self._num_piece_bytes < len(chunk):
            text, position = b"".join([*self._pieces, memoryview(chunk)[:end]]), line_start
        else:  # a long line ends: it is looked at alone
            first_end = chunk.find(b"\n")
            self._keep(chunk[:first_end], line_start)
            if self._skipped is not None:
                events.append(
                    BadLine(
                        reason="line too long", start=self._skipped.start, num_bytes=self._num_piece_bytes,
                        offset=self._skipped.offset,
                    )
                )  # fmt: skip
            else:
                self._decode(b"".join(self._pieces), line_start, events)
            position = line_start + self._num_piece_bytes + 1
            text = chunk[first_end + 1 : end] if end > first_end else None
        self._pieces, self._num_piece_bytes, self._skipped = [], 0, None
        if text is not None:
            decoded: list[Any]
            if blocks is not None:
                decoded = blocks.decode(text)
            else:
                decoded = [] if cannot_be_events(text) else decode_lines(text)
            # Of lines that cannot be events a text may hold very many: each is looked at once, below.
            if decoded and BadLine not in set(map(type, decoded)):
                events += decoded
                position += len(text) + 1
            else:
                for line in text.split(b"\n"):
                    if line:
                        self._decode(line, position, events)
                    position += len(line) + 1
        self._keep(chunk[end + 1 :], position)

    def _keep(self, piece: bytes, line_start: int) -> None:
        """Add to the unfinished line, or only count it once it is longer than any event."""
        if not piece:
            return
        self._num_piece_bytes += len(piece)
        if self._skipped is None:
            self._pieces.append(piece)
            if self._num_piece_bytes > MAX_LINE_BYTES:
                start = b"".join(self._pieces)[:200]
                self._skipped = BadLine(reason="line too long", start=start, offset=line_start)
                self._pieces = []

    @staticmethod
    def _decode(line: bytes, offset: int, events: list[Event | BadLine]) -> None:
        """One line that may be anything; a whole event behind a hole or behind a torn one is not lost."""
        if not line.strip():
            return
        if line[:1] == b"\x00":
            rest = line.lstrip(b"\x00")
            hole = len(line) - len(rest)
            events.append(BadLine(reason="zero bytes: a hole that a crash left", num_bytes=hole, offset=offset))
            if not rest.strip():
                return
            line, offset = rest, offset + hole
        event = decode(line)
        if isinstance(event, BadLine):
            events.append(BadLine(reason=event.reason, start=event.start, num_bytes=event.num_bytes, offset=offset))
            # Whoever writes it, an event begins with one of the fields that all of them have.
            for second in sorted(set(map(line.rfind, _EVENT_STARTS)), reverse=True):
                event = decode(line[second:]) if second > 0 else event
                if not isinstance(event, BadLine):
                    events.append(event)
                    break
        else:
            events.append(event)


def _start_of_last(file: BinaryIO, num_lines: int) -> int:
    """Where the last whole lines of a file begin, found backwards from its end."""
    start = file.seek(0, os.SEEK_END)
    num_left = num_lines + 1  # newlines: the one before the first of these lines, too
    while start > 0:
        size = min(start, _BACKWARD_BYTES)
        start -= size
        file.seek(start)
        block = file.read(size)
        count = block.count(b"\n")
        if count >= num_left:
            at = len(block)
            for _ in range(num_left):
                at = block.rfind(b"\n", 0, at)
            return start + at + 1
        num_left -= count
    return 0
