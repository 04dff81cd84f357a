"""Pieces of a torch zip as torch 2 writes it: stored records on 64-byte boundaries, each with its checksum.

Sizes and checksums stand in the local headers too, where torch leaves zeros: cut short, such a file can be walked.
Records and offsets beyond 4 GiB get zip64 fields.
"""

from __future__ import annotations

from struct import Struct

from ckpt_tui.checkpoints.salvage_facts import Source
from ckpt_tui.checkpoints.writers.pieces import NewFile, NewStorage

_LOCAL = Struct("<4s5H3I2H")
_CENTRAL = Struct("<4s6H3I5H2I")
_END64 = Struct("<4sQ2H2I4Q")
_LOCATOR = Struct("<4sIQI")
_END = Struct("<4s4H2IH")
_ALIGNMENT = 64
_LIMIT = 0xFFFFFFFF
_DOS_DATE = 0x21  # 1980-01-01: the earliest there is
_VERSION = 45  # knows zip64
_PREFIX = "archive/"


def torch_zip_pieces(pickled: bytes, storages: list[tuple[str, bytes | Source]], byteorder: str) -> NewFile:
    """A file with that data.pkl and storages by their names in it (`0`, `1` ...)."""
    archive = _Archive()
    archive.add("data.pkl", pickled)
    archive.add(".format_version", b"1")
    archive.add(".storage_alignment", str(_ALIGNMENT).encode())
    archive.add("byteorder", byteorder.encode())
    new = [archive.add(f"data/{name}", content) for name, content in storages]
    archive.add("version", b"3\n")
    archive.finish()
    return NewFile(archive.pieces, new, archive.position)


class _Archive:
    def __init__(self) -> None:
        self.pieces: list[bytes | Source] = []
        self.directory = bytearray()
        self.position = 0
        self.num_records = 0

    def append(self, piece: bytes | Source) -> None:
        self.pieces.append(piece)
        self.position += len(piece) if isinstance(piece, bytes) else piece.size_bytes

    def add(self, record: str, content: bytes | Source) -> NewStorage:
        """One record; gives where its data lies."""
        name = (_PREFIX + record).encode()
        if isinstance(content, bytes):
            from isal import isal_zlib

            num_bytes, crc = len(content), isal_zlib.crc32(content)
        else:
            num_bytes, crc = content.size_bytes, content.crc32
        start = self.position
        wide = num_bytes >= _LIMIT
        extra = Struct("<2H2Q").pack(1, 16, num_bytes, num_bytes) if wide else b""
        unpadded = start + _LOCAL.size + len(name) + len(extra) + 4
        padding = -unpadded % _ALIGNMENT
        extra += b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        shown = _LIMIT if wide else num_bytes
        self.append(
            _LOCAL.pack(
                b"PK\x03\x04", _VERSION if wide else 20, 0, 0, 0, _DOS_DATE, crc, shown, shown, len(name), len(extra)
            )
            + name
            + extra
        )
        offset = self.position
        self.append(content)
        fields = Struct("<2Q").pack(num_bytes, num_bytes) if wide else b""
        if start >= _LIMIT:
            fields += Struct("<Q").pack(start)
        extra = Struct("<2H").pack(1, len(fields)) + fields if fields else b""
        self.directory += _CENTRAL.pack(
            b"PK\x01\x02", _VERSION, _VERSION if fields else 20, 0, 0, 0, _DOS_DATE, crc, shown, shown, len(name),
            len(extra), 0, 0, 0, 0, min(start, _LIMIT),
        ) + name + extra  # fmt: skip
        self.num_records += 1
        return NewStorage(record, offset, num_bytes, crc)

    def finish(self) -> None:
        """The central directory and both end records, zip64's always, as torch has it."""
        start, num_bytes, number = self.position, len(self.directory), self.num_records
        end = start + num_bytes
        self.append(
            bytes(self.directory)
            + _END64.pack(
                b"PK\x06\x06", _END64.size - 12, _VERSION, _VERSION, 0, 0, number, number, num_bytes, start
            )
            + _LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
            + _END.pack(
                b"PK\x05\x06", 0, 0, min(number, 0xFFFF), min(number, 0xFFFF), min(num_bytes, _LIMIT),
                min(start, _LIMIT), 0,
            )
        )  # fmt: skip
