"""Where the bytes of a pickle come from when it is not in memory as a whole: read in windows, large values skipped.

A plain pickle of weights is as long as the weights; what is decoded of it is what stands between them.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.model import OpaqueObject
from ckpt_tui.text import count

_FIRST_WINDOW = 4_096
_MAX_WINDOW = 1 << 20
_HEAD_BYTES = 64  # what is shown of a value that is not read


class PickleSource:
    """The part of an open file up to `end`; offsets are the file's own."""

    def __init__(self, descriptor: int, end: int, path: str) -> None:
        self.descriptor = descriptor
        self.end = end
        self.path = path

    def read(self, offset: int, num_bytes: int) -> bytes:
        """At most `num_bytes` bytes, fewer only at the end."""
        return read_exactly(self.descriptor, max(min(num_bytes, self.end - offset), 0), offset, self.path)

    def place(self, offset: int) -> int | None:
        """Where in the file a byte of this source lies; None when it does not lie there as it is."""
        return offset

    def until(self, end: int) -> PickleSource:
        """The same, ending earlier."""
        return PickleSource(self.descriptor, min(end, self.end), self.path)


class MemorySource(PickleSource):
    """Bytes that are in memory already. start: where in the file they lie, None when they do not."""

    def __init__(self, data: bytes, path: str, start: int | None = None) -> None:
        super().__init__(-1, len(data), path)
        self.data = data
        self.start = start

    def read(self, offset: int, num_bytes: int) -> bytes:
        return self.data[offset : min(offset + num_bytes, self.end)]

    def place(self, offset: int) -> int | None:
        return None if self.start is None else self.start + offset

    def until(self, end: int) -> PickleSource:
        return MemorySource(self.data[:end], self.path, self.start)


class DistantBytes(OpaqueObject):
    """A bytes value that was left where it lies: `num_bytes` from `offset` of `source` on, of which `head` is known."""

    __slots__ = ("head", "num_bytes", "offset", "source")

    def __init__(self, source: PickleSource, offset: int, num_bytes: int) -> None:
        super().__init__("builtins.bytes", (f"{count(num_bytes)} bytes",))
        self.source = source
        self.offset = offset
        self.num_bytes = num_bytes
        self.head = source.read(offset, min(num_bytes, _HEAD_BYTES))


class Window:
    """What is in memory of a source: it grows while the pickle goes on, and is small again behind a skipped value."""

    def __init__(self, source: PickleSource, start: int, max_bytes: int) -> None:
        self.source = source
        self.start = start  # of what is in memory
        self.num_read = 0
        self.max_bytes = max_bytes
        self._next_bytes = _FIRST_WINDOW

    def at(self, start: int, needed: int, *, is_jump: bool = False) -> bytes | None:
        """The bytes from `start` on, at least `needed`; None where the source ends before, or too much was read."""
        available = self.source.end - start
        if needed > available or self.num_read + needed > self.max_bytes:
            return None
        if is_jump:
            self._next_bytes = _FIRST_WINDOW
        wanted = max(self._next_bytes, needed)
        self._next_bytes = min(self._next_bytes * 4, _MAX_WINDOW)
        data = self.source.read(start, wanted)
        self.start = start
        self.num_read += len(data)
        return data
