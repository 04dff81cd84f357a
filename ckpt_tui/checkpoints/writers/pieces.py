"""What a new file is made of, from its first byte to its last: bytes that are known, and storages that are copied."""

from __future__ import annotations

from ckpt_tui.checkpoints.salvage_facts import Source
from ckpt_tui.records import dataclass


@dataclass(frozen=True, slots=True)
class NewStorage:
    """Where a storage will lie in the new file, and the CRC-32 that its bytes must have there."""

    key: str
    offset: int
    size_bytes: int
    crc32: int


@dataclass(slots=True)
class NewFile:
    """pieces: in order, nothing between them. storages: for reading back what was written."""

    pieces: list[bytes | Source]
    storages: list[NewStorage]
    size_bytes: int
