"""What happened, on the same x axis as the chart above it: saves, best, crashes, resumes, signals, trouble."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckpt_tui.run.state import Marker
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.widgets.chart import GUTTER
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget

# kind -> (glyph, without unicode, role, words); where two fall on one cell the one that stands first is seen.
MARKS: dict[str, tuple[str, str, str, str]] = {
    "crash": ("✖", "X", "error", "crash"),
    "save_failed": ("✗", "!", "error", "failed save"),
    "error": ("!", "!", "error", "error"),
    "nonfinite": ("×", "x", "error", "not finite"),
    "gave_up": ("⊘", "0", "error", "supervisor gave up"),
    "config": ("~", "~", "accent", "settings"),  # a resume with other settings than before
    "resume": ("↻", ">", "accent", "resume"),
    "restart": ("⟳", "r", "accent", "supervisor restarts"),
    "stop": ("■", "#", "warning", "stop"),
    "signal": ("⚑", "^", "warning", "signal"),
    "rollback": ("⇤", "b", "warning", "rollback"),
    "undo": ("↶", "u", "accent", "undo"),
    "redo": ("↷", "d", "accent", "redo"),
    "restore": ("↺", "<", "good", "restore"),
    "finish": ("▪", "=", "good", "finish"),
    "best": ("★", "*", "good", "best"),
    "save": ("●", "o", "dim", "save"),
}
_ORDER = {kind: index for index, kind in enumerate(MARKS)}


def cell_of(marker: Marker, x: XScale) -> int | None:
    """Where on the lane it is; None when it is out of view, or nothing that the lane shows."""
    return x.cell(x.at(marker.step, marker.ts)) if marker.kind in _ORDER else None


def marks_in(markers: Iterable[Marker], x: XScale, cell: int) -> list[Marker]:
    """What is in one cell of the lane: the most serious first, of one kind the newest."""
    found = [marker for marker in markers if cell_of(marker, x) == cell]
    return sorted(found, key=lambda marker: (_ORDER[marker.kind], -marker.ts))


def lane(markers: Sequence[Marker], x: XScale, *, unicode: bool = True) -> list[tuple[str, str]]:
    """One (character, role) a cell of `x`."""
    cells: list[str | None] = [None] * x.width
    for marker in markers:
        cell = cell_of(marker, x)
        if cell is None:
            continue
        there = cells[cell]
        if there is None or _ORDER[marker.kind] < _ORDER[there]:
            cells[cell] = marker.kind
    blank = ("·" if unicode else ".", "track")
    return [blank if kind is None else (MARKS[kind][0 if unicode else 1], MARKS[kind][2]) for kind in cells]


class EventLane(LinesWidget):
    """One line, `events` in the gutter."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self._markers: tuple[Marker, ...] = ()
        self._x: XScale | None = None

    def set_markers(self, markers: tuple[Marker, ...], x: XScale | None) -> None:
        if markers is self._markers and x == self._x:
            return  # a cursor moved: thousands of marks stay where they are
        self._markers = markers
        self._x = x
        self.show()

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        if self._x is None:
            return [()]
        runs: list[tuple[str, str]] = [("events".rjust(GUTTER - 1) + " ", "axis")]
        for char, role in lane(self._markers, self._x, unicode=self.unicode):
            if runs[-1][1] == role and len(runs) > 1:
                runs[-1] = (runs[-1][0] + char, role)
            else:
                runs.append((char, role))
        return [tuple(runs)]
