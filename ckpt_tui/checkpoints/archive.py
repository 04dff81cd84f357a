"""The records of a zip archive with their checksums: what integrity holds the bytes against."""

from __future__ import annotations

import os

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.text import safe_text

ZIP_HEAD = b"PK\x03\x04"
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an archive, as its directory describes it. crc32: as recorded; 0 may mean not recorded.

    is_stored: its bytes lie there as they are; otherwise as a raw deflate stream.
    """

    name: str
    offset: int
    size_bytes: int
    stored_bytes: int
    crc32: int
    is_stored: bool


@dataclass(frozen=True, slots=True)
class Archive:
    """records: those whose bytes can be read. num_unknown: records compressed by a method that nobody here reads."""

    records: list[Record]
    num_unknown: int = 0


def read_archive(path: str) -> Archive | None:
    """The records of the zip archive at `path`, or of several that lie in it one behind the other; None when it is
    none. CkptError when a directory cannot be read."""
    from ckpt_tui.checkpoints.opening import RegularFile
    from ckpt_tui.checkpoints.zip_index import read_zip_index
    from ckpt_tui.checkpoints.zip_run import archives_in

    records: list[Record] = []
    num_unknown = 0
    try:
        with RegularFile(path) as file:
            if os.pread(file.descriptor, 4, 0) != ZIP_HEAD:
                return None
            run = archives_in(file.descriptor, file.file_bytes)
            if not run and path.endswith(".distcp"):
                return None  # among its pieces are some that are no archives: the reader knows where they lie
            for begin, num_bytes in run if len(run) > 1 else [(0, file.file_bytes)]:
                index = read_zip_index(file.descriptor, num_bytes, safe_text(path), base=begin)
                where = f"byte {begin:,}: " if len(run) > 1 else ""
                readable = [e for e in index.entries if e.offset is not None]
                of_this = [
                    Record(where + e.name, e.offset, e.size_bytes, e.compressed_bytes, e.crc32, e.method == _STORED)
                    for e in readable
                    if e.offset is not None and e.method in (_STORED, _DEFLATED)
                ]
                records += of_this
                num_unknown += len(readable) - len(of_this)
    except OSError as error:
        raise from_os_error(error, safe_text(path)) from error
    return Archive(records, num_unknown)


def is_archive(path: str) -> bool:
    """Whether the file at `path` begins as zip archives do."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == ZIP_HEAD
    except (OSError, ValueError):
        return False


def records_checksums(path: str) -> bool:
    """Whether the file at `path` is an archive that was not written with checksums off."""
    if not is_archive(path):
        return False
    try:
        found = read_archive(path)
    except CkptError:
        return True
    return found is not None and any(record.crc32 for record in found.records)


def archive_names(path: str) -> set[str]:
    """Names of the records, without their folder; empty when it is no archive. CkptError as `read_archive`."""
    found = read_archive(path)
    return {record.name.rpartition("/")[2] for record in found.records} if found is not None else set()
