"""The one way a file gets its name: written beside it, flushed to the device, read back, renamed, folder flushed.

Whatever happens on the way, the old file stays whole under its name until the new one is proven, and what is found
under a name was published whole. Used for checkpoints and for every small file beside them.
"""

from __future__ import annotations

import errno
import itertools
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
_CHUNK_BYTES = 4 << 20
_counter = itertools.count()


class PublishError(Exception):
    """A file could not be published. stage: write, sync, verify or publish. The old file is still there."""

    def __init__(self, path: Path, stage: str, reason: str, *, is_disk_full: bool = False) -> None:
        super().__init__(f"{path.name}: {stage}: {reason}")
        self.path = path
        self.stage = stage
        self.reason = reason
        self.is_disk_full = is_disk_full


def crc32_of(data: bytes | memoryview) -> str:
    """The digest of content in memory, as the log and the registry spell it."""
    return f"crc32:{zlib.crc32(data):08x}"


def crc32_of_file(path: Path) -> str:
    """The digest of a file's content, read in pieces."""
    value = 0
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            value = zlib.crc32(view[:count], value)
    return f"crc32:{value:08x}"


def publish(data: bytes | memoryview, path: Path, *, links: Sequence[Path] = ()) -> None:
    """Make `path`, and each of `links` as a hard link to it, hold exactly `data`.

    Raises PublishError with the stage that failed; what was under the names before is then still there, except for
    links that were already moved to the new, proven content.
    """
    stage = "write"
    temporaries: list[Path] = []
    try:
        temporary = _temporary(path)
        temporaries.append(temporary)
        _write(temporary, data, mode=_mode_of(path))
        stage = "verify"
        _verify(temporary, data)
        stage = "publish"
        for link in links:
            beside = _temporary(link)
            try:
                os.link(temporary, beside)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOTSUP):
                    raise
                _write(beside, data, mode=_mode_of(link))  # a file system without links gets copies
            temporaries.append(beside)
        targets = [path, *links]
        for source, target in zip(list(temporaries), targets, strict=True):
            os.rename(source, target)
            temporaries.remove(source)
        sync_directory(path.parent)
    except SyncError as error:
        raise PublishError(path, "sync", str(error)) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise PublishError(path, stage, error.strerror or str(error), is_disk_full=full) from error
    except VerifyError as error:
        raise PublishError(path, "verify", str(error)) from error
    finally:
        for left in temporaries:
            remove_quietly(left)


def keep_as(path: Path, backup: Path) -> bool:
    """Give what is under `path` now the name `backup` too, in one step; `path` is there at every moment.

    Whether there was anything to keep.
    """
    beside = _temporary(backup)
    try:
        try:
            os.link(path, beside)
        except FileNotFoundError:
            return False
        except OSError:
            _write(beside, path.read_bytes(), mode=_mode_of(path))
        os.rename(beside, backup)
        # Renaming one link over another of the same file does nothing and leaves the first name.
        remove_quietly(beside)
    except OSError as error:
        remove_quietly(beside)
        raise PublishError(backup, "publish", error.strerror or str(error)) from error
    return True


class VerifyError(Exception):
    """What lies on the disk is not what was written."""


class SyncError(Exception):
    """The device did not take it. The file is given up: a second fsync would lie (PostgreSQL's fsyncgate, 2018)."""


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise SyncError(error.strerror or str(error)) from error
    finally:
        os.close(descriptor)


def _write(path: Path, data: bytes | memoryview, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while len(view):
            view = view[os.write(descriptor, view[: 256 << 20]) :]
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise SyncError(error.strerror or str(error)) from error
    finally:
        os.close(descriptor)


def _verify(path: Path, data: bytes | memoryview) -> None:
    if path.stat().st_size != len(data) or crc32_of_file(path) != crc32_of(data):
        raise VerifyError("what was read back is not what was written: the disk or the memory is failing")


def _mode_of(path: Path) -> int:
    """The mode of the file that is replaced, or the usual one under the person's umask."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return 0o666


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{next(_counter)}")


def remove_quietly(path: Path) -> None:
    """Remove a temporary file of our own; if that fails, the next start cleans it up."""
    try:
        path.unlink()
    except OSError:
        return


def clean_up(directory: Path, told: Callable[[str], None] = lambda name: None) -> None:
    """Remove the temporary files of dead sessions. Call only with the directory's lock held."""
    for path in directory.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_file() and not path.is_symlink():
            remove_quietly(path)
            told(path.name)
