"""Where curves are on an axis, and what they say at a place of it: the readout of the cursor."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Segment
from ckpt_tui.tui.columns import column_of, joined, places_of
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.scale import XScale


@dataclass(frozen=True, slots=True)
class Point:
    """What a curve says in a cell, or nearest to it. step, ts: where it begins. last_step: of its last bucket's
    beginning. lo, hi, last: as drawn. peak_step: where the value that is furthest from the last one is.
    bad: how many values are not finite. smoothed: None where nothing is smoothed. distance: from the middle of the
    cell on the axis, 0 where it is in the cell."""

    step: int
    ts: float
    lo: float
    hi: float
    last: float
    last_step: int
    peak_step: int
    bad: int = 0
    is_abandoned: bool = False
    session: int = 0
    distance: float = 0.0
    smoothed: float | None = None


def extent_of(curves: Iterable[NamedCurve], axis: str) -> tuple[float, float] | None:
    """The first and the last x of all of `curves`; None when there is no point."""
    low, high = math.inf, -math.inf
    for curve in curves:
        for segment in curve.series.segments:
            if not len(segment.steps):
                continue
            end = segment.end or (segment.steps[-1], segment.ts[-1])
            steps = segment.steps[0], end[0]
            # A clock can jump back; steps of one session do not.
            if axis == "time":
                xs = [segment.ts[0] - curve.origin, segment.ts[-1] - curve.origin, end[1] - curve.origin]
            elif axis == "epoch" and curve.epochs is not None:
                xs = [curve.epochs.of_step(step) for step in steps]
            else:
                xs = [float(step) for step in steps]
            low, high = min(low, *xs), max(high, *xs)
    return (low, high) if low <= high else None


def point_at(curve: NamedCurve, x: XScale, cell: int) -> Point | None:
    """What `curve` shows in a cell: all that is drawn in it; the nearest point where nothing begins in it. The live
    branch comes first, an abandoned one only where it alone is."""
    found = _point_at(curve, x, cell)
    if found is None or curve.smooth is None:
        return found
    smooth = _point_at(replace(curve, series=curve.smooth, smooth=None), x, cell)
    return replace(found, smoothed=smooth.last if smooth is not None and not smooth.is_abandoned else None)


def _point_at(curve: NamedCurve, x: XScale, cell: int) -> Point | None:
    if curve.epochs is not None and x.axis == "epoch":
        x = replace(x, epochs=curve.epochs)
    cell_width = (x.x1 - x.x0) / x.width
    left, right = x.x0 + cell * cell_width, x.x0 + (cell + 1) * cell_width
    best: tuple[tuple[float, bool], Segment, int, int] | None = None
    for segment, first, stop, is_abandoned in _branches(curve):
        places = places_of(segment, x, curve.origin if x.axis == "time" else 0.0)
        begin, end = bisect_left(places, left, first, stop), bisect_left(places, right, first, stop)
        distance = 0.0
        if begin == end:
            begin, end, distance = _nearest(segment, places, first, stop, begin, (left + right) / 2)
        rank = (distance, is_abandoned)
        if best is None or rank <= best[0]:
            best = (rank, segment, begin, end)
    if best is None:
        return None
    (distance, is_abandoned), segment, begin, end = best
    return _point(segment, begin, end, curve.scale, distance, is_abandoned=is_abandoned)


def _branches(curve: NamedCurve) -> Iterator[tuple[Segment, int, int, bool]]:
    for segment in curve.series.segments:
        size, limit = len(segment.steps), segment.abandoned_after
        split = size if limit is None else bisect_right(segment.steps, limit)
        if split:
            yield segment, 0, split, False
        if split < size:
            yield segment, split, size, True


def _nearest(
    segment: Segment, places: Sequence[float], first: int, stop: int, index: int, middle: float
) -> tuple[int, int, float]:
    """The bucket that holds `middle`, or else the nearest: where it begins and ends, and how far away it is."""
    xs: dict[int, float] = {i: places[i] for i in (index - 1, index) if first <= i < stop}
    if index - 1 in xs and len(segment.num_finite) > index - 1:
        holds_several = segment.num_finite[index - 1] + segment.bad[index - 1] > 1
        if holds_several and index < stop:
            return index - 1, index, 0.0
    nearest = min(xs, key=lambda i: abs(xs[i] - middle))
    return nearest, nearest + 1, abs(xs[nearest] - middle)


def _point(
    segment: Segment, begin: int, end: int, scale: float, distance: float, *, is_abandoned: bool
) -> Point:  # fmt: skip
    column = None
    for index in range(begin, end):
        column = joined(column, column_of(segment, index))
    assert column is not None
    lo, hi, last, bad, _ = column
    peak = begin
    if hi > lo:
        extreme, values = (hi, segment.hi) if hi - last >= last - lo else (lo, segment.lo)
        peak = next(index for index in range(begin, end) if values[index] == extreme)
    return Point(
        segment.steps[begin], segment.ts[begin], lo * scale, hi * scale, last * scale, segment.steps[end - 1],
        segment.steps[peak], bad, is_abandoned, segment.session, distance,
    )  # fmt: skip
