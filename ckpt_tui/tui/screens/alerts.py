"""The alerts of a run, newest first: when, at which step, how bad, what; acknowledged ones stay, dim."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen

from ckpt_tui.run.state import Alert
from ckpt_tui.text import count, plural, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.alerting import Alerting
from ckpt_tui.tui.base_app import OfTheWatch
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.facts import Part, clock_words
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

COLUMNS = (
    Column("", 9),
    Column("since", 11, align="right", priority=2),
    Column("step", 9, align="right"),
    Column("what", 10, grows=True),
    Column("", 5, priority=1),
)
GLYPHS = {"error": "✖", "warning": "▲"}
COUNTED_KINDS = frozenset({"nonfinite", "save_failed"})  # of others the count is of points, and the steps say more
LOOK_INTERVAL_S = 1.0
NOTHING = "No alert. Losses that are not finite, spikes, stalls, failed saves and the like are listed here."


def severity_cell(alert: Alert, *, is_acknowledged: bool) -> tuple[str, str]:
    """`✖ error`, `▲ warning`, in its colour while it needs somebody."""
    words = f"{GLYPHS.get(alert.severity, '·')} {alert.severity}"
    return words, "dim" if is_acknowledged else alert.severity


def cells_of(alert: Alert, now: float, *, is_acknowledged: bool) -> tuple[Cell, ...]:
    """A row: severity, since when, from which step, what and how long."""
    detail = f": {alert.detail}" if alert.detail else ""
    upto = f", until step {count(alert.last_step)}" if alert.is_over and alert.last_step > alert.step else ""
    words = safe_text(f"{alert.title}{detail}{upto}", 400)
    role = "dim" if is_acknowledged or alert.is_over else ""
    state = "seen" if is_acknowledged else "over" if alert.is_over else "now"
    return (
        severity_cell(alert, is_acknowledged=is_acknowledged or alert.is_over),
        (clock_words(alert.ts, now)[-11:], role), (count(alert.step), role), (words, role),
        (state, "strong" if state == "now" else "dim"),
    )  # fmt: skip


def head_parts(alerting: Alerting) -> list[Part]:
    """`alerts   2 now, 1 of them seen, 3 over`."""
    alerts = alerting.alerts
    going_on = [alert for alert in alerts if not alert.is_over]
    seen = sum(alerting.is_acknowledged(alert) for alert in going_on)
    parts: list[Part] = [("alerts", "strong")]
    if alerts:
        worst = "error" if any(a.severity == "error" for a in going_on) else "warning" if going_on else "dim"
        parts.append((f"   {len(going_on)} now", worst if seen < len(going_on) else "dim"))
        parts.append((f"{f', {seen} of them seen' if seen else ''}, {len(alerts) - len(going_on)} over", "dim"))
    return parts


class _Lines(LinesWidget):
    """A few lines of text that are told."""

    def __init__(self, id: str) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._told: list[Cells] = []

    def tell(self, lines: list[Cells]) -> None:
        self._told = lines
        self.show()

    def lines_now(self, width: int, height: int) -> list[Cells]:
        return self._told[:height]


class AlertsScreen(OfTheWatch, Screen[None]):
    """Opened over the overview; shows what comes while it is open."""

    CSS = """
    AlertsScreen {
        #alerts_head { height: 1; }
        #alerts { height: 1fr; }
        #alerts_detail { height: 3; padding: 0; }
    }
    """
    AUTO_FOCUS = "#alerts"
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.ALERTS_KEYS)

    @property
    def alerting(self) -> Alerting:
        return self.cockpit.run_open.alerting

    @property
    def alert_list(self) -> VirtualList[Alert]:
        return self.query_one("#alerts", VirtualList)

    def compose(self) -> ComposeResult:
        yield _Lines("alerts_head")
        yield VirtualList[Alert](COLUMNS, self._cells, key=lambda alert: alert.key, empty_text=NOTHING, id="alerts")
        yield _Lines("alerts_detail")
        yield KeyLine()

    def on_mount(self) -> None:
        self._told: object = None
        self._look()
        # Reads what the app has: nothing is sent while nothing has changed.
        self.set_interval(LOOK_INTERVAL_S, self._look)

    def on_resize(self) -> None:
        self._show_detail()

    def _cells(self, alert: Alert) -> tuple[Cell, ...]:
        state = self.cockpit.state
        now = state.now if state is not None else 0.0
        return cells_of(alert, now, is_acknowledged=self.alerting.is_acknowledged(alert))

    def _look(self) -> None:
        alerts = self.alerting.alerts
        told = [(alert, self.alerting.is_acknowledged(alert)) for alert in alerts]
        if told == self._told:
            return
        self._told = told
        self.query_one("#alerts_head", _Lines).tell([(("  ", ""), *head_parts(self.alerting))])
        self.alert_list.set_rows(alerts)
        self.alert_list.refresh()
        self._show_detail()

    def on_virtual_list_moved(self) -> None:
        self._show_detail()

    def _show_detail(self) -> None:
        """The alert under the cursor in full, in as many lines as there are."""
        alert = self.alert_list.cursor_row
        width = max(self.size.width - 4, 10)
        lines: list[Cells] = []
        if alert is not None:
            for words in wrapped_words(detail_words(alert), width)[:3]:
                lines.append((("  ", ""), (words, "")))
        self.query_one("#alerts_detail", _Lines).tell(lines)

    def to_copy(self) -> Copied | None:
        alert = self.alert_list.cursor_row
        return Copied("alert", detail_words(alert)) if alert is not None else None

    # -- keys ---------------------------------------------------------------------------------------------------

    def action_acknowledge(self) -> None:
        alert = self.alert_list.cursor_row
        if alert is None:
            return
        self.alerting.acknowledge([alert], not self.alerting.is_acknowledged(alert))
        self._say_if_not_kept()
        self.alert_list.action_move(1)
        self._look()

    def action_acknowledge_all(self) -> None:
        self.alerting.acknowledge(self.alerting.alerts)
        self._say_if_not_kept()
        self._look()

    def _say_if_not_kept(self) -> None:
        if not self.alerting.is_kept:
            self.cockpit.say("Acknowledged until you leave: there is no place to keep it ($XDG_STATE_HOME).")

    def action_leave(self) -> None:
        self.dismiss(None)
        self.cockpit.overview.acknowledged()


def detail_words(alert: Alert) -> str:
    """An alert in full: `Loss spike, steps 5,120 to 5,162, 40 times: loss up to ...`."""
    place = f"step {count(alert.step)}"
    if alert.last_step > alert.step:
        place = f"steps {count(alert.step)} to {count(alert.last_step)}"
    often = f", {plural(alert.count, 'time')}" if alert.count > 1 and alert.kind in COUNTED_KINDS else ""
    detail = f": {alert.detail}" if alert.detail else ""
    return safe_text(f"{alert.title}, {place}{often}{detail}", 1000)


def wrapped_words(words: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(words, width) or [""]
