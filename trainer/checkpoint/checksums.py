"""Whether a torch file holds what was saved: torch.load itself looks at no checksum."""

from __future__ import annotations

import mmap
import os
import struct
import zipfile
from typing import IO

try:
    from isal.isal_zlib import crc32  # at memory speed: both checksums together cost less than reading the file
except ImportError:
    from zlib import crc32

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


def digest_and_broken_record(file: IO[bytes]) -> tuple[str, str | None]:
    """`crc32:<hex>` of a whole zip file, and the name of the first record whose own checksum is wrong.

    The file comes from the device once: both checksums are of the same mapped pages, which whoever loads it then
    finds in memory. Raises zipfile.BadZipFile when it is not a whole zip file, OSError.
    """
    descriptor = file.fileno()
    if os.fstat(descriptor).st_size == 0:
        raise zipfile.BadZipFile("it is empty")
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as data:
        data.madvise(mmap.MADV_SEQUENTIAL)
        digest = f"crc32:{crc32(data):08x}"
        with zipfile.ZipFile(file) as archive:
            return digest, _broken_record(archive, data)


def _broken_record(archive: zipfile.ZipFile, data: mmap.mmap) -> str | None:
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED:
            # Not written by torch.save; nothing is known of it but what zipfile makes of it.
            return archive.testzip()
        header = data[info.header_offset : info.header_offset + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            return info.filename
        name_length, extra_length = _LOCAL_HEADER.unpack(header)[-2:]
        begin = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        end = begin + info.file_size
        with memoryview(data) as view, view[begin:end] as record:
            if len(record) != info.file_size or crc32(record) != info.CRC:
                return info.filename
    return None
