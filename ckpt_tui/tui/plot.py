"""One metric and its validation twin as lines of cells: what the chart shows, without a widget around it.

The raw line, never smoothed: every column of dots runs from the lowest to the highest value in it, so that a spike
of one step is seen at any width. A value that is not finite is a gap with a mark above it. What a later session
trained again is a dimmed line of its own, never a zig-zag.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from ckpt_tui.run.state import Segment, Series
from ckpt_tui.tui.raster import Layer, Span, braille
from ckpt_tui.tui.scale import XScale, YScale, y_scale

if TYPE_CHECKING:
    from ckpt_tui.run.series import Column

# Roles of cells, topmost last.
ABANDONED, TRAIN, VAL = "abandoned", "train", "val"
_ASCII = {ABANDONED: ".", TRAIN: "*", VAL: "o"}

Cells = tuple[tuple[str, str], ...]  # (text, role), in order


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: a column of dots each, None where there is nothing. `bad`: columns that hold a non-finite value."""

    role: str
    columns: Sequence[tuple[float, float, float] | None]  # lo, hi, last
    bad: frozenset[int] = frozenset()
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Plot:
    """rows: the cells of the plot area from the top, each `x.width` wide. labels: row -> tick label."""

    rows: tuple[Cells, ...]
    labels: dict[int, str] = field(default_factory=dict)
    scale: YScale | None = None
    num_bad: int = 0  # columns with a non-finite value in view


def curves_of(train: Series | None, val: Series | None, x: XScale, *, unicode: bool = True) -> list[Curve]:
    """The lines to draw, the lowest first."""
    num_columns = x.width * (2 if unicode else 1)
    curves = []
    for series, live_role in ((train, TRAIN), (val, VAL)):
        if series is None or not series.segments:
            continue
        live, abandoned = _columns(series, x, num_columns)
        dashed = live_role == VAL
        if live_role == TRAIN and any(column is not None for column in abandoned):
            curves.append(_curve(ABANDONED, abandoned, dashed))
        curves.append(_curve(live_role, live, dashed))
    return curves


def _columns(series: Series, x: XScale, num_columns: int) -> tuple[Sequence[Column | None], Sequence[Column | None]]:
    from ckpt_tui.run.series import columns

    live, abandoned = columns(series, x.axis, x.x0, x.x1, num_columns)  # type: ignore[arg-type, unused-ignore]
    return live, abandoned


def _curve(role: str, columns: Sequence[Column | None], dashed: bool) -> Curve:
    values: list[tuple[float, float, float] | None] = []
    bad = set()
    for index, column in enumerate(columns):
        if column is None:
            values.append(None)
            continue
        if column.bad:
            bad.add(index)
        finite = math.isfinite(column.lo) and math.isfinite(column.hi)
        last = column.last if math.isfinite(column.last) else column.hi
        values.append((column.lo, column.hi, last) if finite else None)
    return Curve(role, values, frozenset(bad), dashed)


def draw(curves: Sequence[Curve], x: XScale, height: int, *, is_log: bool = False, unicode: bool = True) -> Plot:
    """The plot of `curves` in `height` lines of `x.width` cells."""
    low, high = _range(curves, is_log)
    num_bad = sum(len(curve.bad) for curve in curves)
    if low is None or high is None:
        rows = tuple(_mark_bad(((" " * x.width, ""),), row, curves, x, unicode) for row in range(height))
        return Plot(rows, num_bad=num_bad)
    scale = y_scale(low, high, height, is_log=is_log)
    dots = 4 if unicode else 1
    layers = [(curve.role, _layer(curve, x, height, scale, dots)) for curve in curves]
    rows = tuple(_mark_bad(_merge(layers, row, x.width, unicode), row, curves, x, unicode) for row in range(height))
    labels: dict[int, str] = {}
    for tick in scale.ticks(_most_ticks(height)):
        row = min(int((1 - scale.fraction(tick.value)) * height), height - 1)
        labels.setdefault(row, tick.label)
    return Plot(rows, labels, scale, num_bad)


