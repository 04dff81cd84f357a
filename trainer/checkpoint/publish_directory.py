"""The one way in which a checkpoint that is a directory comes into being: as `publish` does it for a file.

Written into a temporary directory beside, every file flushed and its digest put in a manifest, renamed, parent
flushed. At every moment each name holds the whole old directory or the whole new one, or for an instant, on a
filesystem that cannot exchange two names, nothing: then the other names of the same content are there. What fails or
dies before leaves a temporary directory that nobody takes for a checkpoint, and that `remove_leftovers` clears.

Several names share their bytes: the files are hard links, the directories that hold them are not.

    temporary = new_directory(run, "rolling_step_000500")
    ...                                            # write files below it, from any process
    commit(run, temporary, ["rolling_step_000500", "latest"])

Of files that another library writes, several processes may each `seal_files` their own, and give the facts to the one
that commits.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ckpt_tui.events import checksum
from trainer.checkpoint.proven import Published, PublishError, crc32, write_proven
from trainer.checkpoint.publish import publish

MANIFEST_NAME = "manifest.json"
SCHEMA = "ckpt-tui/manifest/1"
_CHUNK_BYTES = 4 << 20
_MAX_MANIFEST_BYTES = 16 << 20
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_numbers = itertools.count()


class BadDirectoryError(Exception):
    """A directory that is not what its manifest says; the message names the file.

    damage: in one word what is proven to be wrong (missing, cut, checksum, manifest); "" where that is not known.
    """

    def __init__(self, message: str, damage: str = "") -> None:
        super().__init__(message)
        self.damage = damage


@dataclass(frozen=True)
class FileFacts:
    """A file of a checkpoint directory. path: relative, with `/`. digest: `crc32:<hex>` of all of it."""

    path: str
    bytes: int
    digest: str


def new_directory(directory: str, name: str) -> str:
    """An empty temporary directory beside where `name` is to be. Raises PublishError."""
    path = os.path.join(directory, f".tmp-{name}.d-{os.getpid()}-{next(_numbers)}")
    try:
        os.mkdir(path)
    except OSError as error:
        raise PublishError("write", error) from error
    return path


def write_file(path: str, data: bytes | memoryview) -> FileFacts:
    """A file of a temporary directory: written, flushed, and found to hold what memory holds. Raises PublishError."""
    return _facts(path, write_proven(path, data))


def _facts(path: str, published: Published) -> FileFacts:
    return FileFacts(os.path.basename(path), published.size_bytes, published.digest)


def seal_files(directory: str, files: Iterable[str] | None = None) -> list[FileFacts]:
    """Flush files below `directory` that somebody else wrote, and give their digests; all of them when none are named.

    Of a zip (what torch.save writes) each record is held against the checksum that was computed while it was in
    memory; of other files the digest says what was in the file when it was flushed. Raises PublishError.
    """
    facts = []
    for file in files if files is not None else _files_below(directory):
        path = os.path.join(directory, *file.split("/"))
        stage = "sync"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
                stage = "verify"
                value, size_bytes = _checksum(fd)
            finally:
                os.close(fd)
            _check_records(path, file)
        except OSError as error:
            raise PublishError(stage, error) from error
        facts.append(FileFacts(file, size_bytes, f"crc32:{value:08x}"))
    return facts


def commit(
    directory: str,
    temporary: str,
    names: Sequence[str],
    *,
    sealed: Sequence[FileFacts] = (),
    about: Mapping[str, Any] | None = None,
    previous: Mapping[str, str] | None = None,
) -> Published:
    """Make the content of `temporary` that of every one of `names` in `directory`, and of no other name.

    sealed: files that are flushed and whose digest is known; the others are sealed here. about: what the manifest
    tells besides (step, epoch ...), plain types. previous: as of `publish`: {name: source} that get what `source`
    holds before it is replaced. Names are replaced in the order given.
    Gives the bytes of all files, and the digest of the manifest, which vouches for every file.
    Raises PublishError; the temporary directories are gone then.
    """
    made = [temporary]
    try:
        published = _seal(temporary, sealed, about or {})
        renames: list[tuple[str, str]] = []
        for name, source in (previous or {}).items():
            path = os.path.join(directory, source)
            if os.path.isdir(path):
                renames.append((_linked(directory, path, name, made), name))
        renames.append((temporary, names[0]))
        renames += [(_linked(directory, temporary, name, made), name) for name in names[1:]]
        _rename(directory, renames, made)
        return published
    finally:
        # What is left: everything on failure, and what was exchanged for the new ones otherwise.
        for path in made:
            _discard(path)


def publish_directory(
    directory: str,
    names: Sequence[str],
    files: Mapping[str, bytes | memoryview],
    *,
    about: Mapping[str, Any] | None = None,
    previous: Mapping[str, str] | None = None,
) -> Published:
    """`files` by name as a directory under every one of `names`.

    A directory of which the device could not keep a file (EIO, or other bytes than were written) is given up for one
    new one. Raises PublishError.
    """
    retried = ""
    try:
        temporary, sealed, seconds = _written(directory, names[0], files)
    except PublishError as error:
        if error.errno != errno.EIO and error.stage != "verify":
            raise
        retried = str(error)
        temporary, sealed, seconds = _written(directory, names[0], files)
    started = time.monotonic()
    published = commit(directory, temporary, names, sealed=sealed, about=about, previous=previous)
    seconds["publish"] = time.monotonic() - started
    return replace(published, seconds=seconds, retried=retried)


def _written(
    directory: str, name: str, files: Mapping[str, bytes | memoryview]
) -> tuple[str, list[FileFacts], dict[str, float]]:
    """A temporary directory with `files` in it, what they are, and the seconds of each stage over all of them."""
    temporary = new_directory(directory, name)
    sealed: list[FileFacts] = []
    seconds: dict[str, float] = {}
    try:
        for file, data in files.items():
            path = os.path.join(temporary, file)
            published = write_proven(path, data)
            sealed.append(_facts(path, published))
            for stage, taken in published.seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + taken
    except BaseException:
        _discard(temporary)
        raise
    return temporary, sealed, seconds


def seal_in_place(path: str, about: Mapping[str, Any] | None = None) -> Published:
    """Make a directory durable that another library wrote where it is to stay, and let a manifest say so.

    The manifest comes into being last, and at once: a directory without one was not finished. Raises PublishError.
    """
    files = seal_files(path)
    _flush_directories(path)
    manifest = publish(path, [MANIFEST_NAME], _manifest_of(files, about or {}))
    try:
        flush_directory(os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        raise PublishError("publish", error) from error
    return Published(sum(facts.bytes for facts in files), manifest.digest)


def unseal(path: str) -> None:
    """Before a sealed directory is written into: what dies meanwhile must not look finished. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(path, MANIFEST_NAME))
    flush_directory(path)


