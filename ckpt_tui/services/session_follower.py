"""What the log of a supervised training says while it runs and when it ends, read as it grows: never twice, never all.

Keeps a handful of numbers, however long the training lasts.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection

from ckpt_tui.events.schema import (
    LOG_NAME,
    BadLine,
    CheckpointSaved,
    ErrorRaised,
    Eval,
    Event,
    RunEnd,
    RunStart,
    Step,
    Supervised,
)
from ckpt_tui.process_identity import NOBODY
from ckpt_tui.run.health import Rhythm, median
from ckpt_tui.sources.jsonl import JsonlSource

_NUM_GAPS = 64
_LINES_BEFORE = 500  # of a training that was there before us: enough to know its rhythm
# A longer silence that nothing explains was the machine's sleep or its clock, and tells nothing of the training.
_MAX_GAP_S = 600.0


class SessionFollower:
    """Follows the session that begins now, or the one that runs already.

    step: how far it came. session: its number, 0 until it has told it. status, reason: of its end, as it told it.
    """

    def __init__(self, directory: str, running: Collection[int] | None = None) -> None:
        """running: the pids of a training that runs already; None for one that is yet to begin."""
        self._source = JsonlSource(os.path.join(directory, LOG_NAME))
        self.step: int | None = None
        self.first_step: int | None = None  # of its first step event
        self.session = 0
        self.status = self.reason = ""
        self.is_started = False  # its run_start was seen
        self.process = NOBODY  # who it said there that it is
        self._gaps: deque[float] = deque(maxlen=_NUM_GAPS)
        self._longest_pause_s = 0.0
        self._last_ts: float | None = None
        self._last_step_ts: float | None = None
        self._source.skip_to_last(0 if running is None else _LINES_BEFORE)
        if running is not None:
            self._read()
            if self.process.pid not in running:  # it has not told of its start, or that is further back
                self.status = self.reason = ""

    def poll(self) -> bool:
        """Read what came; whether something did."""
        return self._read()

    def _read(self) -> bool:
        has_news = False
        while True:
            batch = self._source.poll()
            for event in batch.events:
                has_news = True
                if not isinstance(event, (BadLine, Supervised)):
                    self._take(event)
            if batch.is_caught_up:
                return has_news

    def _take(self, event: Event) -> None:
        self.session = max(self.session, event.session)
        if isinstance(event, RunStart):
            self.step, self.status, self.reason, self.is_started = event.start_step, "", "", True
            self.first_step = None
            self.process = event.process
            self._gaps.clear()
            self._last_ts = self._last_step_ts = None
        elif isinstance(event, RunEnd):
            self.status, self.reason = event.status or "failed", event.reason
            self.step = max(event.step, self.step or 0)
        elif isinstance(event, ErrorRaised):
            self.reason = f"{event.type}: {event.message}" if event.type else event.message
        elif isinstance(event, Step):
            self.step = event.step
            self.first_step = event.step if self.first_step is None else self.first_step
            if self._last_step_ts is not None and event.ts >= self._last_step_ts:
                self._gaps.append(event.ts - self._last_step_ts)
            self._last_step_ts = event.ts
        elif isinstance(event, Eval):
            self._paused(event.seconds)
        elif isinstance(event, CheckpointSaved):
            self._paused(event.save_seconds)
        if self._last_ts is not None and 0 < event.ts - self._last_ts <= _MAX_GAP_S:
            self._paused(event.ts - self._last_ts)
        self._last_ts = event.ts

    def _paused(self, seconds: float | None) -> None:
        if seconds is not None and seconds > self._longest_pause_s:
            self._longest_pause_s = seconds

    @property
    def rhythm(self) -> Rhythm:
        """How often it speaks, as the header judges it."""
        return Rhythm(median(self._gaps), self._longest_pause_s)
