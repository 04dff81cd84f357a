"""The main chart with pinned ones under it, on one x axis and with one cursor.

All of it is one widget of lines: with nothing pinned it costs what a chart costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ckpt_tui.run.metrics import Metric, metric_named
from ckpt_tui.run.state import RunState
from ckpt_tui.text import cell_width, metric, safe_text
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.widgets.chart import GUTTER, MARGIN, Chart, Panel, curves_of
from ckpt_tui.tui.widgets.lines_widget import Cells, rule

MAX_PINS = 3
HEAVY_FROM = 0.9  # of the setting `smoothing`, which is a weight between 0 and 1
LEAST_MAIN_ROWS = 4
LEAST_PIN_ROWS = 3  # its title and two lines


def heights(height: int, num_pins: int) -> tuple[int, list[int]]:
    """Lines of the main plot, and of each pinned chart that has room, its title included; one line is the x axis's."""
    room = height - 1
    num_shown = max(min(num_pins, MAX_PINS, (room - LEAST_MAIN_ROWS) // LEAST_PIN_ROWS), 0)
    if not num_shown:
        return max(room, 1), []
    each = max(room // (num_shown + 2), LEAST_PIN_ROWS)
    return room - each * num_shown, [each] * num_shown


class ChartStack(Chart):
    """A Chart with up to three pinned metrics of the same run under it."""

    def __init__(self, *, pins: Sequence[str] = (), unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(unicode=unicode, id=id)
        self.pins: tuple[str, ...] = tuple(dict.fromkeys(pins))
        self.pinned: tuple[Panel, ...] = ()

    def on_mount(self) -> None:
        """What a person has pinned once and for all."""
        settings = getattr(self.app, "settings", None)
        if settings is not None:
            self.pins = tuple(dict.fromkeys((*self.pins, *settings.pins)))
            smoothing = "off" if settings.smoothing <= 0 else "light" if settings.smoothing < HEAVY_FROM else "heavy"
            self.view = replace(self.view, smoothing=smoothing)

    def take_metrics(self, state: RunState) -> None:
        super().take_metrics(state)
        found: list[Metric] = []
        for name in self.pins:
            one = metric_named(state.series, name)
            # What the main chart shows is not shown twice.
            if one is not None and one not in found and one.name != self.shown_metric:
                found.append(one)
        self.pinned = tuple(Panel(one.title, curves_of(state, one, self.view)) for one in found)

    @property
    def curves(self) -> tuple[NamedCurve, ...]:
        return (*super().curves, *(curve for panel in self.pinned for curve in panel.curves))

    def toggle_pin(self, name: str) -> bool:
        """Whether it is pinned now. The oldest pin goes when there are too many."""
        names = self.state.series if self.state is not None else ()
        others = tuple(pin for pin in self.pins if name not in (pin, _shown_as(pin, names)))
        self.pins = others if len(others) < len(self.pins) else (*self.pins, name)[-MAX_PINS:]
        if self.state is not None:
            self.take_metrics(self.state)
            self.show()
        return name in self.pins

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        main, each = heights(height, len(self.pinned))
        self.num_hidden_pins = len(self.pinned) - len(each)
        if self.x is None or not each:
            return super().lines_now(width, height)
        lines, self.drawn = self.panel_lines(self.main, self.x, main)
        for panel, rows in zip(self.pinned, each, strict=False):
            lines.append(self._title_line(panel, width))
            lines += self.panel_lines(panel, self.x, rows - 1)[0]
        lines.append(self._x_line(width))
        return lines[:height]

    def _title_line(self, panel: Panel, width: int) -> Cells:
        """`─ grad_norm ──────────── 1.23 ─`, with the cursor's value where there is one."""
        points = self.points(panel)
        words: list[tuple[str, str]] = []
        for curve in panel.curves:
            value = next((point.last for one, point in points if one is curve), None) if points else curve.series.last
            if value is None:
                continue
            shown = metric(value if points else value * curve.scale)
            words.append((f"{'  ' if words else ''}{shown}", curve.role))
        title = safe_text(panel.title, max(width - 30, 10))
        cells = rule(title, words, max(width - GUTTER - MARGIN + 1, 8), unicode=self.unicode)
        used = sum(cell_width(text) for text, _ in cells)
        return ((" " * (GUTTER - 1), ""), *cells, (" " * max(width - GUTTER + 1 - used, 0), ""))


def _shown_as(pin: str, names: Iterable[str]) -> str:
    """A pin of `val_loss` is one of the chart of `loss`."""
    found = metric_named(names, pin)
    return found.name if found is not None else pin
