"""What the keys of the group `Chart` do, for any screen that shows a ChartStack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckpt_tui.text import safe_text
from ckpt_tui.tui import view
from ckpt_tui.tui.widgets.charts import ChartStack

if TYPE_CHECKING:
    from ckpt_tui.run.moment import Moment
    from ckpt_tui.tui.dialogs.moment import MomentDialog

_OF_NO_USE = frozenset({"damaged", "nonfinite", "unsafe", "not-a-checkpoint", "unreadable"})

NEWEST = "the newest step"


class ChartActions:
    """Mixed into a screen; the screen says which chart is meant."""

    app: Any
    _moment: tuple[MomentDialog, Callable[[Mapping[str, str]], Moment | None]] | None = None

    @property
    def chart(self) -> ChartStack:
        raise NotImplementedError

    def action_zoom(self, factor: float) -> None:
        self.chart.zoom(factor)

    def action_pan(self, share: float) -> None:
        self.chart.pan(share)

    def action_show_all(self) -> None:
        self.chart.show_all()

    def action_freeze(self) -> None:
        self.chart.toggle_frozen()

    def action_log_y(self) -> None:
        self.chart.toggle_log()

    def action_y_range(self) -> None:
        self.chart.next_y_range()

    def action_axis(self) -> None:
        self.chart.toggle_axis()

    def action_smoothing(self) -> None:
        self.chart.next_smoothing()

    def action_cursor(self, cells: int) -> None:
        self.chart.move_cursor(cells)

    def action_hide_cursor(self) -> None:
        self.chart.hide_cursor()

    def action_metric(self, by: int) -> None:
        self.chart.next_metric(by)

    def action_pin(self) -> None:
        """Pin what the main chart shows, or take its pin away."""
        name = self.chart.shown_metric
        if name:
            is_pinned = self.chart.toggle_pin(name)
            words = "pinned: it stays under the chart when another metric is shown" if is_pinned else "no longer pinned"
            self.app.say(f"{safe_text(name, 60)} is {words}.")

    def action_metrics(self) -> None:
        from ckpt_tui.tui.dialogs.metrics import MetricPicker

        chart = self.chart
        if chart.state is None or not chart.state.series:
            self.app.say("There is no metric yet.")
            return
        picker = MetricPicker(
            chart.state, shown=chart.shown_metric, pins=lambda: chart.pins, toggle_pin=chart.toggle_pin,
            unicode=chart.unicode,
        )  # fmt: skip
        self.app.push_screen(picker, lambda name: chart.show_metric(name) if name else None)

    def action_moment(self) -> None:
        """What happened at the cursor; without one, at the worst spike, or else at the newest step."""
        from ckpt_tui.run.moment import moment, worst_spike
        from ckpt_tui.tui.dialogs.moment import MomentDialog

        chart = self.chart
        state = chart.state
        if state is None:
            return
        point = next((point for _, point in chart.points()), None)
        session, why = None, "at the cursor"
        if point is not None:
            step, session = point.peak_step, point.session if point.is_abandoned or chart.view.axis == "time" else None
        else:
            spike = worst_spike(state)
            step, why = (spike, "the worst spike") if spike is not None else (state.step, NEWEST)

        def tell(validity: Mapping[str, str]) -> Moment | None:
            bad = [name for name, word in validity.items() if word in _OF_NO_USE]
            return moment(state, step, session=session, bad_checkpoints=bad, is_trouble=why != NEWEST)

        validity = self.checkpoint_validity()
        told = tell(validity)
        if told is None:
            self.app.say("No metric was told there.")
            return
        dialog = MomentDialog(
            told, why=why, validity=validity, can_act=not getattr(self.app, "readonly", False), unicode=chart.unicode
        )
        self._moment = (dialog, tell)

        def close(name: str | None) -> None:
            self._moment = None
            if name:
                self.go_to_checkpoint(name)

        self.app.push_screen(dialog, close)

    def show_validity_in_moment(self) -> None:
        """The files were looked at: a dialog that is open tells of it, too."""
        if self._moment is None:
            return
        dialog, tell = self._moment
        validity = self.checkpoint_validity()
        told = tell(validity)
        if told is not None and dialog.is_mounted:
            dialog.show_way_back(told, validity)

    def go_to_step(self, step: int) -> None:
        """The cursor to a step, on an axis of steps; all of the run when the step is not in view."""
        chart = self.chart
        extent = chart.extent()
        if extent is None:
            return
        shown = chart.view if chart.view.axis == "step" else view.with_axis(chart.view, "step")
        chart.change(replace(shown, cursor=float(step)))
        if chart.cursor_cell() is None:
            chart.change(replace(shown, window=None, end=None, cursor=min(max(float(step), extent[0]), extent[1])))

    def checkpoint_validity(self) -> Mapping[str, str]:
        """Of each checkpoint's name the word that the list has for it; a screen with a list knows."""
        return {}

    def go_to_checkpoint(self, name: str) -> None:
        """Put the list's cursor on it; a screen with a list does."""
