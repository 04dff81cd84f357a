"""The lines of a log, the newest first: what a session needs of its past without reading all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ckpt_tui.regular_file import open_regular

WINDOW_BYTES = 1 << 18
# A longer stretch without a newline is no line of a log: it is passed over.
MAX_LINE_BYTES = 16 << 20


def lines_from_end(path: str, max_bytes: int) -> Iterator[bytes]:
    """Lines without their newlines, the last one first, from at most the last `max_bytes` of the file.

    Empty lines are left out, and the one that the limit cuts. Yields nothing when the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            end = file.seek(0, os.SEEK_END)
            limit = max(end - max_bytes, 0)
            rest = b""
            while end > limit:
                begin = max(end - WINDOW_BYTES, limit)
                file.seek(begin)
                lines = (file.read(end - begin) + rest).split(b"\n")
                # The first one may begin further back.
                rest = lines[0] if len(lines[0]) <= MAX_LINE_BYTES else b""
                yield from (line for line in reversed(lines[1:]) if line.strip())
                end = begin
            if limit == 0 and rest.strip():
                yield rest
    except OSError:
        return