def read_manifest(path: str) -> dict[str, Any]:
    """The manifest of a checkpoint directory. Raises BadDirectoryError, OSError: then it may be whole."""
    try:
        with open(os.path.join(path, MANIFEST_NAME), "rb") as file:
            content = json.loads(file.read(_MAX_MANIFEST_BYTES))
        files = [FileFacts(str(row["path"]), int(row["bytes"]), str(row["digest"])) for row in content["files"]]
        is_as_written = checksum.is_as_written(content)
    except FileNotFoundError:
        raise BadDirectoryError(
            f"it has no {MANIFEST_NAME}: it was not finished, or not written by this trainer", "missing"
        ) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BadDirectoryError(f"{MANIFEST_NAME} cannot be read: it is not what was written", "manifest") from error
    if any(not _is_inside(facts.path) for facts in files):
        raise BadDirectoryError(f"{MANIFEST_NAME} names a file outside the directory")
    if not is_as_written:
        raise BadDirectoryError(f"{MANIFEST_NAME} is not what was written: its checksum differs", "checksum")
    return {**content, "files": files}


def verify_directory(path: str) -> Published:
    """Hold every file against the manifest: its size and every byte. Raises BadDirectoryError, OSError."""
    manifest = read_manifest(path)
    total = 0
    for facts in manifest["files"]:
        try:
            with open(os.path.join(path, *facts.path.split("/")), "rb") as file:
                value, size_bytes = _checksum(file.fileno())
        except FileNotFoundError:
            raise BadDirectoryError(f"{facts.path} is missing", "missing") from None
        if size_bytes != facts.bytes:
            raise BadDirectoryError(f"{facts.path} has {size_bytes:,} bytes, {facts.bytes:,} were written", "cut")
        if f"crc32:{value:08x}" != facts.digest:
            raise BadDirectoryError(
                f"{facts.path} is not what was written (crc32:{value:08x}, saved as {facts.digest})", "checksum"
            )
        total += size_bytes
    return Published(total, digest_of_directory(path))


def digest_of_directory(path: str) -> str:
    """`crc32:<hex>` of the manifest, which holds the digests of all files. Raises OSError."""
    with open(os.path.join(path, MANIFEST_NAME), "rb") as file:
        return f"crc32:{_checksum(file.fileno())[0]:08x}"


@dataclass(frozen=True)
class ContentStatus:
    """What tells a content from any other without reading it: of directories with the same files, it is the same."""

    inode: int
    size_bytes: int
    mtime: float
    mtime_ns: int


def content_status(path: str) -> ContentStatus:
    """Of a checkpoint file, or of a directory: then its manifest's, which several names share, and all bytes.

    Raises OSError.
    """
    status = os.stat(path)
    size_bytes = status.st_size
    if os.path.isdir(path):
        size_bytes = sum(os.stat(os.path.join(path, *file.split("/"))).st_size for file in _files_below(path))
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(os.path.join(path, MANIFEST_NAME))
    return ContentStatus(status.st_ino, size_bytes, status.st_mtime, status.st_mtime_ns)


