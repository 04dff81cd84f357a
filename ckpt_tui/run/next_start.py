"""The start that a run which has ended is about to have, or has just had: until its first line the log cannot tell.

Between the end of a session and the first line of the next one the log reads like a crash that nobody looks after. A
live supervisor, or a process that was started since, says otherwise (`services/coming_start.py` asks them).
"""

from __future__ import annotations

from ckpt_tui import text
from ckpt_tui.records import dataclass
from ckpt_tui.run.health import START_PATIENCE_S
from ckpt_tui.run.state import NextStart, Phase

# What a supervisor starts again, as long as it has not said yet what it will do.
_MENDED = (Phase.CRASHED, Phase.FAILED)
_LATE_S = 60.0  # that a start may be, and is still called one of now


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands by its log and its process. session, last_ts: the last session, and its last sign of life.
    is_named: its log says which process it is."""

    phase: Phase
    reason: str
    last_ts: float
    session: int
    is_process_alive: bool | None
    is_named: bool


def with_next_start(told: Standing, start: NextStart | None, now: float) -> tuple[Phase, str, NextStart | None]:
    """Phase and reason as they are, and the start that they speak of; None where they speak of none."""
    phase, reason = told.phase, told.reason
    # It may train on another host, where nobody can look. One that lives and has said its end is ending.
    may_train = told.is_process_alive or (told.is_process_alive is None and told.is_named)
    if start is None or (may_train and not phase.is_over):
        return phase, reason, None
    if start.due_at is not None:
        # Who was killed has no last words; who started it saw how.
        is_seen = phase is Phase.CRASHED and start.last_exit
        return Phase.RESTARTING, text.safe_text(start.last_exit, 60) if is_seen else reason, start
    # By a clock that was set back meanwhile it was started before that end.
    is_since = start.holds_lock or start.session > told.session
    if start.started_at is not None and (is_since or start.started_at >= told.last_ts):
        silence_s = now - start.started_at
        if silence_s > START_PATIENCE_S:
            why = f"process {start.pid} was started {text.elapsed(silence_s)} ago and has written nothing"
            return Phase.STALLED, why, start
        return Phase.STARTING, reason, start
    if phase in _MENDED and start.is_supervised:
        return Phase.RESTARTING, reason, start
    return phase, reason, None


def _due_words(left_s: float) -> str:
    """A supervisor that reads a large checkpoint first is late; so is one that was stopped."""
    if left_s > 0:
        return f"in {text.duration(left_s)}"
    return "now" if left_s > -_LATE_S else f"due {text.elapsed(-left_s)} ago"


def next_start_words(start: NextStart, now: float, *, clock: str = "") -> str:
    """`attempt 3, in 20 s`, `attempt 3, process 4711 was started 5 s ago`. clock: when it is due or was made, as a time
    of day, for a screen on which no seconds shall tick."""
    words = [f"attempt {start.attempt:,}"] if start.attempt else []
    if start.due_at is not None:
        left_s = round(start.due_at - now)
        words.append(f"at {clock}" if clock else _due_words(left_s))
    elif start.started_at is not None:
        ago = f"at {clock}" if clock else f"{text.elapsed(max(now - start.started_at, 0.0))} ago"
        words.append(f"process {start.pid} was started {ago}")
    else:
        words.append("its supervisor looks at how it ended")
    return ", ".join(words)
