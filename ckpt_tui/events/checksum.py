"""A checksum inside a small JSON file: a flipped bit in a name or a number is not taken for what was written."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

KEY = "checksum"


def checksum_of(content: Mapping[str, Any]) -> str:
    """`crc32:<hex>` of everything but the checksum itself, however it is spaced and ordered."""
    plain = {key: value for key, value in content.items() if key != KEY}
    return f"crc32:{zlib.crc32(json.dumps(plain, sort_keys=True, separators=(',', ':')).encode()):08x}"


def is_as_written(content: Mapping[str, Any]) -> bool:
    """Whether the checksum holds; also where there is none."""
    return KEY not in content or content[KEY] == checksum_of(content)
