"""A chart of curves: lines, ticks, a cursor. Keys and mouse change its View; how that is drawn is in `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import is_

from textual import events
from textual.message import Message

from ckpt_tui.records import dataclass
from ckpt_tui.run.epochs import epochs_of
from ckpt_tui.run.metrics import Metric, main_metric, metric_named, metrics_of
from ckpt_tui.run.state import RunState, Series
from ckpt_tui.text import safe_text
from ckpt_tui.tui import plot, view
from ckpt_tui.tui.legend import legend, readout
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.points import Point, extent_of, point_at
from ckpt_tui.tui.scale import Tick, XScale, linear_ticks, step_ticks, time_ticks
from ckpt_tui.tui.view import View
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget

GUTTER = 7  # cells left of the plot: a tick's label and the axis; lanes under the chart keep the same
MARGIN = 1  # right of the plot
MOST_TITLE = 40
_MOST_PLOTS = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: what is drawn on it, and what it is called."""

    title: str
    curves: tuple[NamedCurve, ...]


class Chart(LinesWidget):
    """Curves of one run (`set_state`: a metric and its validation twin) or of several (`set_curves`).

    The legend and the readout of the cursor go to whoever listens to `Changed`; see `tui/legend.py`.
    """

    ALLOW_SELECT = False  # dragging moves the window

    class Changed(Message):
        """The x axis, the cursor or a mode changed: lanes and legend follow."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self.view = View()
        self.x: XScale | None = None
        self.main = self._given = Panel("loss", ())
        self.shown_metric = ""  # the name of what the main panel shows
        self.drawn: plot.Plot | None = None  # the main panel as it is on the screen
        self.state: RunState | None = None
        self.num_hidden_pins = 0
        self._is_over = True
        self._time_origin: float | None = None
        self._reference: tuple[NamedCurve, ...] = ()  # their extent is in view too, whatever metric is shown
        self._told: object = None
        self._plots: list[tuple[Panel, object, plot.Plot]] = []
        self._drag: tuple[int, XScale] | None = None  # where it began, on what axis
        self._was_dragged = False

    # -- what is shown ------------------------------------------------------------------------------------------

    def set_state(self, state: RunState) -> None:
        """Show `state`; lines that stay as they are are not drawn again."""
        before, self.state = self.state, state
        self._is_over = state.phase.is_over
        self._time_origin = state.start_ts
        if before is None or not _has_same_curves(before, state):
            self.take_metrics(state)
        self.show()

    def take_metrics(self, state: RunState) -> None:
        """The curves of what the view names."""
        default = main_metric(state)
        chosen = metric_named(state.series, self.view.metric) or default
        self._reference = curves_of(state, default, self.view) if default is not None else ()
        self.shown_metric = chosen.name if chosen is not None else ""
        if chosen is None:
            self.main = Panel("loss", ())
        elif chosen == default:
            self.main = Panel(safe_text(chosen.title, MOST_TITLE), self._reference)
        else:
            self.main = Panel(safe_text(chosen.title, MOST_TITLE), curves_of(state, chosen, self.view))

    def set_curves(self, curves: Sequence[NamedCurve], *, title: str = "", is_over: bool = True) -> None:
        """Show curves of several runs on top of each other; by time each from its own `origin`."""
        self.state = None
        self._given = Panel(safe_text(title or "loss", MOST_TITLE), tuple(curves))
        self._take_given()
        self._reference = ()
        self._is_over, self._time_origin = is_over, 0.0
        self.show()

    def _take_given(self) -> None:
        self.main = replace(self._given, curves=with_smoothing(self._given.curves, self.view.smoothing))

    @property
    def curves(self) -> tuple[NamedCurve, ...]:
        """All that share the axis."""
        return (*self.main.curves, *self._reference)

    def show(self) -> None:
        width = self.size.width - GUTTER - MARGIN
        self.x = self._x_scale(width) if width > 2 else None
        super().show()
        seen = self.drawn and (
            self.drawn.num_bad > 0,
            self.drawn.num_unloggable > 0,
            self.drawn.cut_off,
            self.drawn.has_bands,
        )
        told = (self.x, self.view, seen, self.main.title, len(self.main.curves), self.num_hidden_pins)
        if told != self._told:
            self._told = told
            self.post_message(self.Changed())

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        """The plot with its tick labels, and a line of x labels under it."""
        if self.x is None:
            return self._nothing_yet(width, height)
        lines, self.drawn = self.panel_lines(self.main, self.x, max(height - 1, 1))
        lines.append(self._x_line(width))
        return lines[:height]

    def _nothing_yet(self, width: int, height: int) -> list[Cells]:
        self.drawn = None
        has_events = self.state is not None and self.state.num_events
        text = "no metric yet" if has_events else "waiting for the first step"
        lines: list[Cells] = [() for _ in range(height)]
        lines[height // 2] = ((" " * max((width - len(text)) // 2, 0) + text, "dim"),)
        return lines

    def panel_lines(self, panel: Panel, x: XScale, height: int) -> tuple[list[Cells], plot.Plot]:
        """`height` lines of a panel, its gutter with them, and the plot that they show."""
        drawn = self._plot(panel, x, height)
        cursor = x.cell(self.view.cursor) if self.view.cursor is not None else None
        cells_of: list[Cells] = []
        for row, cells in enumerate(drawn.rows):
            label = drawn.labels.get(row, "")
            axis = ("┤" if label else "│") if self.unicode else ("+" if label else "|")
            marked = cells if cursor is None else plot.with_cursor(cells, cursor, self.unicode)
            cells_of.append(((f"{label:>{GUTTER - 1}}{axis}", "axis"), *marked))
        return cells_of, drawn

    def _plot(self, panel: Panel, x: XScale, height: int) -> plot.Plot:
        """The plot of a panel; the one of the last time where only the cursor has moved."""
        asked = (x, height, self.view.is_log, self.view.y_range)
        known = next((one for one in self._plots if one[0] is panel), None)
        if known is not None and known[1] == asked:
            return known[2]
        lines = plot.lines_of(panel.curves, x, unicode=self.unicode)
        drawn = plot.draw(lines, x, height, is_log=self.view.is_log, unicode=self.unicode, y_range=self.view.y_range)
        self._plots = [*(one for one in self._plots if one[0] is not panel), (panel, asked, drawn)][-_MOST_PLOTS:]
        return drawn

    def _x_line(self, width: int) -> Cells:
        assert self.x is not None
        return ((x_labels(self._x_ticks(), self.x, width), "axis"),)

    def _x_ticks(self) -> tuple[Tick, ...]:
        assert self.x is not None
        most = max(self.x.width // 12, 2)
        if self.x.axis == "time":
            origin = self._time_origin if self._time_origin is not None else self.x.x0
            return time_ticks(self.x.x0, self.x.x1, origin, most)
        if self.x.axis == "epoch":
            return linear_ticks(self.x.x0, self.x.x1, most)
        return step_ticks(self.x.x0, self.x.x1, most)

    def _x_scale(self, width: int) -> XScale | None:
        epochs = next((curve.epochs for curve in self.curves if curve.epochs is not None), None)
        return view.x_scale(self.view, self.extent(), width, is_over=self._is_over, epochs=epochs)

    def extent(self) -> view.Extent | None:
        """The first and the last x. While a long log is being read from both its ends, the axis is already that of
        all of it: what is not read yet is empty, and nothing moves."""
        found = extent_of(self.curves, self.view.axis)
        if found is None or self.state is None or self.state.is_whole:
            return found
        first = self.state.start_ts if self.view.axis == "time" else 0.0
        return (found[0] if first is None else min(first, found[0]), found[1])

    def cursor_cell(self) -> int | None:
        return self.x.cell(self.view.cursor) if self.x is not None and self.view.cursor is not None else None

    def points(self, panel: Panel | None = None) -> list[tuple[NamedCurve, Point]]:
        """What each curve of a panel, the main one by default, says at the cursor."""
        cell, x = self.cursor_cell(), self.x
        if cell is None or x is None:
            return []
        found = ((curve, point_at(curve, x, cell)) for curve in (panel or self.main).curves)
        return [(curve, point) for curve, point in found if point is not None]

    def rule_parts(self) -> list[tuple[str, str]]:
        """The words for the chart's rule: the legend, or the readout of the cursor."""
        cell = self.cursor_cell()
        if cell is not None:
            return readout(self.points(), self.state, self.x, cell, unicode=self.unicode)
        return legend(
            self.view, self.main.curves, self.drawn, unicode=self.unicode, num_hidden_pins=self.num_hidden_pins,
            is_over=self._is_over,
        )  # fmt: skip

    # -- keys ---------------------------------------------------------------------------------------------------

    def change(self, changed: View) -> None:
        if changed == self.view:
            return
        needs_curves = (changed.metric, changed.smoothing, changed.axis) != (
            self.view.metric, self.view.smoothing, self.view.axis
        )  # fmt: skip
        self.view = changed
        if needs_curves and self.state is not None:
            self.take_metrics(self.state)
        elif needs_curves:
            self._take_given()
        self.show()

    def zoom(self, factor: float, at: float | None = None) -> None:
        """A narrower (factor < 1) or wider window, around `at`, the cursor if there is one, else at the same end."""
        extent = self.extent()
        if self.x is not None and extent is not None:
            self.change(view.zoomed(self.view, self.x, extent, factor, at))

    def pan(self, share: float) -> None:
        extent = self.extent()
        if self.x is not None and extent is not None:
            self.change(view.panned(self.view, self.x, extent, share))

    def toggle_frozen(self) -> None:
        if self.x is not None:
            self.change(view.frozen(self.view, self.x))

    def show_all(self) -> None:
        self.change(replace(self.view, window=None, end=None))

    def toggle_log(self) -> None:
        self.change(replace(self.view, is_log=not self.view.is_log))

    def next_y_range(self) -> None:
        self.change(replace(self.view, y_range=view.after(view.RANGES, self.view.y_range)))

    def next_smoothing(self) -> None:
        self.change(replace(self.view, smoothing=view.after(view.SMOOTHINGS, self.view.smoothing)))

    def axes(self) -> tuple[str, ...]:
        """The axes that this run or these curves can be shown on."""
        has_epochs = (self.state is not None and epochs_of(self.state) is not None) or (
            self.state is None and bool(self.curves) and all(curve.epochs is not None for curve in self.curves)
        )
        return ("step", "time", "epoch") if has_epochs else ("step", "time")

    def toggle_axis(self) -> None:
        """The next axis, in view as a whole; the cursor stays on its step."""
        axis = view.after(self.axes(), self.view.axis)
        at = next((point for _, point in self.points()), None)
        changed = view.with_axis(self.view, axis)
        self.change(changed)
        if at is not None and self.x is not None:
            self.change(replace(changed, cursor=self.x.at(at.peak_step, at.ts)))

    def next_metric(self, by: int) -> None:
        """The next or the one before of all metrics, in the order of the list that `m` shows."""
        if self.state is None:
            return
        metrics = metrics_of(self.state.series)
        if not metrics:
            return
        shown = metric_named(self.state.series, self.view.metric) or main_metric(self.state)
        index = metrics.index(shown) if shown in metrics else 0
        self.show_metric(metrics[(index + by) % len(metrics)].name)

    def show_metric(self, name: str) -> None:
        self.change(replace(self.view, metric=name))

    def move_cursor(self, cells: int) -> None:
        if self.x is None:
            return
        if self.view.cursor is None:
            extent = self.extent()
            start = self.x.cell(extent[1]) if extent else None
            cell = start if start is not None else self.x.width - 1
        else:
            at = self.x.cell(self.view.cursor)
            cell = (at if at is not None else self.x.width - 1) + cells
        if not 0 <= cell < self.x.width and self.view.window is not None:
            self.pan(-0.25 if cell < 0 else 0.25)
        self.change(replace(self.view, cursor=self.x.value(min(max(cell, 0), self.x.width - 1))))

    def hide_cursor(self) -> bool:
        had = self.view.cursor is not None
        self.change(replace(self.view, cursor=None))
        return had

    # -- mouse --------------------------------------------------------------------------------------------------

    def _x_under(self, event: events.MouseEvent) -> float | None:
        cell = event.x - GUTTER
        return self.x.value(cell) if self.x is not None and 0 <= cell < self.x.width else None

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._was_dragged = False
        if self.x is not None and self.view.window is not None and event.button == 1:
            self._drag = (event.x, self.x)
            self.capture_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._drag is None:
            return
        began, x = self._drag
        if event.x != began or self._was_dragged:
            self._was_dragged = True
            share = (began - event.x) / x.width
            extent = self.extent()
            if extent is not None:
                self.change(view.panned(self.view, x, extent, share))

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._drag is not None:
            self._drag = None
            self.release_mouse()

    def on_click(self, event: events.Click) -> None:
        if self._was_dragged:  # the end of a drag is no click
            self._was_dragged = False
            return
        at = self._x_under(event)
        if at is not None:
            self.change(replace(self.view, cursor=at))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.zoom(0.5, self._x_under(event))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.zoom(2.0, self._x_under(event))


