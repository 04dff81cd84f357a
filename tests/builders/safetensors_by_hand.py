"""A small safetensors file of one tensor, written byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path


def write_safetensors(path: Path, numbers: list[float], **metadata: str) -> None:
    """One tensor of float32, as the format's own writer lays it out."""
    entry = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [0, 4 * len(numbers)]}
    header = json.dumps({"__metadata__": metadata, "h.0.weight": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(numbers)}f", *numbers))
