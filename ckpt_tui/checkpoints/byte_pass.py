"""One pass over a file's bytes that feeds everything which needs them: checksums, NaN and Inf, holes, a digest.

The file goes through a small window that stays in the cache, so that each byte is fetched from memory once and the
rest of the work is nearly free: reading is what costs. A large file is shared among a few threads, each with a window
of its own; reading and checking run outside the interpreter's lock. Memory does not grow with the file.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import field
from mmap import mmap
from typing import TYPE_CHECKING, Protocol

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import count

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.elements import FloatBits

WINDOW_BYTES = 512 * 1024  # measured: smaller costs calls, larger leaves the cache
PAGE_BYTES = 4096  # what a file system writes at a time: holes begin and end on it
MIN_SHARE_BYTES = 64 * 1024 * 1024  # below this a thread costs more than it brings
_MAX_RUNS = 10_000  # zero runs remembered
_ELEMENT_BYTES = 16  # the largest element: slices of a region begin at a multiple of it


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes of one file that are judged together: a record of a zip, or a storage.

    offset, size_bytes: where they lie in the file; for a deflated one `stored_bytes` is what lies there and
    size_bytes what comes out. crc32: of what comes out, None where none is recorded. bits: of the floats in it, None
    when nothing in it can be NaN or nobody asks.
    """

    name: str
    offset: int
    size_bytes: int
    crc32: int | None = None
    bits: FloatBits | None = None
    is_big_endian: bool = False
    stored_bytes: int | None = None  # None: not compressed


@dataclass(slots=True)
class RegionResult:
    """What the pass saw. crc32: of the bytes that are there. is_suspicious: it holds a NaN or Inf somewhere.

    missing_bytes: the file ends before the region does. is_read: False when the pass gave up before it.
    """

    region: Region
    crc32: int = 0
    is_suspicious: bool = False
    missing_bytes: int = 0
    is_read: bool = True
    problem: str = ""  # a compressed record that does not decompress

    @property
    def checksum_differs(self) -> bool:
        recorded = self.region.crc32
        return self.is_read and not self.missing_bytes and recorded is not None and recorded != self.crc32


class Digest(Protocol):
    """A running digest of the whole file."""

    def update(self, data: memoryview, /) -> None: ...


class Crc32Digest:
    """CRC-32 with hashlib's shape. Of neighbouring stretches of a file it can be joined, so that threads share it."""

    def __init__(self) -> None:
        from isal import isal_zlib

        self._crc32: Callable[[memoryview, int], int] = isal_zlib.crc32
        self._combine: Callable[[int, int, int], int] = isal_zlib.crc32_combine
        self.value = 0
        self.num_bytes = 0

    def update(self, data: memoryview, /) -> None:
        self.value = self._crc32(data, self.value)
        self.num_bytes += len(data)

    def add(self, next_stretch: Crc32Digest) -> None:
        """As if what `next_stretch` was fed with had been fed to this one."""
        self.value = self._combine(self.value, next_stretch.value, next_stretch.num_bytes)
        self.num_bytes += next_stretch.num_bytes

    def hexdigest(self) -> str:
        return f"{self.value:08x}"


@dataclass(slots=True)
class PassResult:
    """regions: in the order of the file. zero_runs: (begin, end) of pages that are all zero, where they were looked
    for. bytes_read: of the file, each once unless regions overlap."""

    regions: list[RegionResult] = field(default_factory=list)
    zero_runs: list[tuple[int, int]] = field(default_factory=list)
    bytes_read: int = 0


