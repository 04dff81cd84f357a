"""Bytes of an open file, all of them or an error: `os.pread` may give fewer than were asked for."""

from __future__ import annotations

import os

from ckpt_tui.errors import CkptError

_MAX_CALL_BYTES = 1 << 30  # Linux gives at most 2 GiB - 4 KiB per call, macOS refuses 2 GiB


def read_exactly(descriptor: int, num_bytes: int, offset: int, path: str) -> bytes:
    """`num_bytes` bytes from `offset`. The caller has held both against the file's size.

    Raises CkptError "Incomplete read" when the file ends earlier all the same: it is being written, or the network
    mount lost it. OSError as it comes.
    """
    data = os.pread(descriptor, min(num_bytes, _MAX_CALL_BYTES), offset)
    if len(data) == num_bytes:
        return data
    pieces = [data]
    done = len(data)
    while data and done < num_bytes:
        data = os.pread(descriptor, min(num_bytes - done, _MAX_CALL_BYTES), offset + done)
        pieces.append(data)
        done += len(data)
    if done < num_bytes:
        raise CkptError(
            "Incomplete read",
            f"{path} became shorter while it was read: {num_bytes - done:,} bytes from byte {offset + done:,} on are "
            "not there any more",
            "Something is writing it, or its mount fails: try again when that is done.",
        )
    return b"".join(pieces)
