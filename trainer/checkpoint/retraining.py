"""What a resume costs: the steps that were trained before and are trained again, and the seconds that they took."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise

from ckpt_tui.events.codec import decode
from ckpt_tui.events.from_end import lines_from_end
from ckpt_tui.events.schema import LOG_NAME, Event, RunStart, Step

_MAX_LOG_BYTES = 64 << 20


@dataclass(frozen=True)
class Trained:
    """What the log tells of the newest stretch of training: it came to `step`; seconds a step, None when not known."""

    step: int
    seconds_per_step: float | None


def trained_since(directory: str, step: int) -> Trained | None:
    """How far the newest session that came beyond `step` got, and the pace beyond it; None when none did.

    The log is read from its end, and no further back than it takes to know both.
    """
    session, reached = None, step
    marks: list[Step] = []  # of one session, newest first
    for line in lines_from_end(os.path.join(directory, LOG_NAME), _MAX_LOG_BYTES):
        event = decode(line)
        if not isinstance(event, Event):
            continue
        if session is None and isinstance(event, RunStart) and event.start_step <= step:
            return None  # what came further before that was given up when this session started, and told then
        if session is None and event.step > step:
            session = event.session
        if event.session == session:
            reached = max(reached, event.step)
        if session is None or not isinstance(event, Step):
            continue
        if marks and event.session != marks[0].session:
            if _pace(marks) is not None:
                break
            marks = []
        marks.append(event)
        if event.step <= step:
            break
    return Trained(reached, _pace(marks)) if session is not None else None


def _pace(marks: list[Step]) -> float | None:
    """Seconds a step between `step` events that follow each other, the newest first."""
    steps, seconds = 0, 0.0
    for later, earlier in pairwise(marks):
        if later.step > earlier.step and later.ts >= earlier.ts:
            steps += later.step - earlier.step
            seconds += later.ts - earlier.ts
    return seconds / steps if steps else None
