"""The earlier sessions of a run, as its log tells them: how long they trained, how they ended, what that cost.

A log of a million lines is not decoded for that: `run_start` lines are searched for, and the lines before each of them
say how the session before it ended.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from itertools import pairwise

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import (
    LOG_NAME,
    CheckpointRestored,
    Event,
    Nonfinite,
    RunEnd,
    RunStart,
    SaveAdvice,
    Supervised,
)
from ckpt_tui.save_interval import is_failure

# As `encode` spells them.
_START, _ADVICE, _ROLLED_BACK = b'"event":"run_start"', b'"event":"advice"', b'"rolled_back_to":'
# A save is told of some steps after its own: the last step that a session came to is among so many bytes of lines.
_TAIL_BYTES = 32 * 1024


@dataclass(frozen=True)
class PastSession:
    """status: of its `run_end`, "" when it has none. is_chosen: a person named the checkpoint that it began from."""

    number: int
    start_step: int
    start_ts: float
    last_step: int
    last_ts: float
    status: str
    is_chosen: bool = False

    @property
    def seconds(self) -> float:
        return max(self.last_ts - self.start_ts, 0.0)


@dataclass(frozen=True)
class History:
    """num_rollbacks: within sessions, after values that were not finite. advice: the newest that was given."""

    sessions: tuple[PastSession, ...] = ()
    num_rollbacks: int = 0
    advice: SaveAdvice | None = None

    @property
    def observed_s(self) -> float:
        """Time that sessions lived."""
        return sum(session.seconds for session in self.sessions)

    def num_failures(self, start_step: int, is_chosen: bool) -> int:
        """That lost work, when a session now begins at `start_step`. is_chosen: a person named the checkpoint."""
        before = sum(
            is_failure(one.status, max(one.last_step - after.start_step, 0), after.is_chosen)
            for one, after in pairwise(self.sessions)
        )
        return self.num_rollbacks + before + self.is_failed(start_step, is_chosen)

    def is_failed(self, start_step: int, is_chosen: bool) -> bool:
        """Whether the last session ended in a failure, when one now begins at `start_step`."""
        if not self.sessions:
            return False
        last = self.sessions[-1]
        return is_failure(last.status, max(last.last_step - start_step, 0), is_chosen)


def read_history(directory: str) -> History:
    """Empty when there is no log, or none that can be read. To be read before this session writes to it."""
    with contextlib.suppress(OSError, ValueError), open(os.path.join(directory, LOG_NAME), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as log:
            return _read(log, size)
    return History()


def _read(log: mmap.mmap, size: int) -> History:
    starts: list[tuple[int, RunStart]] = []
    at = log.find(_START)
    while at >= 0:
        begin = log.rfind(b"\n", 0, at) + 1
        end = log.find(b"\n", at)
        event = decode(log[begin : end if end >= 0 else size])
        if isinstance(event, RunStart):
            starts.append((begin, event))
        at = log.find(_START, at + 1)
    ends = [begin for begin, _ in starts[1:]] + [size]
    sessions = [_session(log, begin, end, start) for (begin, start), end in zip(starts, ends, strict=True)]
    num_rollbacks, at = 0, log.find(_ROLLED_BACK)
    while at >= 0:
        after = at + len(_ROLLED_BACK)
        num_rollbacks += log[after : after + 1].isdigit()  # null where a batch was skipped
        at = log.find(_ROLLED_BACK, after)
    return History(tuple(sessions), num_rollbacks, _last_advice(log, size))


def _session(log: mmap.mmap, begin: int, end: int, start: RunStart) -> PastSession:
    """From the last lines before `end`. What a viewer or a supervisor did afterwards is no sign of life."""
    events = [
        event for line in log[max(begin, end - _TAIL_BYTES) : end].split(b"\n")
        if isinstance(event := decode(line), Event) and not isinstance(event, (CheckpointRestored, Supervised))
        and event.session == start.session
    ]  # fmt: skip
    last = events[-1] if events else start
    last_step = start.start_step
    for event in events:
        last_step = max(last_step, event.step)
        if isinstance(event, Nonfinite) and event.rolled_back_to is not None:
            last_step = event.rolled_back_to
    source = start.resumed_from or {}
    return PastSession(
        number=start.session, start_step=start.start_step, start_ts=start.ts,
        last_step=last_step, last_ts=last.ts,
        status=next((event.status for event in reversed(events) if isinstance(event, RunEnd)), ""),
        is_chosen=source.get("wanted", "auto") not in ("auto", "latest"),
    )  # fmt: skip


def _last_advice(log: mmap.mmap, size: int) -> SaveAdvice | None:
    at = log.rfind(_ADVICE)
    if at < 0:
        return None
    end = log.find(b"\n", at)
    event = decode(log[log.rfind(b"\n", 0, at) + 1 : end if end >= 0 else size])
    return event if isinstance(event, SaveAdvice) else None
