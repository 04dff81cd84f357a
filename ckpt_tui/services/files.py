"""Changes to a person's files that survive a crash: whole or not at all, and on the device before we go on.

Every function that writes ends with the bytes and the directory entry on the device (fsync of both). Raises OSError
as the system does; the callers say it in words.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable

import msgspec

from ckpt_tui.services.durable import remove_if_there as remove_if_there
from ckpt_tui.services.durable import sync_directory as sync_directory

CHUNK_BYTES = 1 << 20


class Content(msgspec.Struct, frozen=True):
    """Which bytes a name had: enough to know them again without reading them.

    digest: `sha256:<hex>` where the bytes were read, else "". A rename or a hard link keeps all of it.
    """

    size_bytes: int
    mtime_ns: int
    inode: int
    is_directory: bool = False
    digest: str = ""

    def is_same(self, other: Content | None) -> bool:
        """Whether both are the same bytes in the same place on the device."""
        return other is not None and (
            (self.inode, self.is_directory) == (other.inode, other.is_directory)
            # A directory's size and time change with what is in it; its inode is enough for a rename.
            and (self.is_directory or (self.size_bytes, self.mtime_ns) == (other.size_bytes, other.mtime_ns))
        )


def content_of(path: str) -> Content | None:
    """What lies at `path` now, None when there is nothing. Links are not followed."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    is_directory = stat.S_ISDIR(status.st_mode)
    return Content(status.st_size, status.st_mtime_ns, status.st_ino, is_directory)


def make_directory(path: str) -> None:
    """Make a directory and its entry durable; one that is there already is fine."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
    sync_directory(os.path.dirname(path) or ".")


def write_file(path: str, data: bytes, mode: int = 0o666) -> None:
    """Give `path` exactly `data`: beside it first, then in its place. The mode of a file that is there stays."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tmp-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            _write_all(descriptor, data)
            existing = content_mode(path)
            if existing is not None:
                os.fchmod(descriptor, existing)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError:
        remove_if_there(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".")


def copy_verified(source: str, target: str, on_bytes: Callable[[int], None] | None = None) -> Content:
    """Make `target` an independent copy of `source`, read it back from the device, and compare.

    Target must not exist. It gets the source's mode and modification time (that of the content).
    Raises OSError; EIO when what was read back is not what was read from the source.
    """
    incoming = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(incoming)
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IMODE(before.st_mode))
        try:
            digest = hashlib.sha256()
            while chunk := os.read(incoming, CHUNK_BYTES):
                digest.update(chunk)
                _write_all(descriptor, chunk)
                if on_bytes is not None:
                    on_bytes(len(chunk))
            after = os.fstat(incoming)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise OSError(errno.EBUSY, "it was written while it was copied", source)
            os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.fsync(descriptor)
            # Out of the page cache, so that reading back asks the device where the system lets it.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.lseek(descriptor, 0, os.SEEK_SET)
            if _digest_descriptor(descriptor, on_bytes) != digest.hexdigest():
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
    return Content(status.st_size, status.st_mtime_ns, status.st_ino, False, f"sha256:{digest.hexdigest()}")


def link_or_move(source: str, target: str) -> None:
    """Give `source` the name `target` too; where hard links cannot be, move it there instead."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EISDIR, errno.EACCES):
            raise
        os.rename(source, target)


def content_mode(path: str) -> int | None:
    """Permission bits of a file, None when there is none."""
    try:
        return stat.S_IMODE(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _digest_descriptor(descriptor: int, on_bytes: Callable[[int], None] | None) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, CHUNK_BYTES):
        digest.update(chunk)
        if on_bytes is not None:
            on_bytes(len(chunk))
    return digest.hexdigest()
