"""Zip archives of stored records, in which every header can be made to lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass


@dataclass
class Record:
    """`central` and `local` override fields of that header: name, crc, packed, size, method, flags, at (offset)."""

    name: str
    data: bytes
    central: dict[str, int | str] | None = None
    local: dict[str, int | str] | None = None


def zip_bytes(*records: Record) -> bytes:
    body, directory = b"", b""
    for record in records:
        truth: dict[str, int | str] = {
            "name": record.name, "crc": zlib.crc32(record.data), "packed": len(record.data),
            "size": len(record.data), "method": 0, "flags": 0, "at": len(body),
        }  # fmt: skip
        local, central = {**truth, **(record.local or {})}, {**truth, **(record.central or {})}
        name = str(local["name"]).encode()
        body += struct.pack(
            "<4s5H3I2H", b"PK\3\4", 20, local["flags"], local["method"], 0, 0, local["crc"], local["packed"],
            local["size"], len(name), 0,
        ) + name + record.data  # fmt: skip
        name = str(central["name"]).encode()
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, central["flags"], central["method"], 0, 0, central["crc"],
            central["packed"], central["size"], len(name), 0, 0, 0, 0, 0, central["at"],
        ) + name  # fmt: skip
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(records), len(records), len(directory), len(body), 0)
    return body + directory + end
