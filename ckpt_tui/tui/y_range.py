"""What part of the y axis is in view, so that one spike of a million does not make a line of everything else.

A spike is a column or two that stand out of their neighbours. It stays in view unless the rest would then have less
than a sixth of the height (`auto`), or the person asked for a tight range; what is cut off is marked and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ckpt_tui.records import dataclass
from ckpt_tui.tui.columns import Column

FLATTENS = 6.0  # a range so many times that of the curve without its spikes
MARGIN = 0.1  # of the range without spikes, left on either side of it
LEAST_COLUMNS = 8
_HALF_WINDOW = 2


@dataclass(frozen=True, slots=True)
class Range:
    """low, high: what is in view. lowest, highest: of all values. num_above, num_below: columns that are cut off."""

    low: float
    high: float
    lowest: float
    highest: float
    num_above: int = 0
    num_below: int = 0


def range_of(curves: Sequence[Sequence[Column | None]], *, is_log: bool, y_range: str) -> Range | None:
    """None where there is no value that can be shown."""
    # A bucket that fills several columns counts once: it is as wide as one looks close, and would be no spike.
    finite = [
        [one for one in columns if one is not None and one.hi == one.hi and not one.is_band] for columns in curves
    ]
    if is_log:
        finite = [[one for one in columns if one.hi > 0] for columns in finite]
    lowest = min((_low(one, is_log) for columns in finite for one in columns), default=math.inf)
    highest = max((one.hi for columns in finite for one in columns), default=-math.inf)
    if lowest > highest:
        return None
    if y_range == "all" or (is_log and y_range == "auto"):
        return Range(lowest, highest, lowest, highest)
    usual = [columns for columns in finite if len(columns) >= LEAST_COLUMNS]
    if not usual:
        return Range(lowest, highest, lowest, highest)
    # Columns of the lines that are too short to have a usual range are never cut off: there are only a few.
    few = [one for columns in finite if len(columns) < LEAST_COLUMNS for one in columns]
    low = min(min(_medians([_low(one, is_log) for one in columns])) for columns in usual)
    high = max(max(_medians([one.hi for one in columns])) for columns in usual)
    low, high = min([low, *(one.lo for one in few)]), max([high, *(one.hi for one in few)])
    low, high = _with_margin(low, high, is_log)
    low, high = max(low, lowest), min(high, highest)
    if high <= low or (y_range == "auto" and (highest - lowest) <= FLATTENS * (high - low) / (1 + 2 * MARGIN)):
        return Range(lowest, highest, lowest, highest)
    num_above = sum(one.hi > high for columns in finite for one in columns)
    num_below = sum(_low(one, is_log) < low for columns in finite for one in columns)
    return Range(low, high, lowest, highest, num_above, num_below)


def _low(column: Column, is_log: bool) -> float:
    return column.lo if not is_log or column.lo > 0 else column.hi


def _with_margin(low: float, high: float, is_log: bool) -> tuple[float, float]:
    if is_log:
        margin = (high / low) ** MARGIN if low > 0 else 1.0
        return low / margin, high * margin
    return low - MARGIN * (high - low), high + MARGIN * (high - low)


def _medians(values: Sequence[float]) -> Iterable[float]:
    """Of each value and its neighbours: what stands out of them is gone, what rises or falls stays."""
    first, second = _ends(*values[:3]), _ends(*values[:-4:-1])
    for index in range(1, len(values) - 1):
        around = sorted(values[max(index - _HALF_WINDOW, 0) : index + _HALF_WINDOW + 1])
        yield around[len(around) // 2]
    yield from (first, second)


def _ends(end: float, second: float, third: float) -> float:
    """An end value has neighbours on one side only: it is no spike where it goes on as they do."""
    return sorted((end, second, second + (second - third)))[1]
