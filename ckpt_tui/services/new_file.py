"""A new file, written whole or not at all.

It is written beside its place under a temporary name, flushed to the device, read back and held against the checksums
of what was read before, and only then gets its name; nothing that has that name already is replaced. A crash at any
point leaves no such file, or a whole one.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Lock, Thread

from ckpt_tui.checkpoints.byte_pass import Region, read_once
from ckpt_tui.checkpoints.salvage_facts import Source
from ckpt_tui.checkpoints.writers.pieces import NewFile
from ckpt_tui.errors import Cancelled, CkptError, from_os_error
from ckpt_tui.services.durable import remove_if_there, sync_directory
from ckpt_tui.text import safe_text

_WINDOW_BYTES = 1 << 20
_COPY_BYTES = 8 << 20
_HAND_OVER_BYTES = 8 << 20
_MAX_OPEN_FILES = 64
_BATCH_BYTES = 32 << 20  # read back at a time, while it is still in the cache
_NO_KERNEL_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM)


class ReadBackError(CkptError):
    """What was written is not what it should be: the original is not what it was said to be, or a disk fails."""


def write_new_file(
    out: str,
    new_file: NewFile,
    check: Callable[[str], None],
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> None:
    """Write `new_file` to `out`. check: called with the path of the finished file before it gets its name.

    on_bytes hears of every byte twice: written, and read back. Raises CkptError, and Cancelled.
    """
    lock = Lock()

    def advance(num_bytes: int) -> None:
        with lock:  # two threads tell
            if on_bytes is not None:
                on_bytes(num_bytes)

    folder, name = os.path.split(out)
    temporary = os.path.join(folder, f".{name}.tmp-{os.getpid()}")
    try:
        _remove_leftovers(folder or ".", name)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with _ReadBack(descriptor, new_file, advance, is_cancelled) as read_back:
                _write(descriptor, new_file, read_back, advance, is_cancelled)
                os.fsync(descriptor)
            read_back.judge()
        finally:
            os.close(descriptor)
        check(temporary)
        _publish(temporary, out)
        sync_directory(folder or ".")
    except OSError as error:
        remove_if_there(temporary)
        where = error.filename if isinstance(error.filename, str) else out
        raise from_os_error(error, safe_text(where, 1000), "write") from error
    except BaseException:
        remove_if_there(temporary)
        raise


def _write(
    descriptor: int,
    new_file: NewFile,
    read_back: _ReadBack,
    on_bytes: Callable[[int], None],
    is_cancelled: Callable[[], bool] | None,
) -> None:
    """All pieces, in order. What is written is compared afterwards, by reading it back."""
    target = _Target(descriptor)
    opened: dict[str, int] = {}
    try:
        for piece in new_file.pieces:
            if is_cancelled is not None and is_cancelled():
                raise Cancelled
            if isinstance(piece, bytes):
                target.add(piece)
                continue
            for part in _parts(piece):
                if part.path not in opened:
                    if len(opened) >= _MAX_OPEN_FILES:
                        os.close(opened.pop(next(iter(opened))))
                    opened[part.path] = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
                for num_bytes in target.copy(opened[part.path], part):
                    on_bytes(num_bytes)
                    if is_cancelled is not None and is_cancelled():
                        raise Cancelled
            read_back.written(target.end)
        target.flush()
        read_back.written(target.end, 0)
    finally:
        for source in opened.values():
            os.close(source)


def _parts(piece: Source) -> Iterator[Source]:
    """The runs of bytes that a storage is copied from."""
    if not piece.spans:
        yield piece
    for path, offset, num_bytes in piece.spans:
        yield Source(path, offset, num_bytes, num_bytes, 0, piece.is_vouched)


class _ReadBack:
    """Every storage as it lies in the new file, against the checksum of what was read: in a thread, while more is
    written and while the device is waited for. `judge()` raises what it found."""

    def __init__(
        self,
        descriptor: int,
        new_file: NewFile,
        on_bytes: Callable[[int], None],
        is_cancelled: Callable[[], bool] | None,
    ) -> None:
        self._descriptor = descriptor
        self._new_file = new_file
        self._on_bytes = on_bytes
        self._is_cancelled = is_cancelled
        self._waiting = deque(sorted(new_file.storages, key=lambda storage: storage.offset))
        self._batches: SimpleQueue[list[Region] | None] = SimpleQueue()
        self._stops = Event()
        self._wrong: list[str] = []
        self._num_right = 0
        self._error: CkptError | Cancelled | None = None
        self._thread = Thread(target=self._run, name="read back", daemon=True)

    def written(self, end: int, least_bytes: int = _BATCH_BYTES) -> None:
        """All before `end` is in the file: hand over what can be read, once it is worth it."""
        if not self._waiting or end - self._waiting[0].offset < least_bytes:
            return
        batch = []
        while self._waiting and self._waiting[0].offset + self._waiting[0].size_bytes <= end:
            storage = self._waiting.popleft()
            batch.append(Region(storage.key, storage.offset, storage.size_bytes, storage.crc32))
        self._batches.put(batch)

    def _run(self) -> None:
        try:
            while (batch := self._batches.get()) is not None:
                size_bytes = self._new_file.size_bytes
                result = read_once(
                    self._descriptor, size_bytes, batch, on_bytes=self._on_bytes, is_cancelled=self._is_stopped
                )
                right = [r for r in result.regions if r.is_read and not r.checksum_differs and not r.missing_bytes]
                self._num_right += len(right)
                if len(right) < len(result.regions):
                    self._wrong += [r.region.name for r in result.regions if r not in right]
        except (CkptError, Cancelled) as error:
            self._error = error

    def _is_stopped(self) -> bool:
        return self._stops.is_set() or (self._is_cancelled is not None and self._is_cancelled())

    def __enter__(self) -> _ReadBack:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stops.set()
        self._batches.put(None)
        self._thread.join()

    def judge(self) -> None:
        if self._error is not None:
            raise self._error
        is_whole = os.fstat(self._descriptor).st_size == self._new_file.size_bytes
        if not is_whole or self._num_right != len(self._new_file.storages):
            place = safe_text(self._wrong[0] if self._wrong else "the new file", 200)
            raise ReadBackError(
                "Cannot write",
                f"{place} does not read back as it was read",
                "Something writes the original, or a disk fails: copy it somewhere else and salvage the copy.",
            )


class _Target:
    """The new file while it grows: small pieces are gathered, large ones copied by the kernel."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self._end = 0
        self._handed_over = 0
        self._kernel_copies = True

    @property
    def end(self) -> int:
        """What is in the file, without what is gathered."""
        return self._end

    def add(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _WINDOW_BYTES:
            self.flush()

    def flush(self) -> None:
        view = memoryview(bytes(self._pending))
        self._pending.clear()
        while view:
            num_bytes = os.write(self._descriptor, view)
            view = view[num_bytes:]
            self._grown(num_bytes)

    def copy(self, source: int, piece: Source) -> Iterator[int]:
        """Copy a storage; gives the bytes done, step by step."""
        if piece.is_deflated:
            yield from self._inflate(source, piece)
            return
        position, end = piece.offset, piece.offset + piece.size_bytes
        while position < end:
            wanted = min(end - position, _COPY_BYTES)
            if wanted >= _WINDOW_BYTES and self._kernel_copies:
                self.flush()
                num_bytes = self._copy_in_kernel(source, position, wanted)
                if num_bytes is None:
                    continue
            else:
                data = os.pread(source, min(wanted, _WINDOW_BYTES), position)
                num_bytes = len(data)
                self.add(data)
            if not num_bytes:
                raise CkptError(
                    "Changed meanwhile",
                    f"{safe_text(piece.path, 1000)} is shorter than when it was first read",
                    "Something writes it: copy it somewhere else and salvage the copy.",
                )
            position += num_bytes
            yield num_bytes

    def _copy_in_kernel(self, source: int, position: int, num_bytes: int) -> int | None:
        """As `cp` does it, half the time of reading and writing; None where the file systems cannot."""
        try:
            done = os.copy_file_range(source, self._descriptor, num_bytes, position)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            self._kernel_copies = False
            return None
        self._grown(done)
        return done

    def _inflate(self, source: int, piece: Source) -> Iterator[int]:
        import zlib

        inflate = zlib.decompressobj(-15)
        position, end = piece.offset, piece.offset + piece.stored_bytes
        while position < end:
            rest = os.pread(source, min(end - position, _WINDOW_BYTES), position)
            if not rest:
                return  # reading it back will tell
            num_bytes = len(rest)
            position += num_bytes
            while rest:
                out = inflate.decompress(rest, _WINDOW_BYTES)
                rest = inflate.unconsumed_tail
                self.add(out)
                if not out and not rest:
                    break
            yield num_bytes
        self.add(inflate.flush())

    def _grown(self, num_bytes: int) -> None:
        """Let the device begin with what is there, so that the flush at the end does not wait for all of it."""
        self._end += num_bytes
        if self._end - self._handed_over >= _HAND_OVER_BYTES:
            os.posix_fadvise(self._descriptor, self._handed_over, self._end - self._handed_over, os.POSIX_FADV_DONTNEED)
            self._handed_over = self._end


def _publish(temporary: str, out: str) -> None:
    """Give the new file its name, unless something has it by now."""
    try:
        os.link(temporary, out, follow_symlinks=False)
    except FileExistsError:
        raise CkptError(
            "Already there", f"{safe_text(out, 1000)} exists by now, and nothing is overwritten", "Give another name."
        ) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(out):
            raise CkptError("Already there", f"{safe_text(out, 1000)} exists by now", "Give another name.") from None
        os.rename(temporary, out)
        return
    os.unlink(temporary)


def _remove_leftovers(folder: str, name: str) -> None:
    """Temporary files of a salvage to the same OUT that was killed."""
    beginning = f".{name}.tmp-"
    for entry in os.listdir(folder):
        pid = entry.removeprefix(beginning)
        if entry.startswith(beginning) and pid.isdigit() and not _is_alive(int(pid)):
            remove_if_there(os.path.join(folder, entry))


def _is_alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # ours, from a salvage in this process that is over
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
