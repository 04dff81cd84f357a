"""Finds losses that are not finite and spikes of the loss, in a stream of millions of points and in fixed memory.

A spike is far above what the last points say: median and spread (MAD) over a capped window. Whole chunks are looked at
with `sum` and `max`; single points only where a chunk holds one that stands out. Chunks are cut by the number of points
since the session began, so that it makes no difference in which batches the points came.

What keeps healthy runs silent:
- a single high point must be far beyond the highest that the run has shown (noise has heavy tails), or `MANY_OF_8` of
  8 points in a row must be high;
- a rise that begins at an epoch's boundary, at a jump of the learning rate or at the beginning of a session is the
  run's new level: it is learned anew, and no alarm;
- before `FIRST_LOOK` points nothing is usual yet.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from ckpt_tui import text
from ckpt_tui.run.state import Alert

FIRST_LOOK = 32  # points: before them nothing is usual
MAX_CHUNK = 256
WINDOW = 128  # samples: the last points; every fourth of them when there are many
LONG, LONG_REFRESH = 4096, 1024  # points: from the first on, what is usual is told anew only so often
HIGH_Z, HIGH_FRACTION = 6.0, 0.15  # of 8 points in a row
MANY_OF_8 = 5
LONE_Z, LONE_FRACTION = 10.0, 0.3  # at least, of a point that is alone
BEYOND = 8.0  # times the highest that this run has shown
RISEN = 1.5  # times the highest of the session's first chunk
CALM_POINTS = 16  # after that many ordinary points it is over
NEW_LEVEL_POINTS = 1024  # after that many high ones in a row that is where the loss is now
GRACE_POINTS = 64  # after a boundary; an eighth of what lies between boundaries where that is less
MAX_CLOSED = 100
MAX_BOUNDARIES = 16
LEAST_MAXIMA = 6
_MAX_MAXIMA = 64


class LossWatch:
    """One session's training loss; `before`: that of the session before it.

    Give points with `add`, what lies between them with `epoch` and `rate_jump`, then call `advance`.
    """

    def __init__(self, session: int, name: str = "loss", before: LossWatch | None = None) -> None:
        self.session = session
        self.name = name
        self.closed: deque[Alert] = deque(maxlen=MAX_CLOSED)
        self.spike: Alert | None = None
        self.rise: Alert | None = None
        self.nonfinite: Alert | None = None
        self.warm_until = 0  # step until which the learning rate rises, and as long again
        # How far above the median the chunks' highest were, in spreads.
        self.tail: list[float] = before.tail if before is not None else []
        self._steps: list[int] = []  # of points that wait for their chunk to fill
        self._ts: list[float] = []
        self._values: list[float] = []
        self._epochs: list[int] = []
        self._jumps: list[int] = []  # of the learning rate
        self._window: list[float] = []
        self._num_learned = 0  # points since the level was learned anew
        self._median = self._scale = 0.0
        self._is_ready = False
        self._high = math.inf
        self._before: list[float] = []  # the last points of the chunk before
        self._highs: list[tuple[int, int, float, float]] = []  # index, step, ts, value of the last high points
        self._index = 0  # of the next point
        self._calm = 0  # ordinary points since the last high one of the spike
        self._finite = 0  # points since the last that was not finite
        self._spike_median = 0.0
        self._spike_from = 0
        self._peak = 0.0
        self._stride = 1.0  # steps a point
        self._first_step = 0
        # The highest that was learned at the beginning.
        self._ceiling: float = before._ceiling if before is not None else -math.inf

    def add(self, steps: Sequence[int], ts: Sequence[float], values: Sequence[float]) -> None:
        if not self._index and not self._steps and steps:
            self._first_step = steps[0]
        self._steps += steps
        self._ts += ts
        self._values += values

    def epoch(self, step: int) -> None:
        """From `step` on it is another epoch, and another level of the loss is no surprise."""
        _insert(self._epochs, step)

    def rate_jump(self, step: int) -> None:
        """The same where the learning rate jumps up."""
        _insert(self._jumps, step)

    def advance(self) -> None:
        """Look at the chunks that are full. Everything that is known of their steps must have been told before."""
        start = 0
        while len(self._values) - start >= (num_points := self._chunk_length()):
            stop = start + num_points
            self._look_at(self._steps[start:stop], self._ts[start:stop], self._values[start:stop])
            self._look_for_rise(self._steps[stop - 1], self._ts[stop - 1])
            start = stop
        if start:
            del self._steps[:start], self._ts[:start], self._values[:start]

    def alerts(self) -> list[Alert]:
        """All so far, with the points that wait for their chunk looked at as well; changes nothing."""
        now = self
        if self._values:
            now = copy(self)
            now.closed, now.tail, now._window = self.closed.copy(), self.tail[:], self._window[:]
            now._highs, now._epochs, now._jumps = self._highs[:], self._epochs[:], self._jumps[:]
            now._look_at(self._steps, self._ts, self._values)
        return [*now.closed, *(alert for alert in (now.nonfinite, now.spike, now.rise) if alert is not None)]

    def end(self) -> None:
        """The session is over, and with it what was going on in it."""
        if self._values:
            self._look_at(self._steps, self._ts, self._values)
            self._steps, self._ts, self._values = [], [], []
        self._close_spike()
        self._close_nonfinite()
        if self.rise is not None:
            self.closed.append(replace(self.rise, is_over=True))
            self.rise = None

    # Chunks.

    def _chunk_length(self) -> int:
        return min(max(self._num_learned, FIRST_LOOK), MAX_CHUNK)

    def _look_at(self, steps: list[int], ts: list[float], values: list[float]) -> None:
        total = sum(values)
        if len(steps) > 1:
            self._stride = max((steps[-1] - steps[0]) / (len(steps) - 1), 1.0)
        if total - total != 0:
            finite = self._count_nonfinite(steps, ts, values)
            if not finite:
                return
            steps, ts, values = [steps[i] for i in finite], [ts[i] for i in finite], [values[i] for i in finite]
        else:
            self._finite += len(values)
            if self.nonfinite is not None and self._finite >= CALM_POINTS:
                self._close_nonfinite()
        # What is usual was told anew since the last chunk, and calls its end high: no rise begins here.
        if (
            self.spike is None and max(self._before, default=-math.inf) > self._high
            and sum(value > self._high for value in self._before) >= MANY_OF_8
        ):  # fmt: skip
            self._learn_anew()
        start, end = 0, len(values)
        while start < end:
            start = self._look_from(start, steps, ts, values)
        self._before = (self._before + values[-8:])[-8:]
        # Only what lies behind may go: what was told beforehand depends on the batches.
        for boundaries in (self._epochs, self._jumps):
            if len(boundaries) > MAX_BOUNDARIES:
                del boundaries[: max(bisect_right(boundaries, steps[-1]) - MAX_BOUNDARIES, 0)]

    def _count_nonfinite(self, steps: list[int], ts: list[float], values: list[float]) -> list[int]:
        """Alerts of what is not finite; the positions of what is."""
        finite = [i for i, value in enumerate(values) if value - value == 0]
        wrong = [i for i, value in enumerate(values) if value - value != 0]
        before = -1
        for i in wrong:
            self._finite += i - before - 1
            before = i
            if self.nonfinite is not None and self._finite >= CALM_POINTS:
                self._close_nonfinite()
            self._finite = 0
            if self.nonfinite is None:
                self.nonfinite = Alert(
                    f"nonfinite-{self.session}-{steps[i]}", "error", "Loss is not finite",
                    f"{self.name} is {values[i]} at step {steps[i]:,}", steps[i], ts[i], kind="nonfinite",
                    last_step=steps[i], last_ts=ts[i],
                )  # fmt: skip
            else:
                was = self.nonfinite
                detail = (
                    f"{self.name} is {values[i]} at step {steps[i]:,}, {text.plural(was.count + 1, 'time')} "
                    f"since step {was.step:,}"
                )
                self.nonfinite = replace(
                    was, detail=detail, last_step=steps[i], last_ts=ts[i], count=was.count + 1
                )  # fmt: skip
        self._finite += len(values) - before - 1
        if self.nonfinite is not None and self._finite >= CALM_POINTS:
            self._close_nonfinite()
        return finite

    def _look_from(self, start: int, steps: list[int], ts: list[float], values: list[float]) -> int:
        """Look at finite points from `start` on, as far as the baseline that holds at `start` does; returns where."""
        if self.spike is not None:
            return self._go_on_with_spike(start, steps, ts, values)
        rest = values[start:] if start else values
        if not self._is_ready:
            self._learn(rest, highest=None)
            self._index += len(rest)
            return len(values)
        high = self._high
        highest = max(rest)
        if highest <= high:
            self._learn(rest, highest)
            self._index += len(rest)
            return len(values)
        lone = self._median + max(self._lone_z() * self._scale, LONE_FRACTION * abs(self._median))
        for position, value in enumerate(rest, start):
            if value <= high:
                continue
            at = self._index + position - start
            self._highs = [one for one in self._highs if one[0] > at - 8]
            self._highs.append((at, steps[position], ts[position], value))
            is_run = len(self._highs) >= MANY_OF_8
            first = self._highs[0] if is_run else self._highs[-1]
            if not is_run and value <= lone:
                continue
            if self._is_expected(first[1], value):
                if is_run:  # not a lone point: the level is another one now
                    self._index += position - start + 1
                    self._learn_anew()
                    return position + 1
                continue
            self._index += position - start + 1
            self._open_spike(first, steps[position], ts[position])
            return position + 1
        self._learn(rest, highest)
        self._index += len(rest)
        return len(values)

    # What is usual.

    def _learn(self, values: Sequence[float], highest: float | None) -> None:
        """Take points into the window, and the chunk's highest into what is known of the tail."""
        if not values:
            return
        before = self._num_learned
        self._num_learned += len(values)
        highest = max(values) if highest is None else highest
        # Against what was usual before it: where the level fell within the chunk its beginning is no tail.
        if self._is_ready and len(values) >= FIRST_LOOK:
            self.tail.append((highest - self._median) / self._scale)
            del self.tail[:-_MAX_MAXIMA]
        if self._index < MAX_CHUNK:
            self._ceiling = max(self._ceiling, highest)
        stride = 1 if self._num_learned <= LONG else 4
        self._window = (self._window + list(values[::stride]))[-WINDOW:]
        # A long run does not change within a chunk.
        is_due = before < LONG or before // LONG_REFRESH < self._num_learned // LONG_REFRESH
        if self._num_learned >= FIRST_LOOK and is_due:
            self._median, self._scale = _median_and_spread(sorted(self._window))
            self._high = self._median + max(HIGH_Z * self._scale, HIGH_FRACTION * abs(self._median))
            self._is_ready = True

    def _learn_anew(self) -> None:
        self._window, self._num_learned, self._is_ready, self._highs = [], 0, False, []
        self._high, self._before = math.inf, []

    def _lone_z(self) -> float:
        """How far above the median, in spreads, a point must be to mean something all by itself."""
        few = max(LEAST_MAXIMA - len(self.tail), 0)  # they tell little
        return max(LONE_Z, BEYOND * float(1 << few) * max(self.tail, default=BEYOND))

    def _is_expected(self, step: int, value: float) -> bool:
        """Just after a boundary or while it warms up, and not much worse than this session has been before."""
        if value > max(2 * self._ceiling, self._ceiling):
            return False
        if step <= self.warm_until:
            return True
        whole = GRACE_POINTS * self._stride
        before = self._first_step
        for epoch in self._epochs:
            # Of a short epoch an eighth: the rest of it is watched.
            if 0 <= step - epoch <= min(whole, max((epoch - before) / 8, 8 * self._stride)):
                return True
            before = epoch
        return any(0 <= step - jump <= whole for jump in self._jumps)

    # Episodes.

    def _open_spike(self, first: tuple[int, int, float, float], step: int, ts: float) -> None:
        self._peak = max(value for _, _, _, value in self._highs)
        count = len(self._highs) if first is self._highs[0] else 1
        self._spike_median, self._spike_from = self._median, first[0]
        self._calm = 0
        self.spike = Alert(
            f"spike-{self.session}-{first[1]}", "warning", "Loss spike", "", first[1], first[2], kind="spike",
            last_step=step, last_ts=ts, count=count,
        )  # fmt: skip
        self.spike = replace(self.spike, detail=self._spike_words())
        self._highs = []

    def _go_on_with_spike(self, start: int, steps: list[int], ts: list[float], values: list[float]) -> int:
        spike = self.spike
        assert spike is not None
        still = self._median + max(HIGH_Z / 2 * self._scale, HIGH_FRACTION / 2 * abs(self._median))
        count, last, position = spike.count, -1, start
        for position in range(start, len(values)):
            value = values[position]
            if value > still:
                count, last, self._calm = count + 1, position, 0
                self._peak = max(self._peak, value)
            else:
                self._calm += 1
                if self._calm >= CALM_POINTS:
                    break
            if self._index + position - start - self._spike_from >= NEW_LEVEL_POINTS:
                break
        self._index += position - start + 1
        if last >= 0:
            self.spike = replace(spike, count=count, last_step=steps[last], last_ts=ts[last])
            self.spike = replace(self.spike, detail=self._spike_words())
        if self._calm >= CALM_POINTS:
            self._close_spike()
        elif self._index - self._spike_from > NEW_LEVEL_POINTS:
            assert self.spike is not None
            self.spike = replace(self.spike, detail=f"{self._spike_words()}; it has stayed up since")
            self.closed.append(self.spike)  # not over: it never came down
            self.spike = None
            self._learn_anew()
        return position + 1

    def _spike_words(self) -> str:
        return f"{self.name} up to {text.metric(self._peak)}, usual were {text.metric(self._spike_median)}"

    def _close_spike(self) -> None:
        if self.spike is not None:
            self.closed.append(replace(self.spike, is_over=True))
            self.spike = None

    def _look_for_rise(self, step: int, ts: float) -> None:
        """At the end of a full chunk: has it come, at whatever speed, to well above where the session began?"""
        is_high = self._is_ready and self._median > max(RISEN * self._ceiling, self._ceiling)
        if not is_high:
            if self.rise is not None:
                self.closed.append(replace(self.rise, is_over=True))
                self.rise = None
            return
        words = (
            f"usual is {text.metric(self._median)} now; the session's first were {text.metric(self._ceiling)} at most"
        )
        was = self.rise or Alert(
            f"rise-{self.session}-{step}", "warning", "Loss has risen", words, step, ts, kind="spike", count=0
        )
        self.rise = replace(was, detail=words, last_step=step, last_ts=ts, count=was.count + 1)

    def _close_nonfinite(self) -> None:
        if self.nonfinite is not None:
            self.closed.append(replace(self.nonfinite, is_over=True))
            self.nonfinite = None


def _insert(boundaries: list[int], step: int) -> None:
    if step not in boundaries[-MAX_BOUNDARIES:]:
        insort(boundaries, step)


def _median_and_spread(ordered: Sequence[float]) -> tuple[float, float]:
    """Of sorted values: the median, and their spread as a standard deviation.

    1.4826 times the median distance from the median; or what the 90th percentile says, where noise is wider upwards.
    """
    middle = len(ordered) // 2
    median = ordered[middle]
    below = [median - value for value in ordered[:middle]]
    below.reverse()  # two rising runs: sorting them is only merging
    distance = sorted(below + [value - median for value in ordered[middle:]])[middle]
    upwards = ordered[(9 * len(ordered)) // 10] - median
    # A constant loss has no spread: half a percent of it stands in.
    return median, max(1.4826 * distance, upwards / 1.2816, 0.005 * abs(median), 1e-12)
