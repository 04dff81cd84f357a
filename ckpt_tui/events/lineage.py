"""Which checkpoints of a run lie on the way to where it is now, and which on a branch that a resume left behind.

A lineage is the chain of sessions that led to a state: each went on from a step of the one before it, and what a
session did beyond that step belongs to another branch. A checkpoint holds the lineage of its state, `registry.json`
that of the run as it is now; `run_start` events hold what both can be rebuilt from. A session is known by its id:
numbers begin anew when somebody removes the log, and files come from other directories.

Trainer and viewer both decide by the functions here which checkpoint `--resume auto` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ckpt_tui.events.from_end import lines_from_end

# A run that was restarted more often forgets its first sessions: a chain is part of each checkpoint.
MAX_SEGMENTS = 256
# The log is asked only where the registry is gone: its end, and no more of it than this.
MAX_LOG_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """One session of a lineage: from `start_step` on, up to where the next one begins.

    id: "" stands for everything that was saved without a lineage. source: the digest of what it was resumed from.
    """

    session: int
    id: str
    start_step: int = 0
    source: str = ""


Lineage = tuple[Segment, ...]
# Of a state whose checkpoint says nothing of how it came about.
UNTOLD: Lineage = (Segment(0, ""),)


def resumed(before: Lineage | None, segment: Segment) -> Lineage:
    """The lineage of a session that goes on from a checkpoint with the lineage `before`; None: it begins anew."""
    return (*(before or ()), segment)[-MAX_SEGMENTS:]


def is_on(lineage: Lineage | None, session_id: str, step: int | None) -> bool:
    """Whether the checkpoint that session `session_id` made at `step` lies on `lineage`, and not on a branch of it.

    Nothing is known of a run without a lineage, nor of a checkpoint without a step: they are not called left.
    """
    if lineage is None or step is None:
        return True
    for index, segment in enumerate(lineage):
        if segment.id == session_id:
            return index + 1 == len(lineage) or step <= lineage[index + 1].start_step
    return False


def continued(stored: Lineage | None, found: Iterable[Lineage]) -> Lineage | None:
    """The lineage of a run whose registry says `stored`, where `found` are those of checkpoints that it does not know.

    A session that went on from where the registry is, and died before the registry told of its first checkpoint, or
    could not write it, is where the run is now.
    """
    if stored is None:
        return None
    further = [lineage for lineage in found if stored[-1] in lineage[:-1]]
    return max(further, key=lambda lineage: (len(lineage), lineage[-1].session), default=stored)


def lineage_now(stored: Lineage | None, log_path: str, untold: Iterable[Lineage]) -> Lineage | None:
    """The lineage of a run as it is now: as its registry says (`stored`), or its log where that is gone, continued.

    untold: the lineages of checkpoints that the registry does not know.
    """
    return continued(stored if stored is not None else lineage_in_log(log_path), untold)


def as_plain(lineage: Lineage) -> list[dict[str, Any]]:
    """For JSON and for checkpoints."""
    return [asdict(segment) for segment in lineage]


def read_lineage(value: object) -> Lineage | None:
    """What `as_plain` gave, read with distrust: None when it is not a lineage."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return None
    segments = [_segment(fields) for fields in value[-MAX_SEGMENTS:]]
    known = tuple(segment for segment in segments if segment is not None)
    return known if len(known) == len(segments) else None


def _segment(fields: object) -> Segment | None:
    if not isinstance(fields, Mapping):
        return None
    session, session_id, start_step = fields.get("session"), fields.get("id"), fields.get("start_step")
    if type(session) is not int or type(start_step) is not int or not isinstance(session_id, str):
        return None
    return Segment(session, session_id[:64], start_step, str(fields.get("source") or "")[:160])


def lineage_in_log(path: str, max_bytes: int = MAX_LOG_BYTES) -> Lineage | None:
    """The lineage of a run by the end of its log, None when it does not tell.

    That of the newest session that a person had start from a certain checkpoint, or that saved one; or of the event of
    a rollback since, which holds one, too. A session that found its checkpoint by itself and saved none has left
    nothing behind.
    """
    from ckpt_tui.events.codec import decode
    from ckpt_tui.events.schema import CheckpointSaved, Event, RunStart

    saved: set[int] = set()
    for line in lines_from_end(path, max_bytes, (b'"lineage"', b'"checkpoint_saved"')):
        event = decode(line)
        if isinstance(event, CheckpointSaved):
            saved.add(event.session)
        elif isinstance(event, RunStart):
            is_found = (event.resumed_from or {}).get("wanted") == "auto"
            lineage = read_lineage(event.lineage)
            if lineage is not None and (event.session in saved or not is_found):
                return lineage
        elif isinstance(event, Event) and (lineage := read_lineage(event.extra.get("lineage"))):
            return lineage
    return None
