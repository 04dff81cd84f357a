"""One file copied: every byte written anew, flushed to the device, read back from there and held against its source.

The source is read once: while its windows are written their checksums (CRC-32, 4 bytes for 4 MiB) are kept, and what
comes back from the device is held against them. A large file goes past the page cache on both ways (O_DIRECT) where
the file system can do that: what is read back is then not what memory still had of it, what other programs have in
the cache stays there, and no time goes into pages that nobody will ask for. Elsewhere the cache is dropped between.

Reading the source and writing the copy go on side by side; memory is two windows, whatever the size.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from array import array
from collections.abc import Callable, Sequence
from mmap import mmap
from queue import SimpleQueue
from threading import Lock, Thread

from ckpt_tui.services.durable import remove_if_there
from ckpt_tui.services.files import Content

WINDOW_BYTES = 4 << 20
_HAND_OVER_BYTES = 32 << 20
_NO_DIRECT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})

Progress = Callable[[int], None]


class NotCopiedError(OSError):
    """Something in a checkpoint that is neither file nor directory, and has no copy."""


def copy_file(source: str, target: str, on_bytes: Progress | None, *, follow: bool) -> Content:
    """As `copies.copy_verified`, of a file. follow: also where `source` is a symbolic link."""
    # Not to wait for ever for the other end of a pipe that has taken the place of a file.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    incoming = os.open(source, flags)
    try:
        before = os.fstat(incoming)
        if not stat.S_ISREG(before.st_mode):
            raise NotCopiedError(errno.EINVAL, "it is no file, and has no copy", source)
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IMODE(before.st_mode))
        try:
            checksums = _send(incoming, source, descriptor, before.st_size, on_bytes)
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))  # whatever the umask says
            os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.fsync(descriptor)
            is_same = _reads_back(descriptor, before.st_size, checksums, on_bytes)
            after = os.fstat(incoming)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise OSError(errno.EBUSY, "it was written while it was copied", source)
            if not is_same:
                raise OSError(errno.EIO, "what was written does not read back the same", target)
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EEXIST:
            remove_if_there(target)
        raise
    finally:
        os.close(incoming)
    return Content(status.st_size, status.st_mtime_ns, status.st_ino)


def _send(source: int, path: str, target: int, file_bytes: int, on_bytes: Progress | None) -> Sequence[int]:
    """All bytes of `source`, the file at `path`, into `target`; the checksums of its windows."""
    from isal import isal_zlib

    checksums = array("I")
    position = 0
    with _Writer(target, is_large=file_bytes > WINDOW_BYTES) as writer:
        while True:
            buffer = writer.free_buffer()
            try:
                num_bytes = _fill(source, buffer, position, WINDOW_BYTES)
            except OSError as error:  # which does not say by itself that it was reading that failed
                raise OSError(error.errno, error.strerror, path) from error
            if not num_bytes or position > file_bytes:  # one that is written on is no whole source, and may never end
                return checksums
            checksums.append(isal_zlib.crc32(buffer[:num_bytes]))
            writer.write(buffer[:num_bytes], position)
            position += num_bytes
            if on_bytes is not None:
                on_bytes(num_bytes)


def _reads_back(descriptor: int, file_bytes: int, checksums: Sequence[int], on_bytes: Progress | None) -> bool:
    """Whether what the device gives has these checksums, and nothing is behind it."""
    if os.fstat(descriptor).st_size != file_bytes or len(checksums) != -(-file_bytes // WINDOW_BYTES):
        return False
    from isal import isal_zlib

    from ckpt_tui.checkpoints.threads import work_through

    # Out of the page cache, so that reading back asks the device also where nothing can go past the cache.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    num_readers = 2 if len(checksums) > 1 else 1  # one asks the device while the other looks at what came
    is_direct = num_readers > 1 and _go_past_cache(descriptor)
    buffers = [_new_buffer() for _ in range(num_readers)]
    lock = Lock()
    different: list[int] = []

    def check(number: int, stop: Callable[[], bool]) -> None:
        with lock:
            buffer = buffers.pop()
        begin = number * WINDOW_BYTES
        wanted = min(WINDOW_BYTES, file_bytes - begin)
        try:
            num_bytes = _fill(descriptor, buffer, begin, wanted)
        except OSError as error:
            if error.errno not in _NO_DIRECT or not is_direct:
                raise
            _go_through_cache(descriptor)
            num_bytes = _fill(descriptor, buffer, begin, wanted)
        is_right = num_bytes >= wanted and isal_zlib.crc32(buffer[:wanted]) == checksums[number]
        with lock:
            buffers.append(buffer)
            if not is_right:
                different.append(number)
            if on_bytes is not None:
                on_bytes(wanted)

    work_through(range(len(checksums)), check, num_readers)
    return not different


class _Writer:
    """Writes windows one after the other: those of a large file in a thread, while the next one is read, and past the
    page cache. What it meets is raised where the next buffer is asked for, or at the end."""

    def __init__(self, descriptor: int, *, is_large: bool) -> None:
        self._descriptor = descriptor
        self._is_direct = is_large and _go_past_cache(descriptor)
        self._handed_over = 0
        self._error: Exception | None = None
        self._is_stopped = False
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="write", daemon=True) if is_large else None
        for _ in range(2 if is_large else 1):
            self._free.put(_new_buffer())

    def free_buffer(self) -> memoryview:
        """A window to fill; waits until one is written."""
        buffer = self._free.get()
        if self._error is not None:
            raise self._error
        return buffer

    def write(self, window: memoryview, position: int) -> None:
        """Write the beginning of a buffer; all but the last are whole."""
        if self._thread is not None:
            self._full.put((window, position))
            return
        self._write(window, position)
        self._free.put(window)

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            if self._error is None and not self._is_stopped:
                try:
                    self._write(*item)
                except Exception as error:  # noqa: BLE001 - raised where the copy is made
                    self._error = error
            self._free.put(item[0])

    def _write(self, window: memoryview, position: int) -> None:
        if len(window) < WINDOW_BYTES:
            self._leave_direct()
        done = 0
        while done < len(window):
            try:
                done += os.pwrite(self._descriptor, window[done:], position + done)
            except OSError as error:
                if error.errno not in _NO_DIRECT or not self._is_direct:
                    raise
                self._leave_direct()  # also after a part of a window: what is left of it begins anywhere
        if not self._is_direct and position + done - self._handed_over >= _HAND_OVER_BYTES:
            # Lets the device begin with it, so that the flush at the end does not wait for all of it.
            length = position + done - self._handed_over
            os.posix_fadvise(self._descriptor, self._handed_over, length, os.POSIX_FADV_DONTNEED)
            self._handed_over += length

    def _leave_direct(self) -> None:
        if self._is_direct:
            _go_through_cache(self._descriptor)
            self._is_direct = False

    def __enter__(self) -> _Writer:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupt: BaseException | None = None
        self._is_stopped = kind is not None
        self._full.put(None)
        while self._thread is not None and self._thread.is_alive():
            try:
                self._thread.join()
            except BaseException as error:  # noqa: BLE001 - Ctrl-C: its descriptor is closed once nobody writes to it
                interrupt, self._is_stopped = error, True
        self._leave_direct()
        if interrupt is not None:
            raise interrupt
        if kind is None and self._error is not None:
            raise self._error


def _fill(descriptor: int, buffer: memoryview, position: int, wanted: int) -> int:
    """`wanted` bytes from `position` on, or more, if there are so many: a read may give fewer."""
    filled = 0
    while filled < wanted:
        num_bytes = os.preadv(descriptor, [buffer[filled:]], position + filled)
        if not num_bytes:
            break
        filled += num_bytes
    return filled


def _new_buffer() -> memoryview:
    """A window of memory that begins on a page, as O_DIRECT needs it."""
    return memoryview(mmap(-1, WINDOW_BYTES))


def _go_past_cache(descriptor: int) -> bool:
    """Have reads and writes of whole windows go straight to the device, from now on; False where that cannot be."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def _go_through_cache(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
