"""The one way in which a file comes into being here: temporary file, flush, verify, rename, flush the directory.

At every moment, each name holds the whole old content or the whole new one. What fails or dies before the rename
leaves a temporary file that nobody takes for a checkpoint; `remove_leftovers` clears those of dead sessions.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trainer.checkpoint.proven import Published, PublishError, crc32, write_proven

__all__ = ["PublishError", "Published", "digest_of_file", "make_directory", "publish", "remove_leftovers"]

_CHUNK_BYTES = 4 << 20
_LEFTOVER = re.compile(r"\.tmp-.+-\d+-\d+")
_numbers = itertools.count()


def digest_of_file(path: str) -> str:
    """`crc32:<hex>` of a file's content. Raises OSError."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = crc32(chunk, value)
    return f"crc32:{value:08x}"


def publish(
    directory: str,
    names: Sequence[str],
    data: bytes | memoryview,
    *,
    previous: Mapping[str, str] | None = None,
    is_waited: bool = False,
) -> Published:
    """Make `data` the content of every one of `names` in `directory`: written once, shared by hard links.

    previous: {name: source}: once the new file is proven, and before it replaces anything, `name` gets what `source`
    holds; left out where there is no such file. Names are replaced in the order given.
    is_waited: somebody waits; see `proven`.
    A file that the device could not keep (EIO, or other bytes than were written) is given up for one new one.
    Raises PublishError; the temporary files are gone then, and `previous` names are as they were unless a rename
    itself failed.
    """
    temporaries: list[str] = []
    renames: list[str] = []
    try:
        published = _written(directory, names, data, temporaries, is_waited)
        started = time.monotonic()
        for name in names[1:]:
            _link(temporaries[0], _temporary(directory, name, temporaries))
        for name, source in (previous or {}).items():
            # Where a failed save left both names one file, a rename would do nothing, and leave its temporary name.
            if _is_there(os.path.join(directory, source), other_than=os.path.join(directory, name)):
                _link(os.path.join(directory, source), _temporary(directory, name, temporaries))
                renames.append(name)
        # What is replaced gets its second name first.
        kept = temporaries[len(names) :]
        _rename(directory, [*kept, *temporaries[: len(names)]], [*renames, *names])
        return replace(published, seconds={**published.seconds, "publish": time.monotonic() - started})
    except BaseException:
        for path in temporaries:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


def _written(
    directory: str, names: Sequence[str], data: bytes | memoryview, made: list[str], is_waited: bool
) -> Published:
    """A temporary file that holds `data`, the first of `made`; a second one when the device fails the first."""
    mode = _mode_of(directory, names)
    try:
        return write_proven(_temporary(directory, names[0], made), data, mode, is_waited=is_waited)
    except PublishError as error:
        if error.errno != errno.EIO and error.stage != "verify":
            raise
        failed = made.pop()
        with contextlib.suppress(OSError):
            os.unlink(failed)
        published = write_proven(_temporary(directory, names[0], made), data, mode, is_waited=is_waited)
        return replace(published, retried=str(error))


def make_directory(directory: str) -> None:
    """Make `directory` if it is missing, and its name durable: what is in a directory that is lost is lost with it.

    Whoever made it, and however many of those above it: the names up to the mount are flushed where we may.
    Raises OSError when it cannot be made.
    """
    os.makedirs(directory, exist_ok=True)
    path = os.path.realpath(directory)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
        with contextlib.suppress(OSError):  # not ours to read, or a filesystem that has no such flush
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def remove_leftovers(directory: str) -> list[str]:
    """Remove temporary files of sessions that died. Only for the holder of the directory's lock: then all are dead."""
    removed = []
    # What is written about a checkpoint in quarantine (quarantine.py) is published there.
    for folder in ("", "quarantine"):
        try:
            found = os.listdir(os.path.join(directory, folder))
        except OSError:
            continue  # none there; of the directory itself, its reader tells
        for name in found:
            if _LEFTOVER.fullmatch(name):
                path = os.path.join(directory, folder, name)
                with contextlib.suppress(OSError):
                    if os.path.isdir(path):
                        shutil.rmtree(path)
                    else:
                        os.unlink(path)
                    removed.append(os.path.join(folder, name))
    return sorted(removed)


def _temporary(directory: str, name: str, made: list[str]) -> str:
    # In the same directory: a rename from another filesystem would be a copy, and not atomic.
    path = os.path.join(directory, f".tmp-{name}-{os.getpid()}-{next(_numbers)}")
    made.append(path)
    return path


def _mode_of(directory: str, names: Sequence[str]) -> int | None:
    """The permissions of the file that is replaced, None when there is none."""
    for name in names:
        with contextlib.suppress(OSError):
            return os.stat(os.path.join(directory, name)).st_mode & 0o7777
    return None


def _is_there(path: str, *, other_than: str) -> bool:
    try:
        return not os.path.samefile(path, other_than)
    except OSError:
        return os.path.exists(path)


def _link(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except OSError:
        # A filesystem without hard links: bytes of its own.
        try:
            with open(source, "rb") as file:
                data = file.read()
        except OSError as error:
            raise PublishError("publish", error) from error
        write_proven(path, data)


def _rename(directory: str, temporaries: Sequence[str], names: Sequence[str]) -> None:
    try:
        for temporary, name in zip(temporaries, names, strict=True):
            os.rename(temporary, os.path.join(directory, name))
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise PublishError("publish", error) from error
