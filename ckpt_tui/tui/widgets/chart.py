"""The loss curves: train and validation, what was abandoned, ticks, a cursor. Window and axis are moved by keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from textual import events
from textual.message import Message

from ckpt_tui.records import dataclass
from ckpt_tui.run.fold import MAX_GPUS
from ckpt_tui.run.state import RunState, Series
from ckpt_tui.tui import plot
from ckpt_tui.tui.scale import Tick, XScale, nice_step, step_ticks, time_ticks
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget

GUTTER = 7  # cells left of the plot: a tick's label and the axis; lanes under the chart keep the same
MARGIN = 1  # right of the plot
MIN_STEPS_IN_VIEW = 8.0
MIN_SECONDS_IN_VIEW = 5.0


@dataclass(frozen=True, slots=True)
class View:
    """What part of the run is in view. window: its width, None for all of it. end: its right end when frozen,
    None while it follows the run. cursor: an x, None when there is no cursor."""

    axis: str = "step"
    is_log: bool = False
    window: float | None = None
    end: float | None = None
    cursor: float | None = None

    @property
    def words(self) -> str:
        if self.end is not None:
            return "frozen"
        return "live" if self.window is not None else "all"


class Chart(LinesWidget):
    """`train` and `val` of a RunState. The readout of the cursor goes to whoever listens to `Changed`."""

    class Changed(Message):
        """The x axis, the cursor or a mode changed: lanes and legend follow."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self.view = View()
        self.x: XScale | None = None
        self.train: Series | None = None
        self.val: Series | None = None
        self.num_bad = 0
        self._state: RunState | None = None
        self._told: object = None

    # -- what is shown ------------------------------------------------------------------------------------------

    def set_state(self, state: RunState) -> None:
        """Show `state`; lines that stay as they are are not drawn again."""
        self._state = state
        self.train, self.val = train_and_val(state)
        self.show()

    def show(self) -> None:
        width = self.size.width - GUTTER - MARGIN
        self.x = self._x_scale(width) if width > 2 else None
        super().show()
        told = (self.x, self.view, self.num_bad)
        if told != self._told:
            self._told = told
            self.post_message(self.Changed())

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        """The plot with its tick labels, and a line of x labels under it."""
        if self.x is None:
            text = (
                "waiting for the first step" if self._state is None or not self._state.num_events else "no metric yet"
            )
            lines: list[Cells] = [() for _ in range(height)]
            lines[height // 2] = ((" " * max((width - len(text)) // 2, 0) + text, "dim"),)
            return lines
        plot_height = max(height - 1, 1)
        curves = plot.curves_of(self.train, self.val, self.x, unicode=self.unicode)
        drawn = plot.draw(curves, self.x, plot_height, is_log=self.view.is_log, unicode=self.unicode)
        self.num_bad = drawn.num_bad
        cursor = self.x.cell(self.view.cursor) if self.view.cursor is not None else None
        lines = []
        for row, cells in enumerate(drawn.rows):
            label = drawn.labels.get(row, "")
            axis = ("┤" if label else "│") if self.unicode else ("+" if label else "|")
            marked = cells if cursor is None else plot.with_cursor(cells, cursor, self.unicode)
            lines.append(((f"{label:>{GUTTER - 1}}{axis}", "axis"), *marked))
        lines.append(((x_labels(self._x_ticks(), self.x, width), "axis"),))
        return lines[:height]

    def _x_ticks(self) -> tuple[Tick, ...]:
        assert self.x is not None
        most = max(self.x.width // 12, 2)
        if self.x.axis == "time":
            origin = self._state.start_ts if self._state and self._state.start_ts is not None else self.x.x0
            return time_ticks(self.x.x0, self.x.x1, origin, most)
        return step_ticks(self.x.x0, self.x.x1, most)

    def _x_scale(self, width: int) -> XScale | None:
        found = plot.extent((self.train, self.val), self.view.axis)
        if found is None:
            return None
        first, last = found
        least = MIN_STEPS_IN_VIEW if self.view.axis == "step" else MIN_SECONDS_IN_VIEW
        if self.view.axis == "step" and first <= (last - first) * 0.05:
            first = 0.0
        if self.view.end is not None:
            window = self.view.window or max(last - first, least)
            return XScale(self.view.axis, self.view.end - window, self.view.end, width)
        # The right end moves in jumps of a twentieth, not with every step: or the whole chart is sent each tick.
        is_over = self._state is not None and self._state.phase.is_over
        window = self.view.window if self.view.window is not None else max(last - first, least)
        if not is_over:
            jump = nice_step(max(window, least), 20)
            origin = first if self.view.axis == "time" else 0.0
            last = origin + math.ceil((last - origin) / jump) * jump
        if self.view.window is None:
            return XScale(self.view.axis, first, max(last, first + least), width)
        return XScale(self.view.axis, last - window, last, width)

    # -- keys ---------------------------------------------------------------------------------------------------

    def change(self, view: View) -> None:
        if view != self.view:
            self.view = view
            self.show()

    def zoom(self, factor: float) -> None:
        """A narrower (factor < 1) or wider window, around the cursor if there is one, else at the same end."""
        if self.x is None:
            return
        found = plot.extent((self.train, self.val), self.view.axis)
        assert found is not None
        least = MIN_STEPS_IN_VIEW if self.view.axis == "step" else MIN_SECONDS_IN_VIEW
        span = max(found[1] - found[0], least)
        window = max((self.x.x1 - self.x.x0) * factor, least)
        if window >= span * 1.01:
            self.change(replace(self.view, window=None, end=None))
            return
        end = self.view.end
        if self.view.cursor is not None:
            share = (self.view.cursor - self.x.x0) / (self.x.x1 - self.x.x0)
            end = self.view.cursor + (1 - share) * window
        self.change(replace(self.view, window=window, end=end))

    def pan(self, share: float) -> None:
        """Move the window by a share of its width; at the run's end it follows the run again."""
        if self.x is None or self.view.window is None:
            return
        found = plot.extent((self.train, self.val), self.view.axis)
        assert found is not None
        end = self.x.x1 + share * self.view.window
        end = max(end, found[0] + self.view.window)
        self.change(replace(self.view, end=None if end >= found[1] else end))

    def toggle_frozen(self) -> None:
        if self.view.end is not None:
            self.change(replace(self.view, end=None))
        elif self.x is not None:
            self.change(replace(self.view, window=self.x.x1 - self.x.x0, end=self.x.x1))

    def show_all(self) -> None:
        self.change(replace(self.view, window=None, end=None))

    def toggle_log(self) -> None:
        self.change(replace(self.view, is_log=not self.view.is_log))

    def toggle_axis(self) -> None:
        axis = "time" if self.view.axis == "step" else "step"
        self.change(View(axis=axis, is_log=self.view.is_log))

    def move_cursor(self, cells: int) -> None:
        if self.x is None:
            return
        if self.view.cursor is None:
            found = plot.extent((self.train, self.val), self.view.axis)
            start = self.x.cell(found[1]) if found else None
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

    def on_click(self, event: events.Click) -> None:
        cell = event.x - GUTTER
        if self.x is not None and 0 <= cell < self.x.width:
            self.change(replace(self.view, cursor=self.x.value(cell)))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.zoom(0.5)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.zoom(2.0)

    def cursor_points(self) -> tuple[plot.Point | None, plot.Point | None]:
        """What train and val say at the cursor."""
        if self.view.cursor is None:
            return None, None
        at = self.view.cursor
        return plot.point_near(self.train, self.view.axis, at), plot.point_near(self.val, self.view.axis, at)


VAL_NAMES = ("val_loss", "eval_loss")
# How the machine is doing is no curve of the training.
MACHINE_NAMES = frozenset({"cpu_percent", "rss_bytes"}) | {
    f"gpu{position}_{what}" for position in range(MAX_GPUS) for what in ("percent", "memory_bytes")
}


def train_and_val(state: RunState) -> tuple[Series | None, Series | None]:
    """The two lines of the chart: `loss` (or train_loss, or the first metric there is), and `val_loss`."""
    series = state.series
    val = next((series[name] for name in VAL_NAMES if name in series), None)
    train = next((series[name] for name in ("loss", "train_loss") if name in series), None)
    if train is None:
        others = (one for name, one in series.items() if name not in VAL_NAMES and name not in MACHINE_NAMES)
        train = next(others, None)
    return train, val


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
