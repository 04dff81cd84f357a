"""The lines of a text file that may be huge and may be growing: where each begins, and its text when it is shown.

Only offsets are kept (8 bytes a line). `scan()` and `find()` run in a worker's thread and read the file in pieces;
`line()` is for the few lines on the screen. A file that got shorter or was replaced is read from its start again.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import overload

from ckpt_tui.errors import from_os_error

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 20  # what is read of one line to show it


class LogLines:
    """One file by lines. One thread scans at a time; readers look at what is there."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.starts = array("Q")  # where each line begins; a line not yet ended with a newline is the last one
        self.num_bytes = 0  # of the file, as far as it was scanned
        self.has_partial_line = False
        self.times_replaced = 0
        self._identity: tuple[int, int] | None = None
        self._scanning = threading.Lock()

    def __len__(self) -> int:
        return len(self.starts)

    def scan(
        self, *, is_cancelled: Callable[[], bool] = lambda: False, on_bytes: Callable[[int], None] | None = None
    ) -> int:
        """Read what was appended since the last time; the number of lines now. Raises CkptError."""
        try:
            # A cancelled scan may still be in its last piece when the next one starts.
            with self._scanning, open(self.path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if self._identity is not None and (identity != self._identity or status.st_size < self.num_bytes):
                    self._start_over()
                self._identity = identity
                file.seek(self.num_bytes)
                while not is_cancelled():
                    chunk = file.read(CHUNK_BYTES)
                    if not chunk:
                        break
                    self._take(chunk)
                    if on_bytes is not None:
                        on_bytes(len(chunk))
        except OSError as error:
            raise from_os_error(error, self.path) from error
        return len(self.starts)

    def _start_over(self) -> None:
        self.starts = array("Q")
        self.num_bytes = 0
        self.has_partial_line = False
        self.times_replaced += 1

    def _take(self, chunk: bytes) -> None:
        base = self.num_bytes
        if not self.has_partial_line:
            self.starts.append(base)
        position = chunk.find(b"\n")
        append, find = self.starts.append, chunk.find
        while position >= 0:
            append(base + position + 1)
            position = find(b"\n", position + 1)
        self.num_bytes = base + len(chunk)
        # A start at the very end is a line that does not exist yet.
        self.has_partial_line = self.starts[-1] < self.num_bytes
        if not self.has_partial_line:
            self.starts.pop()

    def span(self, index: int) -> tuple[int, int]:
        """Where line `index` begins and ends, in bytes, its newline included; nowhere when there is none (any more).

        A scan in its thread may just have found the file replaced, and a screen still ask for lines of the old one.
        """
        starts = self.starts
        try:
            return starts[index], starts[index + 1]
        except IndexError:
            num_bytes = self.num_bytes
            return (starts[index], num_bytes) if index < len(starts) else (num_bytes, num_bytes)

    def is_partial(self, index: int) -> bool:
        """Whether the line has no newline yet: it may still be written."""
        return self.has_partial_line and index == len(self.starts) - 1

    def line(self, index: int) -> bytes:
        """The first megabyte of line `index`, without its newline; empty when it cannot be read any more."""
        start, end = self.span(index)
        with suppress(OSError), open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), max(min(end - start, MAX_LINE_BYTES), 0), start).rstrip(b"\r\n")
        return b""

    def find(
        self,
        words: Sequence[str],
        *,
        from_index: int = 0,
        is_cancelled: Callable[[], bool] = lambda: False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> array[int]:
        """Lines from `from_index` on that hold all `words`, ASCII letters of either case. Raises CkptError."""
        needles = [word.lower().encode("utf-8", "surrogateescape") for word in words]
        return self._select(
            lambda line: all(needle in line for needle in needles), needles[0], from_index, is_cancelled, on_bytes
        )

    def select(
        self,
        holds: Callable[[bytes], bool],
        *,
        from_index: int = 0,
        is_cancelled: Callable[[], bool] = lambda: False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> array[int]:
        """Lines from `from_index` on for which `holds` is true. Looks at every line; for a thread."""
        return self._select(holds, None, from_index, is_cancelled, on_bytes)

    def _select(
        self,
        holds: Callable[[bytes], bool],
        needle: bytes | None,
        from_index: int,
        is_cancelled: Callable[[], bool],
        on_bytes: Callable[[int], None] | None,
    ) -> array[int]:
        found = array("Q")
        num_lines = len(self.starts)
        try:
            with open(self.path, "rb", buffering=0) as file:
                index = from_index
                while index < num_lines and not is_cancelled():
                    start = self.starts[index]
                    # Whole lines of about a chunk; at least one, however long.
                    last = max(bisect_right(self.starts, start + CHUNK_BYTES, index, num_lines) - 1, index + 1)
                    end = self.span(last - 1)[1]
                    data = os.pread(file.fileno(), min(end - start, 16 * CHUNK_BYTES), start)
                    self._select_in(data, start, index, last, holds, needle, found)
                    if on_bytes is not None:
                        on_bytes(len(data))
                    index = last
        except OSError as error:
            raise from_os_error(error, self.path) from error
        return found

    def _select_in(
        self,
        data: bytes,
        base: int,
        first: int,
        last: int,
        holds: Callable[[bytes], bool],
        needle: bytes | None,
        found: array[int],
    ) -> None:
        if needle is None:
            for index in range(first, last):
                start, end = self.span(index)
                if holds(data[start - base : end - base]):
                    found.append(index)
            return
        lowered = data.lower()
        position = lowered.find(needle)
        while position >= 0:
            index = bisect_right(self.starts, base + position, first, last) - 1
            start, end = self.span(index)
            if holds(lowered[start - base : end - base]):
                found.append(index)
            position = lowered.find(needle, end - base)


class VisibleLines(Sequence[int]):
    """The numbers of the lines that a list shows: all of a file, or those that were found."""

    def __init__(self, log: LogLines) -> None:
        self._log = log
        self.found: array[int] | None = None

    def __len__(self) -> int:
        return len(self._log) if self.found is None else len(self.found)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        found = self.found
        if isinstance(index, slice):
            return range(len(self._log))[index] if found is None else found[index]
        if found is not None:
            return found[index] if index < len(found) else len(self._log)  # drawn before the list heard of it: empty
        return index  # its line may be gone by now: then it is shown empty

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self))) if self.found is None else iter(self.found)
