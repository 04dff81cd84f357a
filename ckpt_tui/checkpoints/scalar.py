"""The value of a tensor that is one number: a best loss that nobody called `.item()` on, a learning rate of a compiled
step. Read without numpy, because `inspect` shows it every time."""

from __future__ import annotations

import os
from struct import unpack

from ckpt_tui.checkpoints.model import Checkpoint, TensorRef
from ckpt_tui.checkpoints.opening import RegularFile, storage_path
from ckpt_tui.errors import CkptError

_CODES = {
    "float64": "d", "float32": "f", "float16": "e", "bfloat16": "f", "int64": "q", "int32": "i", "int16": "h",
    "int8": "b", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
}  # fmt: skip
_WIDTHS = {"d": 8, "f": 4, "e": 2, "q": 8, "i": 4, "h": 2, "b": 1, "B": 1, "H": 2, "I": 4, "Q": 8}


def number_of(checkpoint: Checkpoint, value: object) -> int | float | None:
    """The number in a tensor of one element; None for anything else and where no bytes are."""
    if not isinstance(value, TensorRef) or value.info.shape not in ((), (1,)) or value.info.is_neg:
        return None
    info = value.info
    code = _CODES.get(info.dtype)
    storage = checkpoint.storages.get(info.storage)
    if code is None or storage is None or storage.offset is None or storage.deflated_bytes is not None:
        return None
    width = 2 if info.dtype == "bfloat16" else _WIDTHS[code]
    start = info.offset * width
    if start < 0 or start + width > storage.size_bytes:
        return None
    try:
        with RegularFile(storage_path(checkpoint, storage)) as file:
            if storage.offset + start + width > file.file_bytes:
                return None
            raw = os.pread(file.descriptor, width, storage.offset + start)
    except (CkptError, OSError, OverflowError):
        return None
    if len(raw) != width:
        return None
    if info.dtype == "bfloat16":
        raw = raw + b"\0\0" if storage.is_big_endian else b"\0\0" + raw
    number: int | float = unpack((">" if storage.is_big_endian else "<") + code, raw)[0]
    return number
