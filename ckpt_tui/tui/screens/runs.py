"""The runs below a directory, a line each, newest activity first; Enter opens one, Backspace comes back.

A thread looks at them; nothing is sent while nothing that is shown changes. It goes on, more seldom, while a run is
open over the list, and says there when another one breaks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult, ScreenStackError
from textual.binding import BindingType
from textual.message import Message
from textual.screen import Screen
from textual.worker import get_current_worker

from ckpt_tui.errors import CkptError
from ckpt_tui.services.runs import Runs, RunSummary, RunsWatch, newly_broken
from ckpt_tui.text import plural, safe_text
from ckpt_tui.tui import keys, run_rows
from ckpt_tui.tui.base_app import OfTheWatch
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.facts import Part
from ckpt_tui.tui.run_rows import SORTS, RunRow
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget
from ckpt_tui.tui.widgets.virtual_list import VirtualList

if TYPE_CHECKING:
    from textual.widgets import Input

    from ckpt_tui.tui.alerting import BrokenRuns

COVERED_INTERVAL_S = 5.0
SLICE_S = 0.2
READING_EVERY_S = 0.5
MAX_COMPARED = 8
WAITING_TEXT = "No run here yet. One appears by itself when the first line of its log is written."


class RunsChanged(Message):
    """What is below the directory now."""

    def __init__(self, runs: Runs) -> None:
        super().__init__()
        self.runs = runs

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, RunsChanged)


class LookFailed(Message):
    """What is below the directory could not be looked at; it is tried again."""

    def __init__(self, error: CkptError) -> None:
        super().__init__()
        self.error = error


class RunsHeader(LinesWidget):
    """How many of each state; below it what a person should know now."""

    def __init__(self) -> None:
        super().__init__(id="runs_header")
        self._root = ""
        self._counts: Sequence[Sequence[Part]] = ()
        self._news: Sequence[Part] = ()

    def set_parts(self, name: str, counts: Sequence[Sequence[Part]], news: Sequence[Part]) -> None:
        self._root, self._counts, self._news = name, counts, news
        self.show()

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        return run_rows.header_lines(self._root, self._counts, self._news, width)[:height]


class RunsScreen(OfTheWatch, Screen[None]):
    """The first screen where a directory holds several runs."""

    CSS = """
    RunsScreen {
        #runs_header { height: 2; }
        #runs_filter { height: 1; padding: 0 1; background: $boost; }
    }
    """
    AUTO_FOCUS = "#runs"
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.RUNS_KEYS)

    def __init__(self, root: str | None = None, beside: str | None = None) -> None:
        """root: where the runs are, the path that the app was given by default. beside: the run that others are
        picked to be compared with; then nothing is opened."""
        super().__init__()
        self.root = root
        self.beside = beside
        self.runs: Runs | None = None
        self.marked: list[str] = [beside] if beside is not None else []  # in the order in which they were marked
        self.words = ""
        self.sort = 0
        self.is_reversed = False
        self.broken: list[RunSummary] = []
        self.failure: CkptError | None = None  # of the last look
        self._by_path: dict[str, RunSummary] = {}
        self._alerting: BrokenRuns | None = None
        self._filter: Input | None = None

    @property
    def _is_seen(self) -> bool:
        """On top: Textual's `is_current` counts screens that may shine through others."""
        try:
            return self.app.screen is self
        except ScreenStackError:  # the app is ending
            return False

    @property
    def run_list(self) -> VirtualList[RunRow]:
        return self.query_one("#runs", VirtualList)

    def compose(self) -> ComposeResult:
        yield RunsHeader()
        yield VirtualList[RunRow](
            run_rows.columns(self.app.size.width), lambda row: row.cells, key=lambda row: row.path,
            empty_text="looking for runs ...", id="runs",
        )  # fmt: skip
        yield KeyLine()

    def on_mount(self) -> None:
        first = self.cockpit.first_runs if self.root is None else None
        self._watch = first.watch if first is not None else RunsWatch(self.root or self.cockpit.root)
        if first is not None and (runs := first.soon()) is not None:
            self._take(runs)
        self.run_worker(self._follow, name="runs", group="runs", thread=True, exit_on_error=False)

    def on_resize(self) -> None:
        self._show()

    # -- looking, in a thread -----------------------------------------------------------------------------------

    def _follow(self) -> None:
        worker = get_current_worker()
        if self.root is None and self.cockpit.first_runs is not None:
            self.cockpit.first_runs.wait()
        shown: tuple[Runs | None, int] = (None, 0)
        tell_at = 0.0
        interval_s = self.cockpit.interval_s
        while not worker.is_cancelled and self.app.is_running:
            ends = time.monotonic() + (interval_s if self._is_seen else max(interval_s, COVERED_INTERVAL_S))
            try:
                runs = self._watch.poll(0.05)
            except Exception as error:  # noqa: BLE001 - said, and tried again: the list lives on
                from ckpt_tui.tui.screens.work import as_ckpt_error

                shown = (None, 0)  # what comes next is news
                self.post_message(LookFailed(as_ckpt_error(error)))
                while (left_s := ends - time.monotonic()) > 0 and not worker.is_cancelled and self.app.is_running:
                    time.sleep(min(left_s, SLICE_S))
                continue
            minute = int(time.time() // 60) if runs.runs else 0  # the ages of the lines count minutes
            # While they are read, lines come in between: not each time that is a picture.
            is_time = runs.is_whole or shown[0] is None or not shown[0].runs or time.monotonic() >= tell_at
            if (runs is not shown[0] or minute != shown[1]) and is_time:
                shown, tell_at = (runs, minute), time.monotonic() + READING_EVERY_S
                self.post_message(RunsChanged(runs))
            while self._watch.is_caught_up and not worker.is_cancelled and self.app.is_running:
                left_s = ends - time.monotonic()
                if left_s <= 0 or (self._is_seen and left_s > interval_s):
                    break
                time.sleep(min(left_s, SLICE_S))

    @on(LookFailed)
    def show_failure(self, message: LookFailed) -> None:
        self.failure = message.error
        self.run_list.set_empty_text("they cannot be looked at: it is tried again")
        self._show_header()

    @on(RunsChanged)
    async def show_runs(self, message: RunsChanged) -> None:
        self.failure = None
        was_empty = self.runs is None or not self.runs.runs
        runs = message.runs
        self._take(runs)
        if self.beside is None and runs.is_run and was_empty and not runs.runs and self._is_seen:
            await self.cockpit.open_run(runs.root)

    def _take(self, runs: Runs) -> None:
        new = newly_broken(self._by_path, runs.runs)
        self.runs = runs
        self._by_path = {one.path: one for one in runs.runs}
        self.marked = [
            path for path in self.marked if path in self._by_path or path == self.beside or not runs.is_whole
        ]
        paths = {one.path for one in new}
        # What was resumed meanwhile, or is gone, needs nobody any more.
        still = {one.path for one in runs.runs if one.phase in run_rows.ENDED_BADLY} - paths
        self.broken = [one for one in self.broken if one.path in still] + new
        if new and self.beside is None:
            self._tell(new)
        self._show()

    def _tell(self, broken: Sequence[RunSummary]) -> None:
        """As a person wants to be told of alerts. The run that is open tells of itself."""
        self.refresh_bindings()
        watched = self.cockpit.watched
        others = [one for one in broken if watched is None or one.path != watched.path]
        settings = self.cockpit.settings
        if others and not self._is_seen:
            words = run_rows.broken_parts(others, time.time(), unicode=self.cockpit.look.unicode)[0][0]
            self.cockpit.say(f"{words}.", "error")
        if self._alerting is None:
            from ckpt_tui.tui.alerting import BrokenRuns

            command = "" if self.cockpit.readonly else settings.alert_command
            self._alerting = BrokenRuns(self.app.bell if settings.bell else None, command)
        self._alerting.take(others)

    # -- showing ------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        runs = self.runs
        if runs is None or not self.is_attached:
            return
        now, unicode, width = time.time(), self.cockpit.look.unicode, self.app.size.width
        found = run_rows.select(runs.runs, self.words, self.sort, self.is_reversed)
        marked = set(self.marked)
        rows = [RunRow(one, now, width=width, unicode=unicode, is_marked=one.path in marked) for one in found]
        with self.app.batch_update():
            listed = self.run_list
            listed.set_columns(run_rows.columns(width, has_damage=any(one.damaged for one in runs.runs)))
            if runs.is_whole:
                listed.set_empty_text("no run holds these words; Esc clears them" if self.words else WAITING_TEXT)
            # At the top it stays at the newest; elsewhere it stays on its run.
            listed.set_rows(rows, keep_cursor=listed.cursor > 0)
            self._show_header()

    @on(VirtualList.Moved)
    def _show_header(self) -> None:
        if (self.runs is None and self.failure is None) or not self.is_attached:
            return
        unicode = self.cockpit.look.unicode
        runs = self.runs or Runs(self.root or self.cockpit.root)
        summary = self._summary()
        coming = run_rows.coming_parts(summary, time.time(), unicode=unicode)
        if self.failure is not None:
            words = f"{self.failure.title}: {self.failure.message}"
            news = [(f"{'▲' if unicode else '!'} {safe_text(words, 400)}", "error")]
        elif summary is not None and summary.error:
            news = [(f"{'▲' if unicode else '!'} {safe_text(summary.error, 400)}", "error")]
        elif summary is not None and summary.damaged and not self.broken and runs.is_whole:
            news = run_rows.damage_parts(summary, unicode=unicode)
        elif coming and not self.broken and runs.is_whole:
            news = coming
        else:
            sort = SORTS[self.sort][0] + (", turned around" if self.is_reversed else "")
            news = run_rows.news_parts(
                runs, self.broken, self.marked, len(self.run_list.rows), self.words, sort, time.time(),
                unicode=unicode,
            )  # fmt: skip
        counts = run_rows.counts_parts(runs, unicode=unicode)
        self.query_one(RunsHeader).set_parts(safe_text(str(Path(runs.root).absolute()), 500), counts, news)

    # -- keys ---------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "alert":
            return bool(self.broken)
        if action == "open":  # Enter in the list compares then
            return self.beside is None or (self._filter is not None and self._filter.has_focus)
        if action == "leave":
            has_focus = self._filter is not None and self._filter.has_focus
            return bool(self.beside or self.words or self.broken or self.marked) or has_focus
        return True

    def to_copy(self) -> Copied | None:
        summary = self._summary()
        return None if summary is None else Copied("path", summary.path)

    def _summary(self) -> RunSummary | None:
        row = self.run_list.cursor_row
        return self._by_path.get(row.path) if row is not None else None

    @on(VirtualList.Selected)
    async def action_open(self) -> None:
        if self._filter is not None and self._filter.has_focus:
            self._end_filter()
            return
        if self.beside is not None:
            self.action_compare()
        elif (summary := self._summary()) is not None:
            self.broken = [one for one in self.broken if one.path != summary.path]
            await self.cockpit.open_run(summary.path)
            self._show()

    def action_compare(self) -> None:
        """The marked runs; with one of them marked or none, the one under the cursor, too."""
        paths = list(self.marked)
        summary = self._summary()
        if len(paths) < 2 and summary is not None and summary.path not in paths:
            paths.append(summary.path)
        if len(paths) < 2:
            self.cockpit.say("Space marks the runs to compare, two or more.")
            return
        self.cockpit.open_screen("compare", paths, [self.name_of(path) for path in paths])

    def action_alert(self) -> None:
        if not self.broken:
            return
        path = self.broken.pop().path
        if self.words:
            self._clear_filter()
        self._show()
        for index, row in enumerate(self.run_list.rows):
            if row.path == path:
                self.run_list.cursor = index
        self.refresh_bindings()

    def action_sort(self) -> None:
        self._sort_by((self.sort + 1) % len(SORTS))

    def action_reverse(self) -> None:
        self.is_reversed = not self.is_reversed
        self._show()

    def _sort_by(self, sort: int) -> None:
        self.is_reversed = not self.is_reversed if sort == self.sort else False
        self.sort = sort
        self._show()

    @on(VirtualList.TitlePressed)
    def _title_pressed(self, message: VirtualList.TitlePressed) -> None:
        if (sort := run_rows.SORT_OF_COLUMN.get(message.column)) is not None:
            self._sort_by(sort)

    def action_mark(self) -> None:
        if (summary := self._summary()) is None:
            return
        if summary.path in self.marked:
            self.marked.remove(summary.path)
        elif len(self.marked) >= MAX_COMPARED:
            self.cockpit.say(f"{plural(MAX_COMPARED, 'run')} at most are compared.")
            return
        else:
            self.marked.append(summary.path)
        self.refresh_bindings()
        self._show()
        self.run_list.action_move(1)

    def action_filter(self) -> None:
        from ckpt_tui.tui.widgets.steady_input import SteadyInput

        if self._filter is None:
            self._filter = SteadyInput(placeholder="words: name or state", compact=True, id="runs_filter")
            self.mount(self._filter, after="#runs_header")
        self._filter.display = True
        self._filter.value = self.words
        self._filter.focus()

    def on_input_changed(self) -> None:
        if self._filter is not None and self._filter.value != self.words:
            self.words = self._filter.value
            self._show()

    def on_input_submitted(self) -> None:
        self._end_filter()

    def _end_filter(self) -> None:
        if self._filter is not None:
            self._filter.display = False
        self.run_list.focus()

    def _clear_filter(self) -> None:
        self.words = ""
        if self._filter is not None:
            self._filter.value = ""
        self._end_filter()

    def action_leave(self) -> None:
        if self.words or (self._filter is not None and self._filter.has_focus):
            self._clear_filter()
        elif self.broken:
            self.broken = []
        elif self.beside is not None:
            self.dismiss(None)
            return
        elif self.marked:
            self.marked = []
        self._show()
        self.refresh_bindings()

    def named_runs(self) -> list[tuple[str, str]]:
        """Name and path of each, for the palette."""
        return [(one.name, one.path) for one in self._by_path.values()]

    def name_of(self, path: str) -> str:
        """What the run at `path` is called here."""
        summary = self._by_path.get(path)
        return summary.name if summary is not None else Path(path).name