def remove_directory(path: str) -> None:
    """Remove a checkpoint directory: gone for everybody at once, by a rename, then file by file. Raises OSError."""
    directory, name = os.path.split(os.path.abspath(path))
    aside = os.path.join(directory, f".tmp-{name}.d-{os.getpid()}-{next(_numbers)}")
    os.rename(path, aside)
    _discard(aside)


def _discard(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _seal(temporary: str, sealed: Sequence[FileFacts], about: Mapping[str, Any]) -> Published:
    """Flush what is not flushed yet, then the manifest, then the directories."""
    known = {facts.path for facts in sealed}
    files = [*sealed, *seal_files(temporary, [file for file in _files_below(temporary) if file not in known])]
    manifest = write_file(os.path.join(temporary, MANIFEST_NAME), _manifest_of(files, about))
    _flush_directories(temporary)
    return Published(sum(facts.bytes for facts in files), manifest.digest)


def _manifest_of(files: Sequence[FileFacts], about: Mapping[str, Any]) -> bytes:
    rows = [asdict(facts) for facts in sorted(files, key=lambda facts: facts.path)]
    content = {"schema": SCHEMA, **about, "files": rows}
    content[checksum.KEY] = checksum.checksum_of(content)
    return json.dumps(content, indent=1).encode() + b"\n"


def link_directory(directory: str, source: str, name: str) -> None:
    """Give the checkpoint at the path `source` the name `name`, too, which is free. Raises PublishError."""
    made: list[str] = []
    try:
        _rename(directory, [(_linked(directory, source, name, made), name)], made)
    except BaseException:
        for path in made:
            _discard(path)
        raise


def _linked(directory: str, source: str, name: str, made: list[str]) -> str:
    """A temporary directory for `name` whose files are those of `source`."""
    path = new_directory(directory, name)
    made.append(path)
    try:
        for folder, folders, files in os.walk(source):
            inside = os.path.join(path, os.path.relpath(folder, source))
            for subfolder in folders:
                os.mkdir(os.path.join(inside, subfolder))
            for file in files:
                _link_file(os.path.join(folder, file), os.path.join(inside, file))
        _flush_directories(path)
    except OSError as error:
        raise PublishError("publish", error) from error
    return path


def _link_file(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        # A filesystem without hard links: bytes of its own.
        with open(source, "rb") as file:
            write_file(path, file.read())


def _rename(directory: str, renames: Sequence[tuple[str, str]], made: list[str]) -> None:
    """Each (temporary, name) in turn; a directory that was there takes the temporary one's place."""
    try:
        for temporary, name in renames:
            path = os.path.join(directory, name)
            if not os.path.lexists(path):
                os.rename(temporary, path)
            elif not exchange(temporary, path):
                _replace(directory, temporary, name, made)
        flush_directory(directory)
    except OSError as error:
        raise PublishError("publish", error) from error


def _replace(directory: str, temporary: str, name: str, made: list[str]) -> None:
    """Replace a directory in two steps, where one cannot be had; what was there is put back if the second fails."""
    path, aside = os.path.join(directory, name), new_directory(directory, name)
    os.rename(path, aside)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(aside, path)
        raise
    made.append(aside)


def exchange(a: str, b: str) -> bool:
    """Exchange two names in one step; False on a filesystem (NFS) or C library that cannot. Raises OSError."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), b)


def flush_directory(path: str) -> None:
    """Make the names in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _flush_directories(path: str) -> None:
    try:
        for folder, _, _ in os.walk(path, topdown=False):
            flush_directory(folder)
    except OSError as error:
        raise PublishError("sync", error) from error


def _files_below(directory: str) -> list[str]:
    found = []
    for folder, _, files in os.walk(directory):
        relative = os.path.relpath(folder, directory)
        found += [file if relative == "." else f"{relative}/{file}" for file in files]
    return sorted(file for file in found if file != MANIFEST_NAME)


def _check_records(path: str, file: str) -> None:
    """Hold the records of a zip against the checksums that were computed in memory; other files have none."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise PublishError("verify", f"{file}: {error}") from error
    if broken is not None:
        raise PublishError("verify", f"{file}: the checksum of its record {broken} is wrong")


def _checksum(fd: int) -> tuple[int, int]:
    """(CRC-32, bytes) of a file's content."""
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    value, at = 0, 0
    while num_bytes := os.preadv(fd, [buffer], at):
        value = crc32(buffer[:num_bytes], value)
        at += num_bytes
    return value, at


def _is_inside(file: str) -> bool:
    return bool(file) and not file.startswith("/") and "\0" not in file and ".." not in file.split("/")
