"""Curves as lines of cells: what a chart shows, without a widget around it.

The raw line always shows: every column of dots runs from the lowest to the highest value in it, so that a spike of
one step is seen at any width. A value that is not finite is a gap with a mark above it. What a later session trained
again is a dimmed line of its own, never a zig-zag. A smoothed line is drawn over the raw one, and does not replace it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, replace
from itertools import pairwise

from ckpt_tui.records import dataclass
from ckpt_tui.run.epochs import Epochs
from ckpt_tui.run.state import Series
from ckpt_tui.tui.columns import Column, Piece, joined, pieces_of
from ckpt_tui.tui.raster import Layer, Span, braille
from ckpt_tui.tui.scale import XScale, YScale, y_scale
from ckpt_tui.tui.y_range import Range, range_of

# Roles of cells, topmost last.
ABANDONED, TRAIN, VAL = "abandoned", "train", "val"
# Of raw lines under their smoothed ones.
_RAW = {TRAIN: "train_raw", VAL: "val_raw"}
_ASCII = {ABANDONED: ".", TRAIN: "*", VAL: "o"}
_LETTER_EVERY = 24  # cells
_MOST_DOTS_UNDER_SMOOTH = 4  # of the eight in a cell

Cells = tuple[tuple[str, str], ...]  # (text, role), in order


@dataclass(frozen=True, slots=True)
class NamedCurve:
    """A series to draw. mark: a letter on the line, that tells it from others without colour. origin: Unix seconds at
    which its time axis begins; 0 where the axis is Unix seconds. scale: what its values are multiplied by.
    smooth: the smoothed series, drawn over it. is_whole: False while parts of the log are not read yet."""

    label: str
    series: Series
    role: str = TRAIN
    mark: str = ""
    origin: float = 0.0
    epochs: Epochs | None = None
    dashed: bool = False
    scale: float = 1.0
    smooth: Series | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Line:
    """What is drawn of a curve with one role: pieces that nothing joins."""

    role: str
    pieces: tuple[Piece, ...]
    dashed: bool = False
    mark: str = ""
    char: str = "*"  # without unicode
    is_smooth: bool = False  # drawn as a line of its last values


@dataclass(frozen=True, slots=True)
class Plot:
    """rows: the cells of the plot area from the top, each `x.width` wide. labels: row -> tick label.

    num_bad: cells with a non-finite value of what is live in view. num_unloggable: cells with values that a log axis
    cannot show. has_bands: in parts one looks closer than the series knows.
    """

    rows: tuple[Cells, ...]
    labels: dict[int, str] = field(default_factory=dict)
    scale: YScale | None = None
    num_bad: int = 0
    num_unloggable: int = 0
    range: Range | None = None
    has_bands: bool = False

    @property
    def cut_off(self) -> tuple[float | None, float | None]:
        """The highest and the lowest value, where they are out of the range in view."""
        if self.range is None:
            return None, None
        return (
            self.range.highest if self.range.num_above else None, self.range.lowest if self.range.num_below else None,
        )  # fmt: skip


def train_and_val_curves(train: Series | None, val: Series | None, scale: float = 1.0) -> list[NamedCurve]:
    curves = [NamedCurve("train", train, TRAIN, scale=scale)] if train is not None else []
    return [*curves, NamedCurve("val", val, VAL, dashed=True, scale=scale)] if val is not None else curves


def lines_of(curves: Sequence[NamedCurve], x: XScale, *, unicode: bool = True) -> list[Line]:
    """The lines to draw, the lowest first."""
    num_columns = x.width * (2 if unicode else 1)
    abandoned_lines: list[Line] = []
    raw_lines: list[Line] = []
    smooth_lines: list[Line] = []
    for curve in curves:
        live, abandoned = _branches(curve.series, curve, x, num_columns)
        if abandoned:
            abandoned_lines.append(Line(ABANDONED, tuple(abandoned), curve.dashed, char=_ASCII[ABANDONED]))
        char = curve.mark or _ASCII.get(curve.role, "*")
        role = curve.role if curve.smooth is None else _RAW.get(curve.role, "abandoned")
        if live:
            char_of_raw = "." if curve.smooth is not None else char
            mark_of_raw = curve.mark if curve.smooth is None else ""
            raw_lines.append(Line(role, tuple(live), curve.dashed, mark_of_raw, char_of_raw))
        if curve.smooth is not None:
            smooth, _ = _branches(curve.smooth, curve, x, num_columns)
            smooth_lines.append(Line(curve.role, tuple(smooth), curve.dashed, curve.mark, char, is_smooth=True))
    if len(curves) > 1 and curves[0].mark:
        # Of several runs the shorter ones on top: what lies under a longer one would not be seen at all.
        raw_lines.sort(key=_length, reverse=True)
        smooth_lines.sort(key=_length, reverse=True)
    return [*abandoned_lines, *raw_lines, *smooth_lines]


def _length(line: Line) -> int:
    return sum(len(piece.columns) - piece.columns.count(None) for piece in line.pieces)


def _branches(series: Series, curve: NamedCurve, x: XScale, num_columns: int) -> tuple[list[Piece], list[Piece]]:
    """Live and abandoned pieces. By step and by epoch the live ones are one line: the later session goes on where the
    earlier one was taken up; in time nothing was trained between them, and what is not read yet is no line."""
    if curve.epochs is not None and x.axis == "epoch":
        x = replace(x, epochs=curve.epochs)
    live: list[Piece] = []
    abandoned: list[Piece] = []
    for segment in series.segments:
        for piece in pieces_of(segment, x, num_columns, curve.origin if x.axis == "time" else 0.0):
            (abandoned if piece.is_abandoned else live).append(_scaled(piece, curve.scale))
    if x.axis != "time" and curve.is_whole and len(live) > 1:
        columns: list[Column | None] = [None] * num_columns
        for piece in live:
            for index, column in enumerate(piece.columns, piece.first):
                columns[index] = joined(columns[index], column)
        live = [Piece(0, columns)]
    return live, abandoned


def _scaled(piece: Piece, scale: float) -> Piece:
    if scale == 1.0:
        return piece
    columns = [
        None if one is None else Column(one.lo * scale, one.hi * scale, one.last * scale, one.bad, one.is_band)
        for one in piece.columns
    ]
    return Piece(piece.first, columns, piece.is_abandoned)


def draw(
    lines: Sequence[Line], x: XScale, height: int, *, is_log: bool = False, unicode: bool = True, y_range: str = "all"
) -> Plot:
    """The plot of `lines` in `height` lines of `x.width` cells. y_range: see `view.RANGES`."""
    raw = [piece.columns for line in lines if not line.is_smooth for piece in line.pieces]
    found = range_of(raw, is_log=is_log, y_range=y_range)
    marks = _Marks(lines, x.width, unicode, found, is_log)
    if found is None:
        rows = tuple(marks.on(((" " * x.width, ""),), row, height) for row in range(height))
        return Plot(rows, num_bad=marks.num_bad, num_unloggable=marks.num_unloggable)
    scale = y_scale(found.low, found.high, height, is_log=is_log)
    dots = 4 if unicode else 1
    layers = [(line, _layer(line, x, height, scale, dots)) for line in lines]
    letters = _letters(lines, x.width, height, scale, unicode)
    rows = tuple(
        marks.on(_merge(layers, row, x.width, unicode, letters.get(row, {})), row, height) for row in range(height)
    )
    labels: dict[int, str] = {}
    for tick in scale.ticks(_most_ticks(height)):
        row = min(int((1 - scale.fraction(tick.value)) * height), height - 1)
        labels.setdefault(row, tick.label)
    return Plot(rows, labels, scale, marks.num_bad, marks.num_unloggable, found, marks.has_bands)


def _most_ticks(height: int) -> int:
    return min(max(height * 2 // 3, 2), 8)


def _layer(line: Line, x: XScale, height: int, scale: YScale, dots: int) -> Layer:
    row = scale.rows(height * dots)
    layer = Layer(x.width, height, dots_x=2 if dots == 4 else 1, dots_y=dots)
    for piece in line.pieces:
        spans: list[Span | None] = []
        breaks = set()
        for index, column in enumerate(piece.columns, piece.first):
            if column is None or column.hi != column.hi or (scale.is_log and column.hi <= 0):
                spans.append(None)
                if column is not None:
                    breaks.add(index)
            elif line.is_smooth:
                # Out of the range that is in view it is nowhere: along the edge it would look like values.
                last = row(column.last)
                spans.append(Span(last, last, last) if scale.low <= column.last <= scale.high else None)
                if spans[-1] is None:
                    breaks.add(index)
            else:
                spans.append(Span(row(column.hi), row(column.lo), row(column.last), column.is_band))
        longest = math.inf
        if x.axis == "time" and not line.dashed:
            longest = 20 * _typical_gap(spans) + 4  # a log without sessions still tells of a night without training
        layer.draw(spans, dashed=line.dashed, breaks=breaks, longest_bridge=longest, first=piece.first)
    return layer


def _typical_gap(spans: Sequence[Span | None]) -> float:
    filled = [index for index, span in enumerate(spans) if span is not None]
    gaps = sorted(after - before for before, after in pairwise(filled))
    return float(gaps[len(gaps) // 2]) if gaps else 1.0


def _merge(
    layers: Sequence[tuple[Line, Layer]], row: int, width: int, unicode: bool, letters: dict[int, tuple[str, str]]
) -> Cells:
    bits_of, roles = [0] * width, [""] * width
    chars = [" "] * width
    for line, layer in layers:
        for column, bits in layer.cells[row].items():
            if unicode:
                # A smoothed line is seen as a line also where the raw one fills all of the cell.
                is_full = line.is_smooth and bits_of[column].bit_count() > _MOST_DOTS_UNDER_SMOOTH
                bits_of[column] = bits if is_full else bits_of[column] | bits
                chars[column] = braille(bits_of[column])
            else:
                chars[column] = line.char
            roles[column] = line.role
    for column, (letter, role) in letters.items():
        chars[column], roles[column] = letter, role
    return _runs(chars, roles)


def _letters(
    lines: Sequence[Line], width: int, height: int, scale: YScale, unicode: bool
) -> dict[int, dict[int, tuple[str, str]]]:
    """Row -> cell -> (letter, role): at the end of each line that has one, and now and then on it."""
    found: dict[int, dict[int, tuple[str, str]]] = {}
    marked = sorted((line for line in lines if line.mark), key=lambda line: line.mark)
    for position, line in enumerate(marked):
        ends = {}
        for piece in line.pieces:
            for index, column in enumerate(piece.columns, piece.first):
                if column is not None and column.last == column.last:
                    ends[min(index // (2 if unicode else 1), width - 1)] = column.last
        if not ends:
            continue
        shift = position * _LETTER_EVERY // max(len(marked), 1)
        places = [cell for cell in ends if cell % _LETTER_EVERY == shift]
        for cell in dict.fromkeys((max(ends), *places)):
            row = min(int((1 - scale.fraction(ends[cell])) * height), height - 1)
            there = found.setdefault(row, {})
            while cell in there and cell > 0:
                cell -= 1
            there[cell] = (line.mark, line.role)
    return found


class _Marks:
    """Marks in the top and bottom rows: not finite, cut off above or below, nothing that a logarithm can show."""

    def __init__(self, lines: Sequence[Line], width: int, unicode: bool, found: Range | None, is_log: bool) -> None:
        self._top: dict[int, tuple[str, str]] = {}
        self._bottom: dict[int, tuple[str, str]] = {}
        self.has_bands = False
        per_cell = 2 if unicode else 1
        above, below = ("▲", "▼") if unicode else ("^", "v")
        bad: set[int] = set()
        bad_abandoned: set[int] = set()
        unloggable: set[int] = set()
        for line in lines:
            for piece in line.pieces if not line.is_smooth else ():
                for index, column in enumerate(piece.columns, piece.first):
                    if column is None or column.is_band:
                        self.has_bands = self.has_bands or column is not None
                        continue
                    cell = min(index // per_cell, width - 1)
                    if column.bad:
                        (bad_abandoned if line.role == ABANDONED else bad).add(cell)
                    if is_log and column.lo <= 0:
                        unloggable.add(cell)
                        self._bottom[cell] = (below, "bad")
                    if found is not None and column.hi > found.high:
                        self._top[cell] = (above, "warning")
                    if found is not None and column.lo < found.low and not (is_log and column.lo <= 0):
                        self._bottom[cell] = (below, "warning")
        # What was given up is no trouble any more: there, but not as loud.
        for cells, role in ((bad_abandoned, ABANDONED), (bad, "bad")):
            for cell in cells:
                self._top[cell] = ("×" if unicode else "x", role)
        self.num_bad, self.num_unloggable = len(bad), len(unloggable)

    def on(self, cells: Cells, row: int, height: int) -> Cells:
        marks = {**(self._bottom if row == height - 1 else {}), **(self._top if row == 0 else {})}
        if not marks:
            return cells
        chars = [char for text, _ in cells for char in text]
        roles = [role for text, role in cells for _ in text]
        for cell, (char, role) in marks.items():
            chars[cell], roles[cell] = char, role
        return _runs(chars, roles)


def _runs(chars: Sequence[str], roles: Sequence[str]) -> Cells:
    """Neighbours of one role joined. A blank takes its neighbour's role: fewer changes of colour on the wire."""
    runs: list[tuple[str, str]] = []
    first = 0
    role = ""
    for index, its in enumerate(roles):
        if its == role or chars[index] == " ":
            continue
        if role:
            runs.append(("".join(chars[first:index]), role))
            first = index
        role = its  # what was blank so far begins with it
    runs.append(("".join(chars[first:]), role))
    return tuple(runs)


def with_cursor(cells: Cells, cell: int, unicode: bool) -> Cells:
    """A row with the cursor's line in it; dots stay, blanks become the line."""
    chars = [char for text, _ in cells for char in text]
    roles = [role for text, role in cells for _ in text]
    if 0 <= cell < len(chars):
        if chars[cell] == " ":
            chars[cell] = "│" if unicode else "|"
        roles[cell] = "cursor"
    return _runs(chars, roles)
