"""Metric series of any length in fixed memory: min, max and last per bucket, so that a spike of one step survives.

Each session's part of a metric is a segment of at most `MAX_BUCKETS` buckets. When it is full, neighbours are merged
and a bucket stands for twice as many points. How the points came in batches makes no difference to the result.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ckpt_tui.run.state import Segment, Series

MAX_BUCKETS = 2048  # even, so that a full segment halves exactly
MAX_SEGMENTS = 256

Axis = Literal["step", "time", "epoch"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a chart. lo, hi, last: of the finite values (NaN when there is none); bad: how many were not."""

    lo: float
    hi: float
    last: float
    bad: int


class SegmentBuilder:
    """Grows a segment. Points come in the order of the log."""

    def __init__(self, session: int) -> None:
        self.session = session
        self.abandoned_after: int | None = None
        self.lowest = float("inf")  # of the finite values
        self.width = 1  # points a bucket
        self.filled = 1  # points in the last bucket; equal to width: the next one begins a bucket
        self.steps, self.ts, self.bad = array("q"), array("d"), array("q")
        self.lo, self.hi, self.last = array("d"), array("d"), array("d")

    def add_all(self, steps: Sequence[int], ts: Sequence[float], values: Sequence[float]) -> None:
        """Points of equal numbers of steps, times and values; values may be NaN or infinite."""
        position, end = 0, len(values)
        while position < end:
            if self.filled >= self.width:
                if len(self.steps) >= MAX_BUCKETS:
                    self._halve()
                self.steps.append(steps[position])
                self.ts.append(ts[position])
                self.bad.append(0)
                for column in (self.lo, self.hi, self.last):
                    column.append(float("nan"))
                self.filled = 0
            stop = min(end, position + self.width - self.filled)
            self._pour(values[position:stop])
            self.filled += stop - position
            position = stop

    def _pour(self, chunk: Sequence[float]) -> None:
        """Into the last bucket."""
        total = sum(chunk)
        if total - total != 0:  # a NaN or an infinity among them, or a sum too large: look at each
            finite = [value for value in chunk if value - value == 0]
            self.bad[-1] += len(chunk) - len(finite)
            if not finite:
                return
            chunk = finite
        lo, hi = min(chunk), max(chunk)
        if lo < self.lowest:
            self.lowest = lo
        if not self.lo[-1] <= lo:
            self.lo[-1] = lo
        if not self.hi[-1] >= hi:
            self.hi[-1] = hi
        self.last[-1] = chunk[-1]

    def _halve(self) -> None:
        self.steps, self.ts = self.steps[::2], self.ts[::2]
        self.lo = array("d", map(_lower, self.lo[::2], self.lo[1::2]))
        self.hi = array("d", map(_higher, self.hi[::2], self.hi[1::2]))
        self.last = array("d", map(_later, self.last[::2], self.last[1::2]))
        self.bad = array("q", map(int.__add__, self.bad[::2], self.bad[1::2]))
        self.width *= 2
        self.filled = self.width

    def freeze(self) -> Segment:
        return Segment(
            session=self.session, steps=self.steps[:], ts=self.ts[:], lo=self.lo[:], hi=self.hi[:], last=self.last[:],
            bad=self.bad[:], abandoned_after=self.abandoned_after,
        )  # fmt: skip


def _lower(a: float, b: float) -> float:
    return a if a <= b or b != b else b


def _higher(a: float, b: float) -> float:
    return a if a >= b or b != b else b


def _later(a: float, b: float) -> float:
    return b if b == b else a


class SeriesBuilder:
    """Grows a metric's series; `freeze()` copies only segments that changed since the last time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.segments: list[SegmentBuilder] = []
        self.num_points = 0
        self.best: float | None = None
        self.last: float | None = None
        self._frozen: dict[int, Segment] = {}
        self._series: Series | None = None

    def add_all(self, session: int, steps: Sequence[int], ts: Sequence[float], values: Sequence[float]) -> None:
        """Points of one session whose steps do not go back."""
        if not values:
            return
        if not self.segments or self.segments[-1].session != session or self.segments[-1].abandoned_after is not None:
            self.segments.append(SegmentBuilder(session))
            if len(self.segments) > MAX_SEGMENTS:
                self._frozen.pop(id(self.segments.pop(0)), None)
        segment = self.segments[-1]
        segment.add_all(steps, ts, values)
        self._changed(segment)
        self.num_points += len(values)
        self.last = values[-1]
        if segment.lowest < (float("inf") if self.best is None else self.best):
            self.best = segment.lowest

    def abandon_after(self, step: int) -> None:
        """Steps above `step` are going to be trained again."""
        for segment in self.segments:
            if segment.abandoned_after is None or segment.abandoned_after > step:
                segment.abandoned_after = step
                self._changed(segment)

    def _changed(self, segment: SegmentBuilder) -> None:
        self._frozen.pop(id(segment), None)
        self._series = None

    def freeze(self) -> Series:
        if self._series is None:
            for segment in self.segments:
                if id(segment) not in self._frozen:
                    self._frozen[id(segment)] = segment.freeze()
            frozen = tuple(self._frozen[id(segment)] for segment in self.segments)
            self._series = Series(self.name, frozen, self.num_points, self.last, self.best)
        return self._series


def columns(
    series: Series, axis: Axis, x0: float, x1: float, num_columns: int, steps_per_epoch: int = 0
) -> tuple[list[Column | None], list[Column | None]]:
    """The live and the abandoned branch between x0 and x1 in `num_columns` equal columns; None where nothing is.

    axis: step, time (Unix seconds) or epoch (needs steps_per_epoch). Every bucket that begins in a column is in it
    whole, so no value between x0 and x1 is ever left out.
    """
    live: list[Column | None] = [None] * num_columns
    abandoned: list[Column | None] = [None] * num_columns
    if num_columns <= 0 or not x1 > x0:
        return live, abandoned
    scale = num_columns / (x1 - x0)
    per_epoch = steps_per_epoch or 1
    for segment in series.segments:
        xs: Sequence[float] = segment.ts if axis == "time" else segment.steps
        low, high = (x0 * per_epoch, x1 * per_epoch) if axis == "epoch" else (x0, x1)
        # A clock may jump back, steps of a segment do not: only steps can be searched.
        first = 0 if axis == "time" else max(bisect_left(xs, low) - 1, 0)
        limit = segment.abandoned_after
        for index in range(first, len(xs)):
            x = xs[index]
            if x > high:
                if axis == "time":
                    continue
                break
            if x < low and not (index + 1 < len(xs) and xs[index + 1] > low):
                continue
            value = (x / per_epoch if axis == "epoch" else x) - x0
            position = min(max(int(value * scale), 0), num_columns - 1)
            side = abandoned if limit is not None and segment.steps[index] > limit else live
            side[position] = _join(side[position], segment, index)
    return live, abandoned


def _join(column: Column | None, segment: Segment, index: int) -> Column:
    lo, hi, last, bad = segment.lo[index], segment.hi[index], segment.last[index], segment.bad[index]
    if column is None:
        return Column(lo, hi, last, bad)
    return Column(_lower(column.lo, lo), _higher(column.hi, hi), _later(column.last, last),
                  column.bad + bad)  # fmt: skip