def _has_same_curves(one: RunState, other: RunState) -> bool:
    """Whether a tick brought nothing to draw: only the series of a metric that got points is another object."""
    return (
        one.series.keys() == other.series.keys()
        and all(map(is_, one.series.values(), other.series.values()))
        and one.epochs is other.epochs
        and one.steps_per_epoch == other.steps_per_epoch
        and one.is_whole == other.is_whole
    )


def curves_of(state: RunState, metric: Metric, shown: View) -> tuple[NamedCurve, ...]:
    """The lines of one metric of a run as `shown` wants them."""
    train, val = metric.pair(state.series)
    curves = with_smoothing(plot.train_and_val_curves(train, val, metric.scale), shown.smoothing)
    epochs = epochs_of(state) if shown.axis == "epoch" else None
    if epochs is None and state.is_whole:
        return curves
    return tuple(replace(curve, epochs=epochs, is_whole=state.is_whole) for curve in curves)


def with_smoothing(curves: Sequence[NamedCurve], strength: str) -> tuple[NamedCurve, ...]:
    """`curves` with the smoothed lines that are drawn over them."""
    if strength == "off":
        return tuple(curves)
    from ckpt_tui.run.smoothing import smoothed

    return tuple(replace(curve, smooth=smoothed(curve.series, strength)) for curve in curves)


def train_and_val(state: RunState) -> tuple[Series | None, Series | None]:
    """The two lines that the chart begins with: the loss, or the first metric there is, and its validation twin."""
    metric = main_metric(state)
    return metric.pair(state.series) if metric is not None else (None, None)


def x_labels(ticks: Sequence[Tick], x: XScale, width: int) -> str:
    """Tick labels centred under their place, without touching each other."""
    line = [" "] * width
    free_from = 0
    for tick in ticks:
        cell = x.cell(tick.value)
        if cell is None:
            continue
        start = GUTTER + cell - len(tick.label) // 2
        start = max(min(start, width - len(tick.label)), 0)
        if start < free_from:
            continue
        line[start : start + len(tick.label)] = tick.label
        free_from = start + len(tick.label) + 2
    return "".join(line[:width])
