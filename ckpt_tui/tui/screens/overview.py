"""Overview: is the run fine, how its curves go, what happened, its sessions and checkpoints."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer

from ckpt_tui.errors import CkptError
from ckpt_tui.run.state import RunState
from ckpt_tui.text import count, metric, plural, safe_text
from ckpt_tui.tui import facts, keys
from ckpt_tui.tui.facts import Part
from ckpt_tui.tui.widgets import checkpoint_list, session_lanes
from ckpt_tui.tui.widgets.chart import Chart
from ckpt_tui.tui.widgets.checkpoint_list import CheckpointList, CheckpointRow
from ckpt_tui.tui.widgets.event_lane import EventLane
from ckpt_tui.tui.widgets.feed import Feed
from ckpt_tui.tui.widgets.header import Header
from ckpt_tui.tui.widgets.rule import RuleLine
from ckpt_tui.tui.widgets.session_lanes import SessionLanes

if TYPE_CHECKING:
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.tui.app import CkptTuiApp

MAX_DAMAGE_LINES = 2
NEEDS_LIST = frozenset({"inspect", "validate", "mark", "diff", "restore"})


class OverviewScreen(Screen[None]):
    """The first screen. The app gives it every new state; it keeps nothing that is not on the screen."""

    CSS_PATH = "overview.tcss"
    AUTO_FOCUS = "#checkpoints"
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.OVERVIEW_KEYS)

    def __init__(self) -> None:
        super().__init__()
        self.state: RunState | None = None
        self.catalog: Catalog | None = None
        self.marked: str | None = None
        self._progress: float | None = None
        self._failure: CkptError | None = None

    @property
    def cockpit(self) -> CkptTuiApp:
        app: Any = self.app
        return app  # type: ignore[no-any-return]

    # -- layout -------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        unicode = self.cockpit.look.unicode
        yield Header(unicode=unicode, id="header")
        yield RuleLine(unicode=unicode, id="chart_rule")
        yield Chart(unicode=unicode, id="chart")
        yield EventLane(unicode=unicode, id="lane")
        yield RuleLine(unicode=unicode, id="sessions_rule")
        yield SessionLanes(unicode=unicode, id="sessions")
        with Horizontal(id="rules"):
            yield RuleLine(unicode=unicode, id="list_rule")
            yield RuleLine(unicode=unicode, id="feed_rule")
        with Horizontal(id="bottom"):
            yield CheckpointList(unicode=unicode, id="checkpoints")
            yield Feed(id="feed")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.query_one("#list_rule", RuleLine).set("checkpoints", ())
        self.query_one("#feed_rule", RuleLine).set("events", ())
        self._show_chart_rule()

    def on_resize(self) -> None:
        self.refresh_bindings()  # what has no room cannot be acted on

    @property
    def chart(self) -> Chart:
        return self.query_one("#chart", Chart)

    @property
    def checkpoints(self) -> CheckpointList:
        return self.query_one("#checkpoints", CheckpointList)

    # -- new facts ----------------------------------------------------------------------------------------------

    def show_state(self, state: RunState, progress: float | None = None) -> None:
        """Show `state`; only lines that changed are sent."""
        self.state, self._progress, self._failure = state, progress, None
        with self.app.batch_update():
            self._show_header()
            self.chart.set_state(state)
            self._show_lane()
            self._show_sessions(state)
            self._show_list()
            self.query_one("#feed", Feed).set_feed(state.feed)

    def show_catalog(self, catalog: Catalog) -> None:
        self.catalog = catalog
        if self.state is not None:
            with self.app.batch_update():
                self._show_header()
                self._show_list()

    def show_failure(self, error: CkptError) -> None:
        """The log or the directory cannot be read: said in the header until it can be again."""
        self._failure = error
        self._show_header()

    def _show_header(self) -> None:
        state = self.state or RunState(now=0.0)
        self.query_one("#header", Header).set_state(
            state, self._progress, self._warnings(state), self._next_keys(state)
        )

    def _warnings(self, state: RunState) -> list[list[Part]]:
        warnings: list[list[Part]] = []
        if self._failure is not None:
            message = f": {self._failure.message}" if self._failure.message else ""
            warnings.append([(safe_text(f"{self._failure.title}{message}", 300), "error")])
        damaged = (
            [entry for entry in self.catalog.entries if entry.validity in ("damaged", "nonfinite")]
            if self.catalog
            else []
        )
        for entry in damaged[:MAX_DAMAGE_LINES]:
            note = f": {safe_text(entry.note, 120)}" if entry.note else ""
            word = "is damaged" if entry.validity == "damaged" else "has values that are not finite"
            backup = self._backup_of(entry.name)
            warnings.append([
                (f"{safe_text(entry.name, 60)} {word}", "error"),
                    (f", {safe_text(backup, 60)} is valid" if backup else "", ""),
                    (f"{note}.", "dim"),
            ])  # fmt: skip
        if len(damaged) > MAX_DAMAGE_LINES:
            warnings.append([(f"{plural(len(damaged) - MAX_DAMAGE_LINES, 'more damaged checkpoint')}.", "error")])
        return warnings

    def _backup_of(self, name: str) -> str | None:
        entries = self.catalog.entries if self.catalog else ()
        return next((entry.name for entry in entries if entry.backup_of == name and entry.validity == "valid"), None)

    def _next_keys(self, state: RunState) -> list[tuple[str, str]]:
        next_keys = []
        if not self.cockpit.readonly:
            risk = state.at_risk
            takes = self.catalog.resume_would_take if self.catalog else risk.checkpoint if risk else None
            if takes:
                next_keys.append(("r", f"resume from {facts.checkpoint_words(takes, state.saves)}"))
            damaged = (
                [entry.name for entry in self.catalog.entries if entry.validity == "damaged"] if self.catalog else []
            )
            mendable = [name for name in damaged if self._backup_of(name)]
            next_keys.append(("b", f"restore {safe_text(mendable[0], 40)}") if mendable else ("b", "roll back"))
        next_keys.append(("e", "last events"))
        return next_keys

    @on(Chart.Changed)
    def _show_lane(self) -> None:
        if self.state is not None:
            self.query_one("#lane", EventLane).set_markers(self.state.markers, self.chart.x)
        self._show_chart_rule()

    def _show_chart_rule(self) -> None:
        chart = self.chart
        title = chart.train.name if chart.train else "loss"
        rule = self.query_one("#chart_rule", RuleLine)
        if chart.view.cursor is not None and self.state is not None:
            rule.set(title, self._readout())
            return
        unicode = chart.unicode
        parts: list[Part] = [(chart.view.words, "accent" if chart.view.words == "frozen" else "dim")]
        if chart.view.is_log:
            parts.append((", log y", "dim"))
        parts.append((f", by {chart.view.axis}", "dim"))
        if chart.train is not None:
            parts.append(("   ━ train" if unicode else "   * train", "train"))
        if chart.val is not None:
            parts.append(("  ╌ val" if unicode else "  o val", "val"))
        if chart.train is not None and any(segment.abandoned_after is not None for segment in chart.train.segments):
            parts.append(("  ━ abandoned" if unicode else "  . abandoned", "abandoned"))
        if chart.num_bad:
            parts.append(("  × not finite" if unicode else "  x not finite", "bad"))
        rule.set(title, parts)

    def _readout(self) -> list[Part]:
        state, chart = self.state, self.chart
        assert state is not None
        train, val = chart.cursor_points()
        point = train or val
        if point is None:
            return [("nothing here", "dim")]
        parts: list[Part] = [
            (f"step {count(point.step)}", "strong"),
            (f"  {facts.clock_words(point.ts, state.now)}", "dim"),
        ]
        if train is not None:
            parts.append((f"  {metric(train.last)}", "train"))
            if train.hi > train.lo:
                parts.append((f" ({metric(train.lo)} - {metric(train.hi)})", "dim"))
            if train.is_abandoned:
                parts.append((" abandoned", "warning"))
        if val is not None:
            parts.append((f"  val {metric(val.last)} at {count(val.step)}", "val"))
        save = min(
            (save for save in state.saves if not save.removed), key=lambda one: abs(one.step - point.step), default=None
        )
        if save is not None:
            parts.append((f"  {safe_text(save.kind, 20)} {count(save.step)}", "accent"))
        return parts

    def _show_sessions(self, state: RunState) -> None:
        lanes = self.query_one("#sessions", SessionLanes)
        most = 2 if self.app.size.height < 34 else 6
        shown = max(min(len(state.sessions), most), 1)
        if lanes.styles.height is None or lanes.styles.height.value != shown:
            lanes.styles.height = shown
        lanes.set_state(state)
        parts: list[Part] = []
        if len(state.sessions) > 1 or state.lost.steps:
            for index, name in enumerate(session_lanes.LEGEND):
                glyph, plain, role = session_lanes.PARTS[name]
                parts.append((f"{'  ' if index else ''}{glyph if lanes.unicode else plain} {name}", role))
        hidden = len(state.sessions) - shown
        title = "sessions" if hidden <= 0 else f"sessions, {plural(hidden, 'earlier one')} not shown"
        if state.lost.steps:
            overhead = (
                f", {100 * state.lost.overhead:.0f} % overhead"
                if state.lost.overhead is not None and self.app.size.width >= 100
                else ""
            )
            title += f": {plural(state.lost.steps, 'step')} lost{overhead}"
        self.query_one("#sessions_rule", RuleLine).set(title, parts)

    def _show_list(self) -> None:
        if self.state is None:
            return
        rows = checkpoint_list.rows_of(self.state, self.catalog, self.marked)
        # At the top it stays at the newest; elsewhere it stays on its checkpoint.
        self.checkpoints.set_rows(rows, keep_cursor=self.checkpoints.cursor > 0)
        self.query_one("#list_rule", RuleLine).set(
            "checkpoints", [(checkpoint_list.summary(rows, self.catalog), "dim")] if rows else []
        )

    # -- keys ---------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.has_class("-short") and action in NEEDS_LIST:
            return False  # nobody shall act on a list that is not to be seen
        return not (self.cockpit.readonly and keys.is_act(action))

    def _row(self) -> CheckpointRow | None:
        return self.checkpoints.cursor_row

    def _path(self, name: str) -> str:
        return os.path.join(self.cockpit.directory, name)

    @on(CheckpointList.Selected, "#checkpoints")
    def action_inspect(self) -> None:
        if (row := self._row()) is not None:
            self.cockpit.open_screen("inspect", self._path(row.name))

    def action_validate(self) -> None:
        if (row := self._row()) is not None:
            self.cockpit.open_screen("validate", [self._path(row.name)])

    def action_validate_all(self) -> None:
        self.cockpit.open_screen("validate", [self.cockpit.directory])

    def action_mark(self) -> None:
        if (row := self._row()) is not None:
            self.marked = None if self.marked == row.name else row.name
            self._show_list()

    def action_diff(self) -> None:
        pair = diff_pair(self.checkpoints.rows, self._row(), self.marked)
        if pair is None:
            self.app.notify("There is no earlier checkpoint to compare it with.", markup=False)
            return
        self.cockpit.open_screen("diff", self._path(pair[0]), self._path(pair[1]))

    def action_resume(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.resume)

    def action_restore(self) -> None:
        row = self._row()
        names = (row.name,) if row is not None and row.validity == "damaged" else ()
        otherwise = row.name if row is not None else None
        self.cockpit.acts.start(lambda: self.cockpit.acts.restore(names, otherwise))

    def action_undo(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.undo)

    def action_stop(self) -> None:
        pid = self.state.pid if self.state is not None else 0
        self.cockpit.acts.start(lambda: self.cockpit.acts.stop(pid))

    def action_events(self) -> None:
        self.cockpit.open_screen("events", self._log_path())

    def action_bad_lines(self) -> None:
        self.cockpit.open_screen("events", self._log_path(), only_bad=True)

    def _log_path(self) -> str:
        return self.cockpit.path

    def action_log(self) -> None:
        session = self.state.session if self.state is not None else 0
        path = self._path(f"session_{session}.log")
        if not Path(path).is_file():
            self.cockpit.show_error(
                CkptError(
                    "No output",
                    f"there is no session_{session}.log in the run directory",
                    "Only sessions that ckpt-tui has started write one.",
                )
            )
            return
        self.cockpit.open_screen("log", path)

    def action_feed(self) -> None:
        if "-wide" in self.classes or self.app.size.width >= 110:
            target = "#feed" if self.checkpoints.has_focus else "#checkpoints"
            self.query_one(target).focus()
            return
        self.toggle_class("-feed")
        self.query_one("#feed" if self.has_class("-feed") else "#checkpoints").focus()

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

    def action_axis(self) -> None:
        self.chart.toggle_axis()

    def action_cursor(self, cells: int) -> None:
        self.chart.move_cursor(cells)

    def action_hide_cursor(self) -> None:
        self.chart.hide_cursor()


def diff_pair(rows: Sequence[CheckpointRow], row: CheckpointRow | None, marked: str | None) -> tuple[str, str] | None:
    """The two to compare, the earlier first: with the marked one, or with the next earlier step in the list."""
    if row is None:
        return None
    if marked is not None and marked != row.name:
        other = next((one for one in rows if one.name == marked), None)
        if other is not None:
            first, second = sorted((other, row), key=lambda one: one.step or 0)
            return first.name, second.name
    step = row.step or 0
    earlier = [one for one in rows if one.step is not None and one.step < step]
    if not earlier:
        return None
    return max(earlier, key=lambda one: one.step or 0).name, row.name
