"""safetensors files around any header, sound or not."""

from __future__ import annotations

import json
from typing import Any


def safetensors_bytes(header: object, data: bytes = b"", claimed: int | None = None) -> bytes:
    """`header` is JSON already when it is bytes; `claimed`: the length that the file says it has."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if claimed is None else claimed).to_bytes(8, "little") + raw + data


def entry(begin: int, end: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    """One tensor's description; a flat one of bytes where nothing else is said."""
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}
