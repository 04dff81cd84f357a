"""The zip container that torch.save writes, laid out before there is anything in it.

Where each storage lies depends on the sizes alone, not on what is in them. So memory can be laid out as the file will
be, storages copied straight into their places, and only checksums are filled in afterwards. The records are stored
(never compressed), each tensor's bytes begin at a multiple of 64, and torch.load takes it, mapped or not.

Unlike in torch's own files, each record's checksum stands before its bytes, too: a file that was cut can be salvaged
with proof. And the storages begin at a multiple of a page, so that a file can be written past the page cache.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
PAGE_BYTES = 4096
_FOLDER = "archive"
_UTF8 = 0x800
_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
_LOCAL_BYTES, _CENTRAL_BYTES = 30, 46
_CRC_IN_LOCAL, _CRC_IN_CENTRAL = 14, 16
_MAX32 = 0xFFFFFFFF
# A pickle may grow so much (a longer history, a larger number) before all storages have to move.
_SLACK_BYTES = 16 * 1024
# What torch writes beside the state: the version of the layout, and of the file format.
_SMALL = (
    (".format_version", b"1"), (".storage_alignment", str(ALIGNMENT).encode()), ("byteorder", sys.byteorder.encode()),
    ("version", b"3\n"),
)  # fmt: skip
_ID_NAME, _ID_BYTES = ".data/serialization_id", 40


@dataclass(frozen=True)
class _Record:
    """name: inside the archive. header, data: where its local header and its bytes begin in the file."""

    name: bytes
    header: int
    data: int
    size: int

    @property
    def extra(self) -> bytes:
        """Two sizes too large for 32 bits, and the padding that torch writes as a field named FB."""
        wide = struct.pack("<HHQQ", 1, 16, self.size, self.size) if self.size >= _MAX32 else b""
        num_padding = self.data - self.header - _LOCAL_BYTES - len(self.name) - len(wide) - 4
        return wide + struct.pack("<2sH", b"FB", num_padding) + b"Z" * num_padding

    def local_header(self, crc: int = 0) -> bytes:
        extra, size = self.extra, min(self.size, _MAX32)
        needed = 45 if self.size >= _MAX32 else 0
        fields = struct.pack(
            "<4s5H3I2H", _LOCAL, needed, _UTF8, 0, 0, 0, crc, size, size, len(self.name), len(extra)
        )  # fmt: skip
        return fields + self.name + extra

    def central_entry(self, crc: int = 0) -> bytes:
        extra = b""
        if self.size >= _MAX32:
            extra += struct.pack("<QQ", self.size, self.size)
        if self.header >= _MAX32:
            extra += struct.pack("<Q", self.header)
        if extra:
            extra = struct.pack("<HH", 1, len(extra)) + extra
        size = min(self.size, _MAX32)
        fields = struct.pack(
            "<4s6H3I5H2I", _CENTRAL, 0, 45 if extra else 0, _UTF8, 0, 0, 0, crc, size, size, len(self.name),
            len(extra), 0, 0, 0, 0, min(self.header, _MAX32),
        )  # fmt: skip
        return fields + self.name + extra


class Layout:
    """Where everything lies in a file with storages of `sizes` bytes and a pickle of up to `pickle_capacity`.

    offsets: where each storage begins. size_bytes: of the whole file.
    """

    def __init__(self, sizes: Sequence[int], pickle_bytes: int) -> None:
        self.sizes = tuple(sizes)
        small = sum(_LOCAL_BYTES + len(_path(name)) + 4 + ALIGNMENT + len(content) for name, content in _SMALL)
        front = _LOCAL_BYTES + len(_path("data.pkl")) + 4 + ALIGNMENT + pickle_bytes + small
        self._front_bytes = _round_up(front + _SLACK_BYTES, PAGE_BYTES)
        self.records: list[_Record] = []
        at = self._front_bytes
        for number, size in enumerate(self.sizes):
            record = _placed(_path(f"data/{number}"), at, size)
            self.records.append(record)
            at = record.data + size
        self.offsets = [record.data for record in self.records]
        self._id = _placed(_path(_ID_NAME), at, _ID_BYTES)
        self._tail_at = at
        self._tail = b"".join(record.central_entry() for record in self.records)
        front_entries = sum(_CENTRAL_BYTES + len(_path(name)) for name in ("data.pkl", *(name for name, _ in _SMALL)))
        self.size_bytes = (
            self._id.data + _ID_BYTES + front_entries + len(self._tail) + len(self._id.central_entry()) + 56 + 20 + 22
        )

    def fits(self, sizes: Sequence[int], pickle_bytes: int) -> bool:
        """Whether a state of these sizes has the same layout."""
        return self.sizes == tuple(sizes) and self._front(pickle_bytes) is not None

    def prepare(self, memory: memoryview) -> None:
        """Write all that lies between the storages, checksums left open. Once per layout."""
        for record in self.records:
            header = record.local_header()
            memory[record.header : record.header + len(header)] = header

    def finish(self, memory: memoryview, pickled: bytes, crc32: Callable[[memoryview | bytes], int]) -> None:
        """The front, the checksums and the directory, around storages that are in their places."""
        front = self._front(len(pickled))
        assert front is not None
        entries = []
        for record, content in zip(front, [pickled, *(content for _, content in _SMALL)], strict=True):
            crc = crc32(content)
            header = record.local_header(crc)
            memory[record.header : record.data] = header
            memory[record.data : record.data + record.size] = content
            entries.append(record.central_entry(crc))
        tail = bytearray(self._tail)
        at, crcs = 0, []
        for record in self.records:
            crc = crc32(memory[record.data : record.data + record.size])
            struct.pack_into("<I", memory, record.header + _CRC_IN_LOCAL, crc)
            struct.pack_into("<I", tail, at + _CRC_IN_CENTRAL, crc)
            at += _central_bytes(tail, at)
            crcs.append(crc)
        # As in torch's files: twenty digits for the names, twenty for the contents.
        names = b"".join(record.name for record in self.records)
        identity = f"{crc32(names):020d}{crc32(pickled + struct.pack(f'<{len(crcs)}I', *crcs)):020d}".encode()
        id_crc = crc32(identity)
        entries += [bytes(tail), self._id.central_entry(id_crc)]
        directory = b"".join(entries)
        begin = self._id.data + _ID_BYTES
        num = len(front) + len(self.records) + 1
        end = self._id.local_header(id_crc) + identity + directory + _ends(num, len(directory), begin)
        memory[self._tail_at : self.size_bytes] = end

    def _front(self, pickle_bytes: int) -> list[_Record] | None:
        """The records before the storages; the last one is padded up to them. None when they have no room."""
        records, at = [], 0
        for name, size in (("data.pkl", pickle_bytes), *((name, len(content)) for name, content in _SMALL)):
            records.append(_placed(_path(name), at, size))
            at = records[-1].data + size
        last = records[-1]
        data = self._front_bytes - last.size
        # The length of a field has 16 bits.
        if not last.data <= data <= last.data + 0xFF00 - ALIGNMENT:
            return None
        return [*records[:-1], _Record(last.name, last.header, data, last.size)]


def _path(name: str) -> bytes:
    return f"{_FOLDER}/{name}".encode()


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _placed(name: bytes, at: int, size: int) -> _Record:
    wide = 20 if size >= _MAX32 else 0
    return _Record(name, at, _round_up(at + _LOCAL_BYTES + len(name) + wide + 4, ALIGNMENT), size)


def _central_bytes(directory: bytearray, at: int) -> int:
    num_name, num_extra = struct.unpack_from("<HH", directory, at + 28)
    return _CENTRAL_BYTES + int(num_name) + int(num_extra)


def _ends(num: int, directory_bytes: int, directory_at: int) -> bytes:
    """The three records that a zip ends with. The wide ones are always there, as torch writes them."""
    wide_at = directory_at + directory_bytes
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, num, num, directory_bytes, directory_at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, wide_at, 1)
    short = min(num, 0xFFFF)
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, short, short, min(directory_bytes, _MAX32), min(directory_at, _MAX32), 0
    )
    return wide + locator + end
