"""What a program has written last to the file of its output, as a person saw it."""

from __future__ import annotations

import os

TAIL_BYTES = 32 * 1024


def read_tail(path: str, begin: int) -> bytes:
    """Its end, from the byte `begin` on; nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(begin, end - TAIL_BYTES))
            return file.read(TAIL_BYTES)
    except OSError:
        return b""


def last_lines(path: str, begin: int, number: int) -> tuple[str, ...]:
    """Its last lines that say something, without what a progress bar wrote over; not yet safe for a terminal."""
    written = read_tail(path, begin).decode("utf-8", "replace")
    lines = (line.rstrip().rpartition("\r")[2] for line in written.split("\n"))
    return tuple([line for line in lines if line.strip()][-number:])
