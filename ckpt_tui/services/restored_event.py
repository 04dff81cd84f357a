"""The `checkpoint_restored` events of a deed: written to the run's log once, whatever crashed in between."""

from __future__ import annotations

import mmap
import os
import time

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import LOG_NAME, CheckpointRestored, Event
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services.journal import Deed

TAIL_BYTES = 1 << 20
FRESH_S = 60.0
_MARK = f'"{CheckpointRestored.name}"'.encode()


def log_restored(directory: str, deed: Deed) -> None:
    """Append the events of `deed` that the log does not have yet. Without a log that we can read, nothing is written.

    They belong to the session that wrote last: nobody trains while files change hands.
    """
    path = os.path.join(directory, LOG_NAME)
    if not deed.log:
        return
    try:
        session, written = _tail(path, deed.number)
        if time.time() - deed.started_at > FRESH_S:
            written |= _anywhere(path, deed.number)  # it was interrupted, and who knows how much was trained since
    except OSError:
        return  # there is none, or it is not for us: the files have changed hands all the same
    from ckpt_tui.events.writer import EventWriter

    writer = EventWriter(directory, session=session)
    try:
        for entry in deed.log:
            if entry.path not in written:
                writer.emit(
                    CheckpointRestored(
                        path=entry.path, source=entry.source, by="viewer", why=entry.why, step=entry.step,
                        extra={"deed": deed.number, "act": deed.act},
                    )
                )  # fmt: skip
    finally:
        writer.close()


def _tail(path: str, number: int) -> tuple[int, set[str]]:
    """The number of the last session in the log, and for which names this deed was logged already."""
    with open_regular(path) as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - TAIL_BYTES, 0))
        lines = file.read().split(b"\n")
    session, written = 1, set()
    for line in lines:
        if not line.strip():
            continue
        event = decode(line)
        if isinstance(event, Event):
            session = event.session
            if isinstance(event, CheckpointRestored) and event.extra.get("deed") == number:
                written.add(event.path)
    return session, written


def _anywhere(path: str, number: int) -> set[str]:
    """For which names this deed was logged, looked for in the whole log."""
    written: set[str] = set()
    if not os.path.getsize(path):
        return written
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log:
        at = log.find(_MARK)
        while at >= 0:
            begin, end = log.rfind(b"\n", 0, at) + 1, log.find(b"\n", at)
            event = decode(log[begin : end if end >= 0 else len(log)])
            if isinstance(event, CheckpointRestored) and event.extra.get("deed") == number:
                written.add(event.path)
            at = log.find(_MARK, end) if end >= 0 else -1
    return written
