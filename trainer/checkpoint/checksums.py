"""Whether a torch file holds what was saved: torch.load itself looks at no checksum."""

from __future__ import annotations

import errno
import os
import struct
import zipfile
from typing import IO

try:
    from isal.isal_zlib import crc32  # at memory speed: both checksums together cost less than reading the file
except ImportError:
    from zlib import crc32

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_CHUNK_BYTES = 4 << 20


def digest_and_broken_record(file: IO[bytes]) -> tuple[str, str | None]:
    """`crc32:<hex>` of a whole zip file, and the name of the first record whose own checksum is wrong.

    Read, and not mapped into memory: a block that the device cannot give is an error here, and a signal that ends the
    process there. The second reading finds what the first one left in the page cache.
    Raises zipfile.BadZipFile when it is not a whole zip file, OSError.
    """
    fd = file.fileno()
    size = os.fstat(fd).st_size
    if size == 0:
        raise zipfile.BadZipFile("it is empty")
    value = _crc_of(fd, 0, size)
    if value is None:
        raise zipfile.BadZipFile("it became shorter while it was read")
    digest = f"crc32:{value:08x}"
    try:
        with zipfile.ZipFile(file) as archive:
            return digest, _broken_record(archive, fd, size)
    except (zipfile.BadZipFile, MemoryError):
        raise
    except Exception as error:
        # A flipped bit in the directory makes zipfile and zlib raise nearly anything, or look beyond any file.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile(f"its directory cannot be read: {type(error).__name__}: {error}") from error


def _broken_record(archive: zipfile.ZipFile, fd: int, size: int) -> str | None:
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED:
            # Not written by torch.save; nothing is known of it but what zipfile makes of it.
            return archive.testzip()
        if not 0 <= info.header_offset < size:
            return info.filename
        header = os.pread(fd, _LOCAL_HEADER.size, info.header_offset)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            return info.filename
        name_length, extra_length = _LOCAL_HEADER.unpack(header)[-2:]
        begin = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if _crc_of(fd, begin, info.file_size) != info.CRC:
            return info.filename
    return None


def _crc_of(fd: int, begin: int, num_bytes: int) -> int | None:
    """CRC-32 of a part of a file, None when the file ends before."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, num_bytes)))
    value, at, end = 0, begin, begin + num_bytes
    while at < end:
        got = os.preadv(fd, [buffer[: end - at]], at)
        if not got:
            return None
        value = crc32(buffer[:got], value)
        at += got
    return value
