"""A new file, written whole or not at all.

It is written beside its place under a temporary name, flushed to the device, read back and held against the checksums
of what was read before, and only then gets its name; nothing that has that name already is replaced. A crash at any
point leaves no such file, or a whole one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from threading import Thread

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
    folder, name = os.path.split(out)
    temporary = os.path.join(folder, f".{name}.tmp-{os.getpid()}")
    try:
        _remove_leftovers(folder or ".", name)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            _write(descriptor, new_file, on_bytes, is_cancelled)
            with _Flush(descriptor):  # while the device works, what it got is read back
                _read_back(descriptor, new_file, on_bytes, is_cancelled)
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
    on_bytes: Callable[[int], None] | None,
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
                    if on_bytes is not None:
                        on_bytes(num_bytes)
                    if is_cancelled is not None and is_cancelled():
                        raise Cancelled
        target.flush()
    finally:
        for source in opened.values():
            os.close(source)


def _parts(piece: Source) -> Iterator[Source]:
    """The runs of bytes that a storage is copied from."""
    if not piece.spans:
        yield piece
    for path, offset, num_bytes in piece.spans:
        yield Source(path, offset, num_bytes, num_bytes, 0, piece.is_vouched)


class _Flush:
    """`with _Flush(descriptor):` the file is flushed to the device meanwhile. Raises its OSError at the end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._error: OSError | None = None
        self._thread = Thread(target=self._run, name="flush")

    def _run(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._error = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error


class _Target:
    """The new file while it grows: small pieces are gathered, large ones copied by the kernel."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self._end = 0
        self._handed_over = 0
        self._kernel_copies = True

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


def _read_back(
    descriptor: int,
    new_file: NewFile,
    on_bytes: Callable[[int], None] | None,
    is_cancelled: Callable[[], bool] | None,
) -> None:
    """Every storage as it now lies in the new file, against the checksum of what was read from the original."""
    regions = [Region(s.key, s.offset, s.size_bytes, s.crc32) for s in new_file.storages]
    file_bytes = os.fstat(descriptor).st_size
    result = read_once(descriptor, file_bytes, regions, on_bytes=on_bytes, is_cancelled=is_cancelled)
    wrong = [outcome.region.name for outcome in result.regions if outcome.checksum_differs or outcome.missing_bytes]
    if wrong or file_bytes != new_file.size_bytes:
        raise ReadBackError(
            "Cannot write",
            f"{safe_text(wrong[0] if wrong else 'the new file', 200)} does not read back as it was read",
            "Something writes the original, or a disk fails: copy it somewhere else and salvage the copy.",
        )


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
