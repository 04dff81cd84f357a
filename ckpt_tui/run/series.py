"""Metric series of any length in fixed memory: min, max and last per bucket, so that a spike of one step survives.

Each session's part of a metric is a segment of at most `MAX_BUCKETS` buckets. When it is full, neighbours are merged
and a bucket stands for twice as many points. How the points came in batches makes no difference to the result.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import add
from typing import Any

from ckpt_tui.run.state import Segment, Series

MAX_BUCKETS = 2048  # even, so that a full segment halves exactly
MAX_FRESH = 256  # of these the newest points, not in buckets yet: a save of a while ago may still cut between them
MAX_CUTS = 64  # saves of which a resume may begin, in one segment
MAX_SEGMENTS = 256


class SegmentBuilder:
    """Grows a segment. Points come in the order of the log.

    The newest `MAX_FRESH` points stay single. Older ones are in buckets, none of which reaches over a cut, so that the
    steps up to a save and those after it can be told apart when a resume abandons these.
    """

    def __init__(self, session: int) -> None:
        self.session = session
        self.abandoned_after: int | None = None
        self.lowest = float("inf")  # of the finite values in buckets
        self.width = 1  # points a bucket
        self.filled = 1  # points in the last bucket; equal to width: the next one begins a bucket
        self.steps, self.ts, self.bad = array("q"), array("d"), array("q")
        self.lo, self.hi, self.last = array("d"), array("d"), array("d")
        self.total, self.num_finite = array("d"), array("q")  # for their mean, which smoothing needs
        self.end: tuple[int, float] = (0, 0.0)  # step and time of the newest point
        self.fresh_steps: list[int] = []
        self.fresh_ts: list[float] = []
        self.fresh: list[float] = []
        self.cuts: list[int] = []  # steps of which no bucket holds both sides; rising

    def add_all(self, steps: Sequence[int], ts: Sequence[float], values: Sequence[float]) -> None:
        """Points of equal numbers of steps, times and values; values may be NaN or infinite."""
        self.fresh_steps += steps
        self.fresh_ts += ts
        self.fresh += values
        self.end = steps[-1], ts[-1]
        if len(self.fresh) > 2 * MAX_FRESH:
            self._settle_old()

    def cut_after(self, step: int) -> None:
        """Keep the points up to `step` apart from those above it, if no bucket holds both already."""
        self._settle_old()
        if not self.cuts or self.cuts[-1] < step:
            self.cuts.append(step)
            del self.cuts[:-MAX_CUTS]

    def settle_all(self) -> None:
        """No point is going to be added any more."""
        self._settle(len(self.fresh))

    def _settle_old(self) -> None:
        """All but the newest. Points are gathered before they are settled, but always before a cut or a look."""
        self._settle(len(self.fresh) - MAX_FRESH)

    def _settle(self, num_points: int) -> None:
        """Put the oldest fresh points into buckets."""
        if num_points <= 0:
            return
        steps, start = self.fresh_steps, 0
        first_cut = bisect_left(self.cuts, self.steps[-1]) if self.steps else 0
        for cut in self.cuts[first_cut:]:
            if cut >= steps[num_points - 1]:
                break
            stop = bisect_right(steps, cut, start, num_points)
            self._add_to_buckets(start, stop)
            if stop or (self.steps and self.steps[-1] <= cut):
                self.filled = self.width
            start = stop
        self._add_to_buckets(start, num_points)
        del self.fresh_steps[:num_points], self.fresh_ts[:num_points], self.fresh[:num_points]

    def _add_to_buckets(self, start: int, end: int) -> None:
        """Fresh points from `start` to before `end`; whole buckets at once where all values are finite."""
        values = self.fresh
        is_rising = start < end and _is_rising(values, start, end)
        while start < end:
            if self.filled < self.width:
                stop = min(end, start + self.width - self.filled)
                self._pour(values[start:stop], is_rising=is_rising)
                self.filled += stop - start
                start = stop
                continue
            num_free = MAX_BUCKETS - MAX_FRESH - len(self.steps)
            if num_free <= 0:
                self._halve()
                continue
            stop = start + min((end - start) // self.width, num_free) * self.width
            if stop > start and self._add_whole_buckets(start, stop, is_rising=is_rising):
                start = stop
                continue
            self.steps.append(self.fresh_steps[start])
            self.ts.append(self.fresh_ts[start])
            self.bad.append(0)
            self.total.append(0.0)
            self.num_finite.append(0)
            for column in (self.lo, self.hi, self.last):
                column.append(float("nan"))
            self.filled = 0

    def _add_whole_buckets(self, start: int, stop: int, *, is_rising: bool) -> bool:
        """As many as the points fill. Nothing is done, and False returned, where one is not finite."""
        values, width = self.fresh, self.width
        if width == 1:
            lows = highs = totals = values[start:stop]
        else:
            chunks = [values[first : first + width] for first in range(start, stop, width)]
            totals = list(map(sum, chunks))
        total = sum(totals)
        if total - total != 0:
            return False
        if is_rising:
            lows, highs = values[start:stop:width], values[start + width - 1 : stop : width]
        elif width > 1:
            lows, highs = list(map(min, chunks)), list(map(max, chunks))
        self.steps.extend(self.fresh_steps[start:stop:width])
        self.ts.extend(self.fresh_ts[start:stop:width])
        self.bad.extend([0] * len(lows))
        self.total.extend(totals)
        self.num_finite.extend([width] * len(lows))
        self.lo.extend(lows)
        self.hi.extend(highs)
        self.last.extend(values[start + width - 1 : stop : width])
        self.lowest = min(self.lowest, *lows)
        return True

    def _pour(self, chunk: Sequence[float], *, is_rising: bool) -> None:
        """Into the last bucket."""
        total = sum(chunk)
        if total - total != 0:  # a NaN or an infinity among them, or a sum too large: look at each
            finite = [value for value in chunk if value - value == 0]
            self.bad[-1] += len(chunk) - len(finite)
            if not finite:
                return
            chunk, total, is_rising = finite, sum(finite), False
        self.total[-1] += total
        self.num_finite[-1] += len(chunk)
        lo, hi = (chunk[0], chunk[-1]) if is_rising else (min(chunk), max(chunk))
        if lo < self.lowest:
            self.lowest = lo
        if not self.lo[-1] <= lo:
            self.lo[-1] = lo
        if not self.hi[-1] >= hi:
            self.hi[-1] = hi
        self.last[-1] = chunk[-1]

    def _halve(self) -> None:
        """Merge neighbours, but none over a cut."""
        num_buckets = len(self.steps)
        begins = {0, *(bisect_right(self.steps, cut) for cut in self.cuts), num_buckets}
        stretches = list(pairwise(sorted(begins)))
        # A bucket without a finite value has NaN, which min() and max() do not see through.
        are_finite = min(self.num_finite) > 0
        lower, higher, later = (min, max, _second) if are_finite else (_lower, _higher, _later)
        self.lo = _merged(self.lo, stretches, lower)
        self.hi = _merged(self.hi, stretches, higher)
        self.last = _merged(self.last, stretches, later)
        self.bad = _merged(self.bad, stretches, add)
        self.total = _merged(self.total, stretches, add)
        self.num_finite = _merged(self.num_finite, stretches, add)
        self.steps = _merged(self.steps, stretches, _first)
        self.ts = _merged(self.ts, stretches, _first)
        self.width *= 2
        self.filled = self.width

    def freeze(self) -> Segment:
        self._settle_old()
        finite = array("d", [value if value - value == 0 else float("nan") for value in self.fresh])
        bad = array("q", [value - value != 0 for value in self.fresh])
        return Segment(
            session=self.session, steps=self.steps + array("q", self.fresh_steps),
            ts=self.ts + array("d", self.fresh_ts), lo=self.lo + finite, hi=self.hi + finite,
            last=self.last + finite, bad=self.bad + bad, abandoned_after=self.abandoned_after,
            total=self.total + finite, num_finite=self.num_finite + array("q", [1 - one for one in bad]),
            end=self.end,
        )  # fmt: skip

    def best(self) -> float:
        """The lowest finite value, infinite without one."""
        return min(self.lowest, min((value for value in self.fresh if value - value == 0), default=float("inf")))


def _is_rising(values: list[float], start: int, end: int) -> bool:
    """Whether no value is below the one before it, as of epochs, of what is constant and of what warms up: their lowest
    and highest are their ends. Sorting tells it of values that are sorted five times faster than `min` and `max` look,
    and is not asked of others. What is not finite hides from it.
    """
    quarter = (end - start) // 4
    if not values[start] <= values[start + quarter] <= values[end - 1 - quarter] <= values[end - 1]:
        return False
    part = values[start:end]
    return part == sorted(part)


def _merged(column: array[Any], stretches: Sequence[tuple[int, int]], join: Callable[[Any, Any], Any]) -> array[Any]:
    """The neighbours of each stretch joined two by two; the last of an odd number stays as it is."""
    merged: array[Any] = array(column.typecode)
    for start, stop in stretches:
        even = stop - (stop - start) % 2
        if join is _first:
            merged += column[start:even:2]
        elif join is _second:
            merged += column[start + 1 : even : 2]
        else:
            merged.extend(map(join, column[start:even:2], column[start + 1 : even : 2]))
        merged += column[even:stop]
    return merged


def _first(a: Any, b: Any) -> Any:
    return a


def _second(a: Any, b: Any) -> Any:
    return b


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
        self._lowest = float("inf")  # of all segments but the last
        self.last: float | None = None
        self._frozen: dict[int, Segment] = {}
        self._series: Series | None = None

    def add_all(self, session: int, steps: Sequence[int], ts: Sequence[float], values: Sequence[float]) -> None:
        """Points of one session whose steps do not go back."""
        if not values:
            return
        if not self.segments or self.segments[-1].session != session or self.segments[-1].abandoned_after is not None:
            if self.segments:
                self._lowest = min(self._lowest, self.segments[-1].best())
                self.segments[-1].settle_all()
                self._changed(self.segments[-1])
            self.segments.append(SegmentBuilder(session))
            if len(self.segments) > MAX_SEGMENTS:
                self._frozen.pop(id(self.segments.pop(0)), None)
        segment = self.segments[-1]
        segment.add_all(steps, ts, values)
        self._changed(segment)
        self.num_points += len(values)
        self.last = values[-1]

    @property
    def best(self) -> float | None:
        """The lowest finite value so far."""
        lowest = min(self._lowest, self.segments[-1].best()) if self.segments else self._lowest
        return lowest if lowest < float("inf") else None

    def cut_after(self, step: int) -> None:
        """A resume may begin after `step`: see SegmentBuilder."""
        if self.segments:
            self.segments[-1].cut_after(step)

    def abandon_after(self, step: int) -> None:
        """Steps above `step` are going to be trained again."""
        for segment in self.segments:
            if segment.end[0] <= step and segment is not self.segments[-1]:
                continue  # it has none
            if segment.abandoned_after is None or segment.abandoned_after > step:
                segment.cut_after(step)
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
