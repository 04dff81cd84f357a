"""The lines of a log, the newest first: what a session needs of its past without reading all of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ckpt_tui.regular_file import open_regular

WINDOW_BYTES = 1 << 18
# A longer stretch without a newline is no line of a log: it is passed over.
MAX_LINE_BYTES = 16 << 20


def lines_from_end(path: str, max_bytes: int, marks: Sequence[bytes] = ()) -> Iterator[bytes]:
    """Lines without their newlines, the last one first, from at most the last `max_bytes` of the file.

    marks: only lines in which one of them is; where none is for long, the lines are not even taken apart.
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
                window = file.read(end - begin) + rest
                is_meant = _is_meant(window, marks)
                lines = window.split(b"\n") if is_meant else [window.partition(b"\n")[0]]
                # The first one may begin further back, and with it a mark that is cut here.
                rest = lines[0] if len(lines[0]) <= MAX_LINE_BYTES else b""
                yield from (line for line in reversed(lines[1:]) if line.strip() and _is_meant(line, marks))
                end = begin
            if limit == 0 and rest.strip() and _is_meant(rest, marks):
                yield rest
    except OSError:
        return


def _is_meant(text: bytes, marks: Sequence[bytes]) -> bool:
    return not marks or any(mark in text for mark in marks)
