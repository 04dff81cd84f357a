"""Dots in terminal cells: two by four to a cell in braille, or one to a cell where there is no unicode.

A layer is one line of the chart. Layers are put on top of each other cell by cell: the dots of all of them show,
in the colour of the topmost.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from ckpt_tui.records import dataclass

# Bit of the dot at (x, y) within its cell, y from the top.
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
# The same for stretches: _STRETCHES[x][from][to].
_STRETCHES = tuple(
    tuple(tuple(sum(bits[above : below + 1]) for below in range(4)) for above in range(4)) for bits in _BITS
)


@dataclass(frozen=True, slots=True)
class Span:
    """What a column of dots shows: from `top` to `bottom` (rows of dots, top < bottom inclusive), ends at `last`."""

    top: int
    bottom: int
    last: int
    is_shaded: bool = False  # somewhere in there: every other dot


class Layer:
    """One line's dots. Empty cells are not stored."""

    def __init__(self, width: int, height: int, *, dots_x: int = 2, dots_y: int = 4) -> None:
        self.width = width  # in cells
        self.height = height
        self._dots_x = dots_x
        self._dots_y = dots_y
        self.cells: list[dict[int, int]] = [{} for _ in range(height)]

    def vertical(self, x: int, top: int, bottom: int) -> None:
        """The dots of a column from `top` to `bottom`, a cell at a time: a noisy line has thousands of them."""
        dots_y, column = self._dots_y, x // self._dots_x
        if not 0 <= column < self.width:
            return
        top, bottom = max(top, 0), min(bottom, self.height * dots_y - 1)
        if top > bottom:
            return
        side = x % self._dots_x if dots_y == 4 else 0
        first_row, last_row = top // dots_y, bottom // dots_y
        for row in range(first_row, last_row + 1):
            above = top - row * dots_y if row == first_row else 0
            below = bottom - row * dots_y if row == last_row else dots_y - 1
            cells = self.cells[row]
            cells[column] = cells.get(column, 0) | _STRETCHES[side][above][below]

    def _shade(self, x: int, span: Span) -> None:
        """Every second column, and of it the edges and every fourth dot."""
        for y in range(span.top, span.bottom + 1) if x % 2 == 0 else ():
            if (y + x) % 4 == 0 or y in (span.top, span.bottom):
                self.vertical(x, y, y)

    def draw(
        self,
        spans: Sequence[Span | None],
        *,
        dashed: bool = False,
        breaks: Collection[int] = (),
        longest_bridge: float = math.inf,
        first: int = 0,
    ) -> None:
        """A line through `spans`, one a column of dots from `first` on. Columns without a value are bridged, up to
        `longest_bridge` of them; `breaks` are columns that no line crosses.

        Every span is drawn from its lowest to its highest: a spike of one step stays visible at any width.
        """
        # What each column of dots shows in the end, so that it is put into the cells once.
        stretches: dict[int, tuple[int, int]] = {}

        def add(x: int, top: int, bottom: int) -> None:
            if dashed and x & 2:
                return
            there = stretches.get(x)
            stretches[x] = (top, bottom) if there is None else (min(top, there[0]), max(bottom, there[1]))

        before: tuple[int, Span] | None = None
        for x, span in enumerate(spans, first):
            if x in breaks:
                before = None
            if span is None:
                continue
            if span.is_shaded:
                self._shade(x, span)
                before = (x, span)
                continue
            if before is not None and x - before[0] <= longest_bridge:
                for at, top, bottom in _bridge(before[0], before[1].last, x, span):
                    add(at, top, bottom)
            if not dashed or not x & 2:
                add(x, span.top, span.bottom)
            elif before is None or x - before[0] > 2:  # however dashed, a point on its own is seen
                stretches[x] = (span.top, span.bottom)
            before = (x, span)
        for x, (top, bottom) in stretches.items():
            self.vertical(x, top, bottom)


def _bridge(x0: int, y0: int, x1: int, span: Span) -> Iterator[tuple[int, int, int]]:
    """Stretches of columns that lead from a value at x0 to a span at x1."""
    y1 = min(max(y0, span.top), span.bottom)
    if x1 - x0 > 1:
        yield from _line(x0, y0, x1, y1)
    elif y0 != y1:
        # Neighbours: half of the way is drawn in either column, so that steep lines have no gaps.
        middle = (y0 + y1) // 2
        yield x0, min(y0, middle), max(y0, middle)
        yield x1, min(y1, middle), max(y1, middle)


def _line(x0: int, y0: int, x1: int, y1: int) -> Iterator[tuple[int, int, int]]:
    """Columns of a straight line with the rows it passes in each: (x, top, bottom)."""
    length = x1 - x0
    previous = y0
    for x in range(x0 + 1, x1):
        y = y0 + round((y1 - y0) * (x - x0) / length)
        # One row short of the previous column's, so that flat lines stay thin.
        first = previous + (1 if y > previous else -1 if y < previous else 0)
        yield x, min(first, y), max(first, y)
        previous = y


def braille(bits: int) -> str:
    return chr(0x2800 + bits)
