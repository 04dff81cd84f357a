"""Finds a training that has become slower than it was, and stays so.

The pace is looked at in spans of `SPAN` step events. An evaluation or a save makes one span slow, a drop makes
`MANY_OF_8` of 8, for at least `LEAST_S` seconds. Spans are cut by the number of events since the session began, so
that it makes no difference in which batches they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from operator import sub, truediv

from ckpt_tui import text
from ckpt_tui.run.state import Alert

SPAN = 8  # step events
CHUNK = 64 * SPAN
FIRST_SPANS = 2  # loading, compiling: not counted
LEARN_SPANS = 16
WINDOW = 128  # spans
REFRESH_SPANS = 32
SLOW = 1.5  # times its own median
AGAIN_FAST = 1.25
MANY_OF_8 = 6
LEAST_S = 60.0
NEW_PACE_SPANS = 1024  # after that many that is its pace now
MAX_CLOSED = 50


class PaceWatch:
    """One session's pace."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.closed: deque[Alert] = deque(maxlen=MAX_CLOSED)
        self.drop: Alert | None = None
        self._steps: list[int] = []  # the first is the end of the last span
        self._ts: list[float] = []
        self._window: list[float] = []
        self._num_spans = 0
        self._usual = 0.0  # seconds a step; 0 until it is learned
        self._slow = 0  # of the last 8 spans, a bit each
        self._since: tuple[int, float] | None = None  # step and time since which it may be slower
        self._slow_paces: list[float] = []
        self._drop_from = 0

    def add(self, steps: Sequence[int], ts: Sequence[float]) -> None:
        self._steps += steps
        self._ts += ts

    def advance(self) -> None:
        start = 0
        while len(self._steps) - start > CHUNK:
            stop = start + CHUNK
            self._look_at(self._steps[start : stop + 1 : SPAN], self._ts[start : stop + 1 : SPAN])
            start = stop
        if start:
            del self._steps[:start], self._ts[:start]

    def alerts(self) -> list[Alert]:
        """All so far, with the events that wait for their chunk looked at as well; changes nothing."""
        now = self
        if len(self._steps) > SPAN:
            now = copy(self)
            now.closed, now._window, now._slow_paces = self.closed.copy(), self._window[:], self._slow_paces[:]
            now._look_at(self._steps[::SPAN], self._ts[::SPAN])
        return [*now.closed, *([now.drop] if now.drop is not None else [])]

    def end(self) -> None:
        if len(self._steps) > SPAN:
            self._look_at(self._steps[::SPAN], self._ts[::SPAN])
        self._steps, self._ts = [], []
        self._close()

    def _look_at(self, steps: list[int], ts: list[float]) -> None:
        """Look at spans from each of these events to the next."""
        lengths = list(map(sub, steps[1:], steps))
        seconds = list(map(sub, ts[1:], ts))
        # A clock that jumped back, or steps that went back, tell no pace.
        if min(lengths) <= 0 or min(seconds) < 0:
            whole = [i for i in range(len(lengths)) if lengths[i] > 0 and seconds[i] >= 0]
            steps, ts = [steps[0], *(steps[i + 1] for i in whole)], [ts[0], *(ts[i + 1] for i in whole)]
            lengths, seconds = [lengths[i] for i in whole], [seconds[i] for i in whole]
        paces = list(map(truediv, seconds, lengths))
        start = 0
        while start < len(paces):
            stop = min(start + REFRESH_SPANS - self._num_spans % REFRESH_SPANS, len(paces))
            if self._usual and (self._slow or self.drop or max(paces[start:stop]) > SLOW * self._usual):
                for i in range(start, stop):
                    self._look_at_span(paces[i], steps[i], ts[i], steps[i + 1], ts[i + 1])
            elif self.drop is None:
                self._window += paces[max(start, FIRST_SPANS - self._num_spans + start) : stop]
                self._num_spans += stop - start
            if self._num_spans % REFRESH_SPANS == 0 or (not self._usual and len(self._window) >= LEARN_SPANS):
                self._refresh()
            start = stop

    def _refresh(self) -> None:
        del self._window[:-WINDOW]
        if len(self._window) >= LEARN_SPANS:
            self._usual = sorted(self._window)[len(self._window) // 2]

    def _look_at_span(self, pace: float, step: int, ts: float, to_step: int, to_ts: float) -> None:
        self._num_spans += 1
        if self.drop is None:
            self._window.append(pace)
            self._slow = (self._slow << 1 | (pace > SLOW * self._usual)) & 0xFF
            if self._slow & 1:
                self._slow_paces = [*self._slow_paces[-7:], pace]
            if self._slow.bit_count() < MANY_OF_8:
                self._since = (step, ts) if self._slow.bit_count() <= 1 else self._since
                return
            if self._since is not None and to_ts - self._since[1] >= LEAST_S:
                self._open(to_step, to_ts)
            return
        self._slow = (self._slow << 1 | (pace > AGAIN_FAST * self._usual)) & 0xFF
        if self._slow.bit_count() <= 8 - MANY_OF_8:
            self._close()
        elif self._num_spans - self._drop_from > NEW_PACE_SPANS:
            self.closed.append(replace(self.drop, detail=f"{self.drop.detail}; it has stayed so since"))
            self.drop, self._window, self._usual = None, [], 0.0
        else:
            if self._slow & 1:
                self._slow_paces = [*self._slow_paces[-7:], pace]
            self.drop = replace(
                self.drop, last_step=to_step, last_ts=to_ts, count=self.drop.count + 1, detail=self._words()
            )

    def _open(self, step: int, ts: float) -> None:
        assert self._since is not None
        del self._window[-8:]  # they are not usual
        self._drop_from = self._num_spans
        self.drop = Alert(
            f"throughput-{self.session}-{self._since[0]}", "warning", "Slower than before", self._words(), *self._since,
            kind="throughput", last_step=step, last_ts=ts,
        )  # fmt: skip

    def _words(self) -> str:
        now = sorted(self._slow_paces)[len(self._slow_paces) // 2]
        return f"a step takes {text.duration(now)}, usual were {text.duration(self._usual)}"

    def _close(self) -> None:
        if self.drop is not None:
            self.closed.append(replace(self.drop, is_over=True))
            self.drop, self._slow, self._since = None, 0, None
