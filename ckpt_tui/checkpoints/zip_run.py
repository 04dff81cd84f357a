"""A file that is a run of whole zip archives, one behind the other, as torch.distributed.checkpoint writes them.

Where each begins is found from the end: an archive ends with its end record, which says how large its directory is and
how far from the archive's first byte that begins.
"""

from __future__ import annotations

import os
from struct import Struct

_END = Struct("<4s4H2IH")
_LOCATOR = Struct("<4sIQI")
_END64 = Struct("<4sQ2H2I4Q")
_TAIL_BYTES = _END64.size + _LOCATOR.size + _END.size
_MAX_ARCHIVES = 2_000_000


def archives_in(descriptor: int, file_bytes: int) -> list[tuple[int, int]]:
    """(begin, bytes) of every archive in the order of the file; none when it is not such a run from end to end."""
    found: list[tuple[int, int]] = []
    end = file_bytes
    while end > 0 and len(found) < _MAX_ARCHIVES:
        begin = _begin_of(descriptor, end)
        if begin is None:
            return []
        found.append((begin, end - begin))
        end = begin
    return found[::-1] if end == 0 else []


def _begin_of(descriptor: int, end: int) -> int | None:
    """Where the archive begins whose end record is the last thing before `end`; None when there is no such record."""
    start = max(end - _TAIL_BYTES, 0)
    tail = os.pread(descriptor, end - start, start)
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\x05\x06":
        return None
    *_, directory_bytes, directory_at, comment = _END.unpack_from(tail, at)
    if comment:
        return None
    directory_end = start + at
    if at >= _LOCATOR.size + _END64.size and tail[at - _LOCATOR.size :][:4] == b"PK\x06\x07":
        at64 = at - _LOCATOR.size - _END64.size
        if tail[at64 : at64 + 4] != b"PK\x06\x06":
            return None
        directory_bytes, directory_at = _END64.unpack_from(tail, at64)[8:10]
        directory_end = start + at64
    begin: int = directory_end - directory_bytes - directory_at
    if not 0 <= begin < end or os.pread(descriptor, 4, begin) not in (b"PK\x03\x04", b"PK\x05\x06"):
        return None
    return begin
