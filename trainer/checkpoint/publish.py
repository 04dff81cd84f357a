"""The one way in which a file comes into being here: temporary file, flush, verify, rename, flush the directory.

At every moment, each name holds the whole old content or the whole new one. What fails or dies before the rename
leaves a temporary file that nobody takes for a checkpoint; `remove_leftovers` clears those of dead sessions.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

try:
    from isal.isal_zlib import crc32  # at memory speed, several times zlib's
except ImportError:
    from zlib import crc32

_CHUNK_BYTES = 4 << 20
_LEFTOVER = re.compile(r"\.tmp-.+-\d+-\d+")
_numbers = itertools.count()


class PublishError(Exception):
    """A file could not be made; every name still holds what it held. stage: write, sync, verify or publish."""

    def __init__(self, stage: str, error: OSError | str) -> None:
        self.stage = stage
        self.reason = error if isinstance(error, str) else f"{error.strerror or error}"
        super().__init__(f"{stage}: {self.reason}")


@dataclass(frozen=True)
class Published:
    """What the file holds now. digest: of the whole file, `crc32:<hex>`, computed from memory and found in the file."""

    size_bytes: int
    digest: str


def digest_of_file(path: str) -> str:
    """`crc32:<hex>` of a file's content. Raises OSError."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = crc32(chunk, value)
    return f"crc32:{value:08x}"


def publish(
    directory: str, names: Sequence[str], data: bytes | memoryview, *, previous: Mapping[str, str] | None = None
) -> Published:
    """Make `data` the content of every one of `names` in `directory`: written once, shared by hard links.

    previous: {name: source}: once the new file is proven, and before it replaces anything, `name` gets what `source`
    holds; left out where there is no such file. Names are replaced in the order given.
    Raises PublishError; the temporary files are gone then, and `previous` names are as they were unless a rename
    itself failed.
    """
    temporaries: list[str] = []
    renames: list[str] = []
    try:
        published = _write(_temporary(directory, names[0], temporaries), data, _mode_of(directory, names))
        for name in names[1:]:
            _link(temporaries[0], _temporary(directory, name, temporaries))
        for name, source in (previous or {}).items():
            if os.path.exists(os.path.join(directory, source)):
                _link(os.path.join(directory, source), _temporary(directory, name, temporaries))
                renames.append(name)
        # What is replaced gets its second name first.
        kept = temporaries[len(names) :]
        _rename(directory, [*kept, *temporaries[: len(names)]], [*renames, *names])
        return published
    except BaseException:
        for path in temporaries:
            with contextlib.suppress(OSError):
                os.unlink(path)
        raise


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
    for name in os.listdir(directory):
        if _LEFTOVER.fullmatch(name):
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                if os.path.isdir(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
                removed.append(name)
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
        _write(path, data, None)


def _write(path: str, data: bytes | memoryview, mode: int | None) -> Published:
    view = memoryview(data)
    expected: _Checksum | None = None
    stage = "write"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            if mode is not None:
                os.fchmod(fd, mode)
            at = 0
            while at < len(view):
                at += os.write(fd, view[at:])
            stage = "sync"
            # While the device works: the checksum of the memory, which the file is then held against.
            expected = _Checksum(view)
            # Never tried again: after a failed fsync the kernel may have dropped the bytes and report success.
            os.fsync(fd)
            stage = "verify"
            found = _crc_of(fd, len(view))
            if found != expected.value():
                raise PublishError("verify", f"the file holds crc32 {found:08x}, memory holds {expected.value():08x}")
        finally:
            os.close(fd)
            if expected is not None:
                expected.value()  # nobody reads `data` after this function
    except OSError as error:
        raise PublishError(stage, error) from error
    return Published(size_bytes=len(view), digest=f"crc32:{found:08x}")


class _Checksum:
    """CRC-32 of `data`, computed in a thread: the checksum, as fsync, runs without the interpreter's lock."""

    def __init__(self, data: memoryview) -> None:
        self._value = 0

        def compute() -> None:
            self._value = crc32(data)

        self._thread = threading.Thread(target=compute, name="checksum")
        self._thread.start()

    def value(self) -> int:
        self._thread.join()
        return self._value


def _crc_of(fd: int, size: int) -> int:
    """Checksum of the file's content, which must be `size` bytes long."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(size, 1))))
    value, at = 0, 0
    while num_bytes := os.preadv(fd, [buffer], at):
        value = crc32(buffer[:num_bytes], value)
        at += num_bytes
    if at != size:
        raise PublishError("verify", f"the file holds {at:,} bytes, {size:,} were written")
    return value


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
