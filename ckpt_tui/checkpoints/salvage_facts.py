"""What is known of a damaged checkpoint: where the bytes of whole storages lie, and why others are lost."""

from __future__ import annotations

from dataclasses import field

from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo, bytes_needed
from ckpt_tui.checkpoints.zip_walk import FoundRecord
from ckpt_tui.records import dataclass
from ckpt_tui.text import count


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of a whole storage lie: `stored_bytes` at `offset` of the file at `path`.

    crc32: of the elements, as they were just read. is_vouched: a checksum in the file says the same. spans: where the
    bytes lie one after another (path, offset, size), of a storage that is put together from pieces.
    """

    path: str
    offset: int
    size_bytes: int
    stored_bytes: int
    crc32: int
    is_vouched: bool
    is_deflated: bool = False
    is_big_endian: bool = False
    spans: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class LostTensor:
    """A tensor that is not got back. shape and dtype: None and "" where nothing tells them any more."""

    name: str
    file: str
    shape: tuple[int, ...] | None
    dtype: str
    size_bytes: int | None
    reason: str


@dataclass(slots=True)
class Examined:
    """A damaged checkpoint, and what of it is whole. `sources` and `lost_storages` are by storage key.

    is_damaged: False when nothing at all is wrong with it. missing: tensors that an index names and no file holds.
    """

    checkpoint: Checkpoint
    sources: dict[str, Source] = field(default_factory=dict)
    lost_storages: dict[str, str] = field(default_factory=dict)
    missing: list[LostTensor] = field(default_factory=list)
    has_names: bool = True
    has_own_names: bool = True  # False: they are those of another checkpoint, and no other value is known
    has_checksums: bool = False
    is_verified: bool = True  # every storage was read and compared with its checksum
    records: list[FoundRecord] | None = None  # of a walk; None: the archive's own directory tells them
    is_damaged: bool = False
    bytes_read: int = 0

    def lost_reason(self, tensor: TensorInfo) -> str:
        """Why a tensor that lies on a storage cannot be got back; "" when it can."""
        if not tensor.storage or tensor.device == "meta":
            return ""
        reason = self.lost_storages.get(tensor.storage)
        if reason is not None:
            return reason
        source = self.sources.get(tensor.storage)
        if source is None:
            return f"{tensor.storage} was not found"
        needed = bytes_needed(tensor)
        if needed is None:
            return "its shape, strides and offset do not go together"
        if needed > source.size_bytes:
            return f"it needs {count(needed)} bytes, {tensor.storage} has {count(source.size_bytes)}"
        return ""
