"""Runs beside each other: their curves on top of each other, what came of each, and the settings that differ.

The logs are read in a thread, all of them at the same time, and followed while a run is alive.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.message import Message
from textual.screen import Screen

from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.run import comparison
from ckpt_tui.run.comparison import LETTERS, MAX_RUNS, Setting
from ckpt_tui.run.epochs import epochs_of
from ckpt_tui.run.metrics import Metric
from ckpt_tui.run.state import RunState
from ckpt_tui.text import safe_text
from ckpt_tui.tui import compare_rows, keys
from ckpt_tui.tui.base_app import OfTheWatch, app_of
from ckpt_tui.tui.compare_rows import Compared
from ckpt_tui.tui.legend import legend
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.screens.chart_actions import ChartActions
from ckpt_tui.tui.screens.work import worker_is_cancelled
from ckpt_tui.tui.session import what_shows
from ckpt_tui.tui.widgets.chart import Chart
from ckpt_tui.tui.widgets.charts import ChartStack
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget
from ckpt_tui.tui.widgets.rule import RuleLine
from ckpt_tui.tui.widgets.virtual_list import VirtualList

if TYPE_CHECKING:
    from ckpt_tui.services.monitor import RunMonitor

SLICE_S = 0.2
SHOW_EVERY_S = 0.5  # while the logs are being read
READ_BUDGET_S = 0.1


@dataclass(frozen=True, slots=True)
class Read:
    """How far the reading of one run is."""

    state: RunState | None = None
    error: str = ""
    progress: float = 0.0


class RunsRead(Message):
    """All runs as they stand now, in order."""

    def __init__(self, reads: tuple[Read, ...]) -> None:
        super().__init__()
        self.reads = reads

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, RunsRead)


class FactsTable(LinesWidget):
    """A line for each run."""

    def __init__(self, num_runs: int, *, unicode: bool) -> None:
        super().__init__(id="facts")
        self._unicode = unicode
        self._runs: Sequence[Compared] = ()
        self.styles.height = num_runs + 1

    def set_runs(self, runs: Sequence[Compared]) -> None:
        self._runs = runs
        self.show()

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        return compare_rows.fact_lines(self._runs, width, unicode=self._unicode)[:height]


class CompareScreen(OfTheWatch, ChartActions, Screen[None]):
    """Compares the runs at `paths`, called `names`. Two to eight of them."""

    CSS = """
    CompareScreen {
        #chart { height: 3fr; min-height: 4; }
        #settings { height: 2; }
        &.-short {
            #settings, #settings_rule, #facts { display: none; }
            &.-facts #facts { display: block; }
            &.-settings { #settings, #settings_rule { display: block; } }
            &.-facts, &.-settings { #chart, #chart_rule { display: none; } }
        }
    }
    """
    AUTO_FOCUS = "#settings"
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.COMPARE_KEYS)

    def __init__(self, paths: Sequence[str], names: Sequence[str], *, metric: str | None = None) -> None:
        if not 2 <= len(paths) <= MAX_RUNS:
            raise CkptError("Compare", f"{len(paths)} runs cannot be compared", f"Two to {MAX_RUNS} can.")
        super().__init__()
        self.paths = list(paths)
        self.names = comparison.names_that_tell_apart(names)
        self.reads: tuple[Read, ...] = ()
        self.metric: Metric | None = None
        self._wanted = metric  # by name, until a run that has it is read
        self._has_chosen = False
        self._configs: list[Mapping[str, object]] = []
        self._settings: list[Setting] = []
        self._differing: list[Setting] = []

    def compose(self) -> ComposeResult:
        unicode = self.cockpit.look.unicode
        yield RuleLine(unicode=unicode, id="chart_rule")
        yield ChartStack(unicode=unicode, id="chart")
        yield FactsTable(len(self.paths), unicode=unicode)
        yield RuleLine(unicode=unicode, id="settings_rule")
        yield VirtualList[Setting](
            compare_rows.setting_columns((), len(self.paths), self.app.size.width), compare_rows.setting_cells,
            key=lambda setting: setting.key, empty_text="", id="settings",
        )  # fmt: skip
        yield KeyLine()

    def on_mount(self) -> None:
        self._show_facts()
        self.run_worker(self._read, name="compare", group="compare", thread=True, exit_on_error=False)

    def on_resize(self) -> None:
        self._show_chart_rule()
        self._show_settings()
        self.refresh_bindings()  # whether all parts have room

    @property
    def chart(self) -> ChartStack:
        return self.query_one("#chart", ChartStack)

    @property
    def setting_list(self) -> VirtualList[Setting]:
        return self.query_one("#settings", VirtualList)

    @property
    def states(self) -> list[RunState]:
        return [read.state for read in self.reads if read.state is not None]

    # -- reading, in a thread -----------------------------------------------------------------------------------

    def _read(self) -> None:
        is_cancelled = worker_is_cancelled()
        monitors = [_opened(path) for path in self.paths]
        reads = [Read(error=one) if isinstance(one, str) else Read() for one in monitors]
        told: object = None
        told_at = 0.0
        while not is_cancelled() and self.app.is_running:
            ends = time.monotonic() + self.cockpit.interval_s
            for index, monitor in enumerate(monitors):
                if not isinstance(monitor, str):
                    reads[index] = _read_on(monitor, reads[index])
                if is_cancelled():
                    return
            is_all_read = all(
                isinstance(one, str) or one.is_caught_up or read.error
                for one, read in zip(monitors, reads, strict=True)
            )
            looks = tuple((read.error, read.state and what_shows(read.state, read.progress)) for read in reads)
            if looks != told and (is_all_read or told is None or time.monotonic() - told_at >= SHOW_EVERY_S):
                told, told_at = looks, time.monotonic()
                self.post_message(RunsRead(tuple(reads)))
            while is_all_read and (left_s := ends - time.monotonic()) > 0 and not is_cancelled():
                time.sleep(min(left_s, SLICE_S))

    def on_runs_read(self, message: RunsRead) -> None:
        self.reads = message.reads
        if self._wanted is not None and not self._has_chosen:
            self.metric = comparison.metric_of(comparison.metrics_to_compare(self.states), self._wanted)
            self._has_chosen = self.metric is not None
        if not self._has_chosen:
            self.metric = comparison.metric_to_begin_with(self.states) if self.states else None
        self._show()

    # -- showing ------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        if not self.is_attached:
            return
        with self.app.batch_update():
            self._show_curves()
            self._show_facts()
            self._show_settings()

    def _show_curves(self) -> None:
        curves = []
        for index, read in enumerate(self.reads):
            series = comparison.series_of(read.state, self.metric) if read.state is not None else None
            if series is None or read.state is None:
                continue
            curves.append(NamedCurve(
                self.names[index], series, compare_rows.role_of(index), LETTERS[index],
                origin=read.state.start_ts or 0.0, epochs=epochs_of(read.state),
                scale=self.metric.scale if self.metric is not None else 1.0,
            ))  # fmt: skip
        title = self.metric.title if self.metric is not None else ""
        self.chart.set_curves(curves, title=title, is_over=all(state.phase.is_over for state in self.states))
        self._show_chart_rule()

    def on_chart_changed(self, message: Chart.Changed) -> None:
        self._show_chart_rule()

    def _show_chart_rule(self) -> None:
        chart = self.chart
        # Who is who is in the table below, with the same letters.
        says_all = chart.cursor_cell() is not None or self.has_class("-short")
        parts = chart.rule_parts() if says_all else legend(chart.view, (), chart.drawn, unicode=chart.unicode)
        self.query_one("#chart_rule", RuleLine).set(chart.main.title, parts)

    def _show_facts(self) -> None:
        reads = self.reads or tuple(Read() for _ in self.paths)
        runs = [
            Compared(
                name, comparison.outcome_of(read.state, self.metric) if read.state is not None else None,
                read.error, read.progress,
            )
            for name, read in zip(self.names, reads, strict=True)
        ]  # fmt: skip
        self.query_one(FactsTable).set_runs(runs)

    def _show_settings(self) -> None:
        states = [read.state or RunState(now=0.0) for read in self.reads]
        configs = [state.config for state in states]
        if configs != self._configs:  # at every tick they are the same: there may be thousands
            self._configs = configs
            self._settings = comparison.settings_of(states)
            self._differing = comparison.differing(self._settings, states)
        settings, found = self._settings, self._differing
        untold = [index for index, state in enumerate(states) if not state.config]
        title = comparison.settings_title(len(found), len(settings), untold)
        odd = [
            (f"  {letter}: {safe_text(read.error, 200)}", "error")
            for letter, read in zip(LETTERS, self.reads, strict=False)
            if read.error
        ]
        self.query_one("#settings_rule", RuleLine).set(title, odd)
        listed = self.setting_list
        listed.set_columns(compare_rows.setting_columns(found, len(self.paths), self.app.size.width))
        listed.set_rows(found)
        height = max(min(len(found) + 1, self.app.size.height * 2 // 5), 2)
        if listed.styles.height is None or listed.styles.height.value != height:
            listed.styles.height = height

    # -- keys ---------------------------------------------------------------------------------------------------

    def action_metric(self, by: int) -> None:
        metrics = comparison.metrics_to_compare(self.states)
        if not metrics:
            return
        names = [metric.name for metric in metrics]
        at = names.index(self.metric.name) if self.metric is not None and self.metric.name in names else 0
        self._choose(metrics[(at + by) % len(metrics)])

    def action_metrics(self) -> None:
        from ckpt_tui.tui.dialogs.metrics import MetricPicker

        metrics = comparison.metrics_to_compare(self.states)
        if not metrics:
            app_of(self).say("There is no metric yet.")
            return
        # Of every metric the curve of the first run that has it: enough to choose by.
        series = {}
        for metric in metrics:
            assert metric.train is not None
            series[metric.train] = next(s.series[metric.train] for s in self.states if metric.train in s.series)
        state = replace(self.states[0], series=series)
        picker = MetricPicker(state, shown=self.metric.name if self.metric else "", unicode=self.chart.unicode)
        self.app.push_screen(picker, self._picked)

    def _picked(self, name: str | None) -> None:
        metric = comparison.metric_of(comparison.metrics_to_compare(self.states), name) if name else None
        if metric is not None:
            self._choose(metric)

    def _choose(self, metric: Metric) -> None:
        self.metric, self._has_chosen = metric, True
        self._show()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "part" or self.has_class("-short")

    @property
    def needed_keys(self) -> tuple[str, ...]:
        """Where one part fills the screen the key to the others is the last to go."""
        return ("compare.part",) if self.has_class("-short") else ()

    def action_part(self) -> None:
        """Curves, facts or settings, where there is no room for all."""
        if self.has_class("-facts"):
            self.remove_class("-facts").add_class("-settings")
        elif self.has_class("-settings"):
            self.remove_class("-settings")
        else:
            self.add_class("-facts")

    def action_hide_cursor(self) -> None:
        if not self.chart.hide_cursor():
            self.dismiss(None)


def _opened(path: str) -> RunMonitor | str:
    from ckpt_tui.services.monitor import RunMonitor

    try:
        return RunMonitor(path, newest_first=True)
    except Exception as error:  # noqa: BLE001 - said of this run, and the others live on
        return _words_of(error)


def _words_of(error: Exception) -> str:
    from ckpt_tui.tui.screens.work import as_ckpt_error

    if isinstance(error, OSError):
        return error.strerror or str(error)
    told = as_ckpt_error(error)
    return f"{told.title}: {told.message}"


def _read_on(monitor: RunMonitor, before: Read) -> Read:
    from ckpt_tui.services.damage import judge_by_known_files

    try:
        state = monitor.poll(READ_BUDGET_S if not monitor.is_caught_up else 0.02)
        if monitor.is_caught_up and before.progress < 1.0:
            state = judge_by_known_files(monitor)[0]
    except Exception as error:  # noqa: BLE001 - said of this run, and tried again
        return replace(before, error=_words_of(error))
    return Read(state, "", 1.0 if monitor.is_caught_up else monitor.progress)
