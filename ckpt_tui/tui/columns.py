"""A segment of a series on a chart's columns of dots: the lowest, highest and last value in each.

The arrays are cut at the edges of the columns by bisection and looked at in slices, so that the cost is that of the
columns and not of the buckets. Every bucket that begins in a column is in it whole, and so is the one that reaches
into the view from before it: no value in view is ever left out.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Segment
from ckpt_tui.tui.scale import XScale


class Column(NamedTuple):
    """lo, hi, last: of the finite values (NaN when there is none); bad: how many were not finite. is_band: nothing
    begins here, it is the rest of a bucket of several steps, of which only the extremes are known."""

    lo: float
    hi: float
    last: float
    bad: int
    is_band: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What one session trained of one branch, without a gap in between: `columns` from column `first` on."""

    first: int
    columns: list[Column | None]
    is_abandoned: bool = False


def pieces_of(segment: Segment, x: XScale, num_columns: int, origin: float = 0.0) -> list[Piece]:
    """The live and the abandoned part of a segment, as far as they are in view. origin: of the time axis."""
    size = len(segment.steps)
    if not size or num_columns <= 0:
        return []
    limit = segment.abandoned_after
    split = size if limit is None else bisect_right(segment.steps, limit)
    places = places_of(segment, x, origin)
    found = []
    for first, stop, is_abandoned in ((0, split, False), (split, size, True)):
        if first < stop:
            piece = _piece(segment, places, first, stop, x, num_columns, origin, is_abandoned=is_abandoned)
            if piece is not None:
                found.append(piece)
    return found


def places_of(segment: Segment, x: XScale, origin: float) -> Sequence[float]:
    """Where on the axis each bucket begins."""
    if x.axis == "time":
        return segment.ts if not origin else array("d", [ts - origin for ts in segment.ts])
    if x.axis == "epoch" and x.epochs is not None:
        return array("d", map(x.epochs.of_step, segment.steps))
    return segment.steps


def _end(segment: Segment, places: Sequence[float], stop: int, x: XScale, origin: float) -> float:
    """Where the last of the buckets before `stop` ends."""
    if stop < len(places):
        return places[stop]
    if segment.end is None:
        return places[stop - 1]
    return x.at(segment.end[0], segment.end[1] - origin)


def _piece(
    segment: Segment,
    places: Sequence[float],
    first: int,
    stop: int,
    x: XScale,
    num_columns: int,
    origin: float,
    *,
    is_abandoned: bool,
) -> Piece | None:
    if x.axis == "time" and any(later < earlier for earlier, later in pairwise(places[first:stop])):
        return _unordered(segment, places, first, stop, x, num_columns, is_abandoned=is_abandoned)
    begin = max(bisect_left(places, x.x0, first, stop) - 1, first)
    if places[begin] < x.x0 and begin + 1 >= stop and _end(segment, places, stop, x, origin) < x.x0:
        return None  # it ends before the view
    end = bisect_right(places, x.x1, first, stop)
    if begin >= end:
        return None
    scale = num_columns / (x.x1 - x.x0)

    def place_in(place: float) -> int:
        return min(max(int((place - x.x0) * scale), 0), num_columns - 1)

    first_column, last_column = place_in(places[begin]), place_in(places[end - 1])
    columns: list[Column | None] = [None] * (last_column - first_column + 1)
    index = begin
    while index < end:
        column = place_in(places[index])
        # Where the next column begins; the division is done as place_in does it, so that none is looked at twice.
        upper = end if column >= num_columns - 1 else bisect_left(places, x.x0 + (column + 1) / scale, index + 1, end)
        while upper < end and place_in(places[upper]) == column:
            upper += 1
        while upper - 1 > index and place_in(places[upper - 1]) > column:
            upper -= 1
        columns[column - first_column] = _joined(segment, index, upper)
        index = upper
        ends = places[index] if index < end else min(_end(segment, places, stop, x, origin), x.x1)
        last = place_in(ends) - (index < end)
        if last > column and _is_of_several(segment, index - 1):
            # Zoomed in further than the series knows: what is left of the bucket's steps.
            lo, hi, newest, _, _ = column_of(segment, index - 1)
            if hi == hi:
                columns += [None] * (last - first_column + 1 - len(columns))
                columns[column - first_column + 1 : last - first_column + 1] = [
                    Column(lo, hi, newest, 0, is_band=True)
                ] * (last - column)
    return Piece(first_column, columns, is_abandoned)


def _is_of_several(segment: Segment, index: int) -> bool:
    """Whether a bucket stands for several points."""
    return len(segment.num_finite) > index and segment.num_finite[index] + segment.bad[index] > 1


def _joined(segment: Segment, first: int, stop: int) -> Column:
    """Buckets from `first` to before `stop`, as one."""
    if stop - first == 1:
        return column_of(segment, first)
    bad = sum(segment.bad[first:stop])
    if not bad:  # then all of it is finite
        return Column(min(segment.lo[first:stop]), max(segment.hi[first:stop]), segment.last[stop - 1], 0)
    finite = [index for index in range(first, stop) if segment.lo[index] == segment.lo[index]]
    if not finite:
        return Column(segment.lo[first], segment.hi[first], segment.last[first], bad)
    return Column(
        min(segment.lo[index] for index in finite),
        max(segment.hi[index] for index in finite),
        segment.last[finite[-1]],
        bad,
    )


def column_of(segment: Segment, index: int) -> Column:
    """One bucket."""
    return Column(segment.lo[index], segment.hi[index], segment.last[index], segment.bad[index])


def _unordered(
    segment: Segment, places: Sequence[float], first: int, stop: int, x: XScale, num_columns: int, *, is_abandoned: bool
) -> Piece | None:
    """The same where the clock jumped back."""
    scale = num_columns / (x.x1 - x.x0)
    columns: list[Column | None] = [None] * num_columns
    for index in range(first, stop):
        if x.x0 <= places[index] <= x.x1:
            column = min(int((places[index] - x.x0) * scale), num_columns - 1)
            columns[column] = joined(columns[column], column_of(segment, index))
    return Piece(0, columns, is_abandoned) if any(column is not None for column in columns) else None


def joined(one: Column | None, other: Column | None) -> Column | None:
    """What two stretches show in one column of dots, the later one second."""
    if one is None or other is None or one.is_band or other.is_band:
        # What begins here says more than what a bucket before it left open.
        return other if one is None or (one.is_band and other is not None) else one
    if one.lo != one.lo:
        return Column(other.lo, other.hi, other.last, one.bad + other.bad)
    if other.lo != other.lo:
        return Column(one.lo, one.hi, one.last, one.bad + other.bad)
    return Column(min(one.lo, other.lo), max(one.hi, other.hi), other.last, one.bad + other.bad)