def read_once(
    descriptor: int,
    file_bytes: int,
    regions: Sequence[Region],
    *,
    digest: Digest | None = None,
    find_zero_pages: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> PassResult:
    """Read every region of an open file in the order of the file, and judge it.

    digest: fed with every byte of the file in order. Regions that overlap are read again, up to twice the file in
    all; the rest is marked as not read (a hostile archive can claim petabytes). Raises CkptError when the device
    fails, and Cancelled.
    """
    in_order = sorted(regions, key=lambda region: region.offset)
    # Of the digests only a CRC can be made of parts.
    shares = _shares(in_order, file_bytes) if digest is None or isinstance(digest, Crc32Digest) else [in_order]
    if len(shares) == 1:
        window = _Window(descriptor, (0, file_bytes), digest, find_zero_pages, on_bytes, is_cancelled)
        _read_share(window, in_order, 2 * file_bytes + WINDOW_BYTES)
        if digest is not None:
            window.finish()
        return window.result
    from threading import Lock  # here, as whoever only inspects needs neither

    from ckpt_tui.checkpoints.threads import work_through

    lock = Lock()

    def advance(num_bytes: int) -> None:
        with lock:
            if on_bytes is not None:
                on_bytes(num_bytes)

    def is_stopped() -> bool:
        with lock:
            return is_cancelled is not None and is_cancelled()

    results: list[PassResult | None] = [None] * len(shares)
    edges = [0, *(share[0].offset - share[0].offset % PAGE_BYTES for share in shares[1:]), file_bytes]
    digests = [Crc32Digest() if digest is not None else None for _ in shares]

    def read(place: int, stop: Callable[[], bool]) -> None:
        stretch = (edges[place], edges[place + 1])
        window = _Window(descriptor, stretch, digests[place], find_zero_pages, advance, stop)
        # Not divided among the shares: one record may be most of a file. Together they claim no more than it.
        _read_share(window, shares[place], 2 * file_bytes + WINDOW_BYTES)
        if digest is not None:
            window.finish()
        results[place] = window.result

    work_through(range(len(shares)), read, len(shares), is_stopped)
    for part in digests:
        if isinstance(digest, Crc32Digest) and part is not None:
            digest.add(part)
    return _joined([result for result in results if result is not None])


def _shares(in_order: Sequence[Region], file_bytes: int) -> list[Sequence[Region]]:
    """Neighbouring regions in shares of about the same size; one share when there is little to read."""
    sizes = [region.size_bytes if region.stored_bytes is None else region.stored_bytes for region in in_order]
    total = sum(sizes)
    num_shares = total // MIN_SHARE_BYTES
    if num_shares < 2 or total > file_bytes:
        return [in_order]
    from ckpt_tui.checkpoints.threads import num_threads

    num_shares = min(num_threads(), num_shares)
    if num_shares < 2:
        return [in_order]
    shares: list[Sequence[Region]] = []
    begin = taken = 0
    for place, size in enumerate(sizes):
        taken += size
        if taken >= total * (len(shares) + 1) // num_shares:
            shares.append(in_order[begin : place + 1])
            begin = place + 1
    return shares


def _joined(results: Sequence[PassResult]) -> PassResult:
    whole = PassResult()
    for result in results:
        whole.regions += result.regions
        whole.bytes_read += result.bytes_read
        for begin, end in result.zero_runs:
            if whole.zero_runs and begin <= whole.zero_runs[-1][1]:
                whole.zero_runs[-1] = (whole.zero_runs[-1][0], max(end, whole.zero_runs[-1][1]))
            else:
                whole.zero_runs.append((begin, end))
    return whole


def _read_share(window: _Window, in_order: Sequence[Region], most_bytes: int) -> None:
    """Read regions in the order of the file until they have claimed `most_bytes`."""
    from isal import isal_zlib

    crc32: Callable[[memoryview | bytes, int], int] = isal_zlib.crc32
    is_suspicious: Callable[[memoryview, FloatBits, bool], bool] | None = None
    if any(region.bits is not None for region in in_order):
        from ckpt_tui.checkpoints.elements import is_suspicious
    result = window.result
    claimed = 0
    for region in in_order:
        outcome = RegionResult(region)
        result.regions.append(outcome)
        stored = region.size_bytes if region.stored_bytes is None else region.stored_bytes
        claimed += stored
        if claimed > most_bytes:
            outcome.is_read = False
            continue
        inflate = None if region.stored_bytes is None else zlib.decompressobj(-15)
        position, end, inflated = region.offset, region.offset + stored, 0
        crc, carried = 0, b""
        while position < end:
            piece = window.view(position, end - position)
            if not piece:
                outcome.missing_bytes = end - position
                break
            position += len(piece)
            if inflate is None:
                crc = crc32(piece, crc)
                if region.bits is not None and not outcome.is_suspicious:
                    assert is_suspicious is not None
                    outcome.is_suspicious = is_suspicious(piece, region.bits, region.is_big_endian)
                continue
            try:
                rest = bytes(piece)
                while rest and inflated <= region.size_bytes:
                    out = inflate.decompress(rest, WINDOW_BYTES)
                    rest = inflate.unconsumed_tail
                    if position >= end and not rest:
                        out += inflate.flush()  # a few bytes that did not fit
                    crc, inflated = crc32(out, crc), inflated + len(out)
                    if region.bits is not None and not outcome.is_suspicious:
                        assert is_suspicious is not None
                        # Pieces of a stream end anywhere, also in the middle of an element.
                        out = carried + out
                        whole = len(out) - len(out) % region.bits.width
                        outcome.is_suspicious = is_suspicious(
                            memoryview(out)[:whole], region.bits, region.is_big_endian
                        )
                        carried = out[whole:]
                    if not out and not rest:
                        break
            except zlib.error as error:
                outcome.problem = f"does not decompress: {error}"
                break
        if inflate is not None and not outcome.problem and not outcome.missing_bytes and inflated != region.size_bytes:
            outcome.problem = f"decompresses to {count(inflated)} bytes or more, not to {count(region.size_bytes)}"
        outcome.crc32 = crc


class _Window:
    """A sliding view of the file: refilled forwards, from a page boundary, as far as it goes.

    stretch: the bytes of the file that the digest is fed with.
    """

    def __init__(
        self,
        descriptor: int,
        stretch: tuple[int, int],
        digest: Digest | None,
        find_zero_pages: bool,
        on_bytes: Callable[[int], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> None:
        self._descriptor = descriptor
        self._digest = digest
        self._digested, self._digest_end = stretch
        self._find_zero_pages: Callable[[memoryview, int], list[bool]] | None = None
        if find_zero_pages:
            from ckpt_tui.checkpoints.elements import zero_pages

            self._find_zero_pages = zero_pages
        self._on_bytes = on_bytes
        self._is_cancelled = is_cancelled
        # Of whole pages: a third faster than a bytearray, which begins a few bytes after one (measured: 125 and 193 ms
        # of CPU for 0.9 GB).
        self._buffer = memoryview(mmap(-1, WINDOW_BYTES))
        self._start = self._end = self._read_up_to = self._digested if digest is not None else 0
        self.result = PassResult()

    def view(self, position: int, size: int) -> memoryview:
        """Bytes from `position` on, at most `size`, a multiple of 16 of them unless they are the last; empty at the
        end of the file. Good until the next call."""
        available = self._available(position, size)
        if not available:
            if self._digest is not None:
                while self._end < position and self._fill(self._end):
                    pass
            self._fill(position - position % PAGE_BYTES)
            available = self._available(position, size)
            if not available:  # less than one element before the end of the file
                available = max(min(self._end - position, size), 0)
        begin = position - self._start
        return self._buffer[begin : begin + available]

    def _available(self, position: int, size: int) -> int:
        if not self._start <= position < self._end:
            return 0
        available = self._end - position
        return size if available >= size else available - available % _ELEMENT_BYTES

    def finish(self) -> None:
        """Read on to the end of the stretch, for the digest."""
        while self._digested < self._digest_end and self._fill(self._digested):
            pass

    def _fill(self, start: int) -> int:
        """Put what lies from `start` on into the window; gives how many bytes that are."""
        if self._is_cancelled is not None and self._is_cancelled():
            raise Cancelled
        try:
            received = os.preadv(self._descriptor, [self._buffer], start)
        except OSError as error:
            message = f"byte {count(start)}: {error.strerror or error}"
            raise CkptError("Cannot read", message, "The disk or the network mount may be failing.") from error
        self._start, self._end = start, start + received
        data = self._buffer[:received]
        if self._digest is not None and self._start <= self._digested < min(self._end, self._digest_end):
            end = min(self._end, self._digest_end)
            self._digest.update(data[self._digested - self._start : end - self._start])
            self._digested = end
        if self._find_zero_pages is not None:
            self._note_zero_pages(data)
        new_bytes = self._end - max(self._read_up_to, self._start)
        if new_bytes > 0:
            self._read_up_to = self._end
            self.result.bytes_read += new_bytes
            if self._on_bytes is not None:
                self._on_bytes(new_bytes)
        return received

    def _note_zero_pages(self, data: memoryview) -> None:
        assert self._find_zero_pages is not None
        runs = self.result.zero_runs
        for page, is_zero in enumerate(self._find_zero_pages(data, PAGE_BYTES)):
            begin = self._start + page * PAGE_BYTES
            if not is_zero or (runs and begin < runs[-1][1]):
                continue
            if runs and runs[-1][1] == begin:
                runs[-1] = (runs[-1][0], begin + PAGE_BYTES)
            elif len(runs) < _MAX_RUNS:
                runs.append((begin, begin + PAGE_BYTES))
