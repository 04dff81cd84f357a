"""Write a file and prove that the device holds it: every byte read back, past the page cache where that can be.

What is proven: after the flush, the device answers with what was in memory, byte for byte. What is not: that its own
cache has reached the medium (that is what the flush demands, and what a device may lie about), that a host below a
virtual device did the same, and that the bytes are still right tomorrow; each load checks them again.

Large contents go past the page cache in both directions (O_DIRECT): that is quicker than through it, leaves what the
training has cached alone, and makes the reading back one of the device instead of one of memory. A filesystem that
has no such way (tmpfs, some network ones) is written as usual, and asked to drop its pages before they are read.

While somebody waits for a large file (`is_waited`: an emergency, the end of a run) it goes through the page cache, the
device at work on each piece while the next is written, and is read back from there: that the kernel took the right
bytes and reported them flushed is what is proven then, in little more time than writing and flushing takes. The file
that it replaces is still there under the name of its backup.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import threading
import time
from dataclasses import dataclass, field

try:
    from isal.isal_zlib import crc32  # at memory speed, several times zlib's
except ImportError:
    from zlib import crc32

__all__ = ["PublishError", "Published", "crc32", "write_proven"]

_O_DIRECT = getattr(os, "O_DIRECT", 0)
# What filesystems say that took the flag and cannot do it after all.
_NOT_DIRECT = (errno.EINVAL, errno.EOPNOTSUPP)
_BLOCK_BYTES = 4096
# Smaller files gain nothing from the direct way.
_DIRECT_BYTES = 1 << 20
_WRITE_BYTES = 64 << 20
_READ_BYTES = 4 << 20
_BUFFERED_WRITE_BYTES = 8 << 20
_BUFFERED_READ_BYTES = 1 << 20
_SYNC_FILE_RANGE_WRITE = 2
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # of Linux


class PublishError(Exception):
    """A file could not be made; every name still holds what it held. stage: write, sync, verify or publish.

    errno: of the operating system's error, 0 when it was none.
    """

    def __init__(self, stage: str, error: OSError | str) -> None:
        self.stage = stage
        self.reason = error if isinstance(error, str) else f"{error.strerror or error}"
        self.errno = 0 if isinstance(error, str) else error.errno or 0
        super().__init__(f"{stage}: {self.reason}")


@dataclass(frozen=True)
class Published:
    """What the file holds now. digest: of the whole file, `crc32:<hex>`, computed from memory and found in the file.

    seconds: what each stage took (write, sync, verify, publish). retried: why it took a second file, "" when not.
    """

    size_bytes: int
    digest: str
    seconds: dict[str, float] = field(default_factory=dict)
    retried: str = ""


def write_proven(path: str, data: bytes | memoryview, mode: int | None = None, *, is_waited: bool = False) -> Published:
    """Make a new file of `data`: written, flushed, read back. mode: its permissions, None: as the umask says.

    Raises PublishError; what is left at `path` is then for the caller to remove.
    """
    view = memoryview(data)
    expected = _Checksum(view)
    watch = _Stages()
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if mode is not None:
                os.fchmod(fd, mode)
            _write(fd, view, past_cache=not is_waited)
            watch.enter("sync")
            # Never tried again: after a failed fsync the kernel may have dropped the bytes and report success.
            os.fsync(fd)
            watch.enter("verify")
            found = _crc_of(fd, len(view), from_device=not is_waited)
            if found != expected.value():
                raise PublishError("verify", f"the file holds crc32 {found:08x}, memory holds {expected.value():08x}")
        finally:
            os.close(fd)
            expected.value()  # nobody reads `data` after this function
    except OSError as error:
        raise PublishError(watch.stage, error) from error
    return Published(len(view), f"crc32:{found:08x}", watch.done())


def _write(fd: int, view: memoryview, *, past_cache: bool) -> None:
    at = 0
    if past_cache and len(view) >= _DIRECT_BYTES and _is_aligned(view) and _set_direct(fd, True):
        whole = len(view) - len(view) % _BLOCK_BYTES
        try:
            while at < whole:
                at += os.write(fd, view[at : min(at + _WRITE_BYTES, whole)])
        except OSError as error:
            if error.errno not in _NOT_DIRECT:
                raise
            # It promised and cannot, or wrote a part of a block; the usual way tells what is the matter.
        finally:
            _set_direct(fd, False)
    while at < len(view):
        num_bytes = os.write(fd, view[at : at + _BUFFERED_WRITE_BYTES])
        _begin_flush(fd, at, num_bytes)
        at += num_bytes


def _crc_of(fd: int, size: int, *, from_device: bool) -> int:
    """Checksum of the file's content, which must be `size` bytes long."""
    is_direct = from_device and size >= _DIRECT_BYTES and _set_direct(fd, True)
    if from_device and not is_direct:
        _drop_pages(fd)
    num_bytes = min(_READ_BYTES if is_direct else _BUFFERED_READ_BYTES, size + _BLOCK_BYTES)
    with mmap.mmap(-1, -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES) as memory, memoryview(memory) as buffer:
        value, at = 0, 0
        while True:
            try:
                num_bytes = os.preadv(fd, [buffer], at)
            except OSError as error:
                if not is_direct or error.errno not in _NOT_DIRECT:
                    raise
                is_direct = not _set_direct(fd, False)
                _drop_pages(fd)
                continue
            if not num_bytes:
                break
            with buffer[:num_bytes] as piece:
                value = crc32(piece, value)
            at += num_bytes
            if is_direct and at >= size and at % _BLOCK_BYTES:
                break  # the end; and no direct read could begin here
    if at != size:
        raise PublishError("verify", f"the file holds {at:,} bytes, {size:,} were written")
    return value


def _set_direct(fd: int, is_direct: bool) -> bool:
    """Whether the descriptor now goes past the page cache as wanted."""
    if not _O_DIRECT:
        return False
    try:
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _O_DIRECT if is_direct else flags & ~_O_DIRECT)
    except OSError:
        return False
    return True


def _begin_flush(fd: int, offset: int, num_bytes: int) -> None:
    """Let the device begin with these bytes; nobody waits for it here, and fsync tells what went wrong."""
    if num_bytes == _BUFFERED_WRITE_BYTES and _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(num_bytes), _SYNC_FILE_RANGE_WRITE)


def _drop_pages(fd: int) -> None:
    """So that the device is read and not memory; they are flushed already. A filesystem that keeps them may."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _is_aligned(view: memoryview) -> bool:
    if view.readonly:
        return False  # of Python's own making, and nowhere in particular
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % _BLOCK_BYTES == 0


class _Stages:
    """Seconds of each stage, one after the other."""

    def __init__(self) -> None:
        self.stage = "write"
        self._seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def enter(self, stage: str) -> None:
        now = time.monotonic()
        self._seconds[self.stage] = now - self._since
        self.stage, self._since = stage, now

    def done(self) -> dict[str, float]:
        self.enter("")
        return self._seconds


class _Checksum:
    """CRC-32 of `data`, large ones computed in a thread: it runs without the interpreter's lock, as writing does."""

    def __init__(self, data: memoryview) -> None:
        self._value = 0
        self._thread: threading.Thread | None = None

        def compute() -> None:
            self._value = crc32(data)

        if len(data) < _DIRECT_BYTES:
            compute()
        else:
            try:
                thread = threading.Thread(target=compute, name="checksum")
                thread.start()
                self._thread = thread
            except RuntimeError:  # no more threads: at the end of the interpreter, or of what the system allows
                compute()

    def value(self) -> int:
        if self._thread is not None:
            self._thread.join()
        return self._value
