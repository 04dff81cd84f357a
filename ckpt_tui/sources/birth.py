"""When a file was made, which tells a log from a copy of it: `os.stat` has no birth time on Linux, `statx` does."""

from __future__ import annotations

import os
import sys

_AT_FDCWD, _STATX_BTIME = -100, 0x800
_NUM_BYTES, _BTIME_AT = 256, 80  # of `struct statx`, and where its birth time begins: seconds, nanoseconds


def birth_time(path: str) -> float | None:
    """Unix seconds; None where the file system does not keep it."""
    if sys.platform != "linux":
        return getattr(_stat(path), "st_birthtime", None)
    import ctypes
    import struct

    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):  # a C library that is older than 2018
        return None
    held = ctypes.create_string_buffer(_NUM_BYTES)
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, held) != 0:
        return None
    (mask,) = struct.unpack_from("=I", held.raw, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", held.raw, _BTIME_AT)
    return float(seconds + nanoseconds / 1e9) if mask & _STATX_BTIME and seconds > 0 else None


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None