def _most_ticks(height: int) -> int:
    return min(max(height * 2 // 3, 2), 8)


def _range(curves: Sequence[Curve], is_log: bool) -> tuple[float | None, float | None]:
    low, high = math.inf, -math.inf
    for curve in curves:
        for value in curve.columns:
            if value is None:
                continue
            if not is_log or value[0] > 0:
                low = min(low, value[0])
            elif value[1] > 0:
                low = min(low, value[1])
            high = max(high, value[1])
    if low > high or (is_log and high <= 0):
        return None, None
    return low, high


def _layer(curve: Curve, x: XScale, height: int, scale: YScale, dots: int) -> Layer:
    num_rows = height * dots

    def row(value: float) -> int:
        return min(int((1 - scale.fraction(value)) * num_rows), num_rows - 1)

    spans: list[Span | None] = [
        None if value is None or (scale.is_log and value[1] <= 0) else Span(row(value[1]), row(value[0]), row(value[2]))
        for value in curve.columns
    ]
    gap = _typical_gap(spans)
    longest = math.inf
    if curve.role == ABANDONED:
        longest = 3 * gap + 1  # the end of one branch and the start of the next are not one line
    elif x.axis == "time" and curve.role == TRAIN:
        longest = 20 * gap + 4  # nothing was trained between a crash and the resume
    layer = Layer(x.width, height, dots_x=2 if dots == 4 else 1, dots_y=dots)
    breaks = {index for index in curve.bad if spans[index] is None}
    layer.draw(spans, dashed=curve.dashed, breaks=breaks, longest_bridge=longest)
    return layer


def _typical_gap(spans: Sequence[Span | None]) -> float:
    filled = [index for index, span in enumerate(spans) if span is not None]
    gaps = sorted(after - before for before, after in pairwise(filled))
    return float(gaps[len(gaps) // 2]) if gaps else 1.0


def _merge(layers: Sequence[tuple[str, Layer]], row: int, width: int, unicode: bool) -> Cells:
    chars, roles = [" "] * width, [""] * width
    for role, layer in layers:
        for column, bits in layer.cells[row].items():
            if unicode:
                under = ord(chars[column]) - 0x2800 if chars[column] != " " else 0
                chars[column] = braille(under | bits)
            else:
                chars[column] = _ASCII[role]
            roles[column] = role
    return _runs(chars, roles)


def _mark_bad(cells: Cells, row: int, curves: Sequence[Curve], x: XScale, unicode: bool) -> Cells:
    """The top row carries the marks of values that are not finite."""
    if row != 0 or not any(curve.bad for curve in curves):
        return cells
    chars = [char for text, _ in cells for char in text]
    roles = [role for text, role in cells for _ in text]
    for curve in curves:
        for column in curve.bad:
            cell = min(column // 2 if unicode else column, x.width - 1)
            chars[cell], roles[cell] = ("×" if unicode else "x"), "bad"
    return _runs(chars, roles)


def _runs(chars: Sequence[str], roles: Sequence[str]) -> Cells:
    """Neighbours of one role joined. A blank takes its neighbour's role: fewer changes of colour on the wire."""
    runs: list[tuple[list[str], str]] = []
    for char, role in zip(chars, roles, strict=True):
        if runs and (role == runs[-1][1] or char == " "):
            runs[-1][0].append(char)
        elif runs and not "".join(runs[-1][0]).strip():
            runs[-1] = ([*runs[-1][0], char], role)
        else:
            runs.append(([char], role))
    return tuple(("".join(text), role) for text, role in runs)


def with_cursor(cells: Cells, cell: int, unicode: bool) -> Cells:
    """A row with the cursor's line in it; dots stay, blanks become the line."""
    chars = [char for text, _ in cells for char in text]
    roles = [role for text, role in cells for _ in text]
    if 0 <= cell < len(chars):
        if chars[cell] == " ":
            chars[cell] = "│" if unicode else "|"
        roles[cell] = "cursor"
    return _runs(chars, roles)


@dataclass(frozen=True, slots=True)
class Point:
    """What a series says near an x: the bucket's first step and time, and its values."""

    step: int
    ts: float
    lo: float
    hi: float
    last: float
    is_abandoned: bool = False


def extent(series: Iterable[Series | None], axis: str) -> tuple[float, float] | None:
    """The first and the last x of all of `series`; None when there is no point."""
    low, high = math.inf, -math.inf
    for one in series:
        for segment in one.segments if one else ():
            xs = segment.steps if axis == "step" else segment.ts
            if len(xs):
                # A clock can jump back; steps of one session do not.
                low = min(low, xs[0], xs[-1])
                high = max(high, xs[0], xs[-1])
    return (low, high) if low <= high else None


def point_near(series: Series | None, axis: str, x: float) -> Point | None:
    """The bucket nearest to `x`: of the live branch, of an abandoned one only where the live one has nothing."""
    best: tuple[tuple[bool, float], Point] | None = None
    for segment in series.segments if series else ():
        for index in _near(segment, axis, x):
            step = segment.steps[index]
            abandoned = segment.abandoned_after is not None and step > segment.abandoned_after
            distance = abs((step if axis == "step" else segment.ts[index]) - x)
            rank = (abandoned and axis == "step", distance)
            if best is None or rank < best[0]:
                values = segment.lo[index], segment.hi[index], segment.last[index]
                best = (rank, Point(step, segment.ts[index], *values, is_abandoned=abandoned))
    return best[1] if best else None


def _near(segment: Segment, axis: str, x: float) -> Iterable[int]:
    xs = segment.steps if axis == "step" else segment.ts
    index = bisect_left(xs, x)
    return (i for i in (index - 1, index) if 0 <= i < len(xs))
