"""What the keys of the group `Chart` do, for any screen that shows a ChartStack."""

from __future__ import annotations

from typing import Any

from ckpt_tui.tui.widgets.charts import ChartStack


class ChartActions:
    """Mixed into a screen; the screen says which chart is meant."""

    app: Any

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
            self.app.notify(f"{name} is {words}.", markup=False)

    def action_metrics(self) -> None:
        from ckpt_tui.tui.dialogs.metrics import MetricPicker

        chart = self.chart
        if chart.state is None or not chart.state.series:
            self.app.notify("There is no metric yet.", markup=False)
            return
        picker = MetricPicker(
            chart.state, shown=chart.shown_metric, pins=lambda: chart.pins, toggle_pin=chart.toggle_pin,
            unicode=chart.unicode,
        )  # fmt: skip
        self.app.push_screen(picker, lambda name: chart.show_metric(name) if name else None)
