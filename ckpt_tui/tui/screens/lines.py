"""A file by lines: newest at the bottom and followed, filtered as you type, any line in full on Enter.

Base of the events screen and of the session log screen. The file is looked at once a second; when nothing was
written, nothing is sent.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Input

from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import fit, plural, size
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.copying import Copied, copied_error
from ckpt_tui.tui.log_lines import LogLines, VisibleLines
from ckpt_tui.tui.screens.line_search import Place, Search, nearest, newest_time, parse_place
from ckpt_tui.tui.screens.work import ByteProgress, WorkScreen, worker_is_cancelled
from ckpt_tui.tui.styled import error_content, line, lines, spread
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.steady_input import SteadyInput
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

POLL_INTERVAL_S = 1.0
MAX_CACHED_ROWS = 2000
AT_ONCE_BYTES = 8 << 20
TYPING_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan of the file came to: how often it was replaced so far, and the lines that match `search`."""

    search: Search
    found: array[int] | None
    from_index: int
    times_replaced: int


class LinesScreen(WorkScreen[None]):
    """Shows the lines of `path` through `cells_of`; subclasses say what a line looks like."""

    CSS_PATH = "lines.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.LINES_KEYS)
    COLUMNS: ClassVar[tuple[Column, ...]] = ()
    WHAT = "line"
    PLACES = "a number of a line: line 1200"

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.log_lines = LogLines(path)
        self.visible_lines = VisibleLines(self.log_lines)
        self.search = Search()
        self._cached: dict[int, tuple[Cell, ...]] = {}
        self._progress = ""
        self._problem: CkptError | None = None
        self._num_scanned = 0
        self._times_replaced = 0
        self._is_first = True
        # Lines that were found, once all lines are shown again around one of them.
        self._marked: array[int] = array("Q")
        self._marked_search = Search()
        self._is_asking_place = False
        self._typing: Timer | None = None
        self._is_looking = False  # for what `search` asks; the lines are still those before it
        self._place_wanted: Place | None = None

    # -- what subclasses say ------------------------------------------------------------------------------------

    def cells_of(self, index: int, text: bytes) -> tuple[Cell, ...]:
        """Line `index` as one row."""
        raise NotImplementedError

    def detail_of(self, index: int, text: bytes) -> Content:
        """Line `index` in full."""
        raise NotImplementedError

    def is_bad(self, text: bytes) -> bool:
        """Whether the line is not what this file should hold."""
        return False

    # -- layout -------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield Words(id="facts")
        yield SteadyInput(id="filter", placeholder="words that the line must hold", compact=True)
        yield VirtualList[int](self.COLUMNS, self._cells, self.visible_lines, id="lines", empty_text="reading ...")
        with Vertical(id="problem"):
            yield Words(id="problem_text")
        with VerticalScroll(id="detail"):
            yield Words(id="detail_text")
        yield KeyLine()

    def on_mount(self) -> None:
        for hidden in ("#filter", "#problem", "#detail"):
            self.query_one(hidden).display = False
        self.line_list.focus()
        self._show_facts()
        self._scan()
        self.set_interval(POLL_INTERVAL_S, self._scan_if_changed)

    def on_resize(self) -> None:
        self._show_facts()

    @property
    def line_list(self) -> VirtualList[int]:
        return self.query_one("#lines", VirtualList)

    def _cells(self, index: int) -> tuple[Cell, ...]:
        cells = self._cached.get(index)
        if cells is None and index >= len(self.log_lines):
            return ("",) * len(self.COLUMNS)
        if cells is None:
            if len(self._cached) >= MAX_CACHED_ROWS:
                self._cached.clear()
            cells = self.cells_of(index, self.log_lines.line(index))
            if not self.log_lines.is_partial(index):
                self._cached[index] = cells
        return cells

    def to_copy(self) -> Copied | None:
        if self._problem is not None:
            return copied_error(self._problem)
        index = self.line_list.cursor_row
        if index is None:
            return None
        return Copied(self.WHAT, self.log_lines.line(index).decode("utf-8", "replace").rstrip("\r\n"))

    # -- reading ------------------------------------------------------------------------------------------------

    def _scan_if_changed(self) -> None:
        try:
            num_bytes = Path(self.path).stat().st_size
        except OSError:
            return
        if num_bytes != self.log_lines.num_bytes and not self.is_working("scan"):
            self._scan()

    def _scan(self) -> None:
        """Read what is new, and look through it (or through everything, after the filter changed)."""
        self.start_work("scan", partial(self._scan_in_thread, self.search, self._num_scanned))

    def _scan_in_thread(self, search: Search, from_index: int) -> Scanned:
        is_cancelled = worker_is_cancelled()
        log = self.log_lines
        reading = ByteProgress(self, "scan", "reading", _size_of(self.path) - log.num_bytes)
        # The line that was being written the last time is whole now: look at it again.
        from_index = max(from_index - 1, 0)
        replaced = log.times_replaced
        log.scan(is_cancelled=is_cancelled, on_bytes=reading.add)
        if log.times_replaced != replaced:
            from_index = 0
        if search.is_everything:
            return Scanned(search, None, from_index, log.times_replaced)
        searching = ByteProgress(self, "scan", "searching", log.num_bytes)
        keywords: dict[str, Any] = {"from_index": from_index, "is_cancelled": is_cancelled, "on_bytes": searching.add}
        if search.only_bad or search.kind:
            found = log.select(search.matcher(self.is_bad), **keywords)
            if found and search.only_bad and log.is_partial(found[-1]):
                found.pop()  # it is being written: not an event yet, and not bad either
        else:
            found = log.find(search.words, **keywords)
        return Scanned(search, found, from_index, log.times_replaced)

    def work_progress(self, group: str, text: str) -> None:
        self._progress = text
        self._show_facts()

    def work_failed(self, group: str, error: CkptError) -> None:
        self._problem, self._progress = error, ""
        self.line_list.display = False
        self.query_one("#problem").display = True
        self.query_one("#problem_text", Words).update(error_content(error))
        self._show_facts()

    def work_done(self, group: str, result: Any) -> None:
        if group == "go":
            self._progress = ""
            if result is None:
                app_of(self).say("There is no such place in it.")
                self._show_facts()
            else:
                self.show_among_all(result)
            return
        scanned: Scanned = result
        self._is_looking = False
        if self._problem is not None:
            self._problem = None
            self.line_list.display = True
            self.query_one("#problem").display = False
        was_replaced = scanned.times_replaced != self._times_replaced
        self._times_replaced = scanned.times_replaced
        if was_replaced:
            self._cached.clear()
            self._marked = array("Q")
        self._progress = ""
        self._num_scanned = len(self.log_lines)
        rows = self.visible_lines
        if scanned.search.is_everything:
            is_other_view = rows.found is not None
            rows.found = None
        else:
            is_other_view = rows.found is None or scanned.from_index == 0
            old = array("Q") if is_other_view or rows.found is None else rows.found
            while old and old[-1] >= scanned.from_index:
                old.pop()
            rows.found = old + (scanned.found if scanned.found is not None else array("Q"))
        self.line_list.set_empty_text(self._empty_words())
        if is_other_view or was_replaced or self._is_first:
            self._is_first = False
            self.line_list.rows_changed(rows, from_index=0)
            self.line_list.action_move_to_end()
        else:
            self.line_list.rows_grew()
        self._show_facts()
        if self._place_wanted is not None:
            place, self._place_wanted = self._place_wanted, None
            self.go_to(place)

    def _empty_words(self) -> str:
        if self.search.only_bad:
            return "no bad lines"
        if self.search.kind and not self.search.words:
            return f"no {self.search.kind} events; Esc shows all"
        return "no line holds these words; Esc clears the filter" if self.search.words else "nothing in it yet"

    # -- lines around the list ----------------------------------------------------------------------------------

    def _show_facts(self) -> None:
        width = max(self.size.width - 2, 10)
        right = f"{plural(len(self.log_lines), self.WHAT)}, {size(self.log_lines.num_bytes)}"
        name = fit(self.path, min(len(self.path), max(width - len(right) - 2, 10)), keep="end")
        top = spread([(name, "strong")], [(right, "dim")], width)
        if self._progress:
            second = line((self._progress, "accent"), ("  Esc stops", "dim"))
        elif self._is_looking:
            second = line(("looking ...", "dim"))
        elif not self.search.is_everything:
            num_found = len(self.visible_lines)
            among = "n shows it among all lines, " if num_found else ""
            second = line((self.search.words_for(num_found), "accent"), (f"  {among}Esc shows all", "dim"))
        elif self._marked:
            at = bisect_left(self._marked, self.line_list.cursor) + 1
            words = self._marked_search.words_for(len(self._marked))
            second = line((f"{at:,} of {words}", "accent"), ("  n next, N before, Esc forgets them", "dim"))
        else:
            following = "following the newest line" if self.line_list.is_at_end else "held here; F follows the newest"
            replaced = f", the file was replaced {plural(self._times_replaced, 'time')}" if self._times_replaced else ""
            second = line((following + replaced, "dim"))
        self.show("facts", lines(top, second))

    def _show_detail(self) -> None:
        panel = self.query_one("#detail")
        if not panel.display:
            return
        index = self.line_list.cursor_row
        content = Content("") if index is None else self.detail_of(index, self.log_lines.line(index))
        self.query_one("#detail_text", Words).update(content)
        panel.scroll_home(animate=False)

    # -- messages and actions -----------------------------------------------------------------------------------

    @on(VirtualList.Moved)
    def _moved(self) -> None:
        self._show_detail()
        if self.search.is_everything and not self._progress:
            self._show_facts()

    @on(VirtualList.Selected)
    def action_detail(self) -> None:
        panel = self.query_one("#detail")
        panel.display = not panel.display
        self._show_detail()

    def action_follow(self) -> None:
        self.line_list.action_move_to_end()

    def action_filter(self) -> None:
        self._ask(" ".join(self.search.words), "words that the line must hold", is_place=False)

    def action_go_to(self) -> None:
        self._ask("", self.PLACES, is_place=True)

    def _ask(self, value: str, placeholder: str, *, is_place: bool) -> None:
        self._is_asking_place = is_place
        field = self.query_one("#filter", Input)
        with field.prevent(Input.Changed):
            field.value = value
        field.placeholder = placeholder
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, message: Input.Changed) -> None:
        if self._is_asking_place:
            return
        if self._typing is not None:
            self._typing.stop()
        search = replace(self.search, words=tuple(message.value.split()))
        if self.log_lines.num_bytes < AT_ONCE_BYTES:
            self.set_search(search)
        else:  # of a word that is being typed, not every beginning is looked for in a gigabyte
            self._typing = self.set_timer(TYPING_PAUSE_S, partial(self.set_search, search))

    @on(Input.Submitted, "#filter")
    def _end_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = False
        self.line_list.focus()
        if self._typing is not None:
            self._typing.stop()
            self._typing = None
            self.set_search(replace(self.search, words=tuple(field.value.split())))
        if self._is_asking_place and field.value:
            place = parse_place(field.value, newest_time(self.log_lines))
            if place is None:
                app_of(self).say(f"That is no place: {self.PLACES}.")
            else:
                self.go_to(place)
        self._is_asking_place = False

    def go_to(self, place: Place) -> None:
        """Show all lines, the cursor at the one that is nearest to `place`."""
        self.start_work("go", partial(self._look_for, place))

    def _look_for(self, place: Place) -> int | None:
        """Runs in a thread."""
        looking = ByteProgress(self, "go", "looking", self.log_lines.num_bytes)
        return nearest(self.log_lines, place, is_cancelled=worker_is_cancelled(), on_bytes=looking.add)

    def show_among_all(self, index: int) -> None:
        """All lines again, the cursor at line `index`; what was found stays known for n and N."""
        if not self.search.is_everything:
            self._marked_search = self.search
            self._marked = self.visible_lines.found or array("Q")
            self.search, self._is_looking = Search(), False
            self.cancel_work("scan")
            self._progress = ""
            self.visible_lines.found = None
            self._num_scanned = len(self.log_lines)
            self.line_list.rows_changed(self.visible_lines, from_index=0)
        self._go(index)
        self._show_facts()

    def _go(self, row: int) -> None:
        """The cursor to a row, with rows around it on both sides where they are out of sight."""
        listed = self.line_list
        listed.cursor = row
        top, height = round(listed.scroll_y), listed.scrollable_content_region.height - 1  # its header
        if not top < row < top + height - 1:
            listed.scroll_to(y=max(row - height // 2, 0), animate=False, force=True)

    def action_next(self, by: int) -> None:
        """The next line that was found, or the one before; the first time the same one, with the lines around it."""
        here = self.line_list.cursor_row
        if not self.search.is_everything:
            if here is not None and not self._is_looking:
                self.show_among_all(here)
            return
        if not self._marked or here is None:
            app_of(self).say("Look for something first: / and words.")
            return
        at = bisect_left(self._marked, here + 1) if by > 0 else bisect_left(self._marked, here) - 1
        self._go(self._marked[at % len(self._marked)])  # around the end to the start

    def set_search(self, search: Search) -> None:
        """Show only the lines that `search` names."""
        if search == self.search:
            return
        # What is shown stays until there is something else to show.
        self.search, self._is_looking = search, True
        self._num_scanned = 0
        self._cancel_and_scan()
        self._show_facts()

    def _cancel_and_scan(self) -> None:
        self.cancel_work("scan")
        self._scan()

    def action_leave(self) -> None:
        if self.query_one("#filter").display or not self.search.is_everything or self._marked:
            with self.query_one("#filter", Input).prevent(Input.Changed):
                self.query_one("#filter", Input).value = ""
            self._end_filter()
            self._marked = array("Q")
            self.set_search(Search())
            self._show_facts()
        elif self.is_working("go"):
            self.cancel_work("go")
            self._progress = ""
            self._show_facts()
        elif self.query_one("#detail").display:
            self.action_detail()
        else:
            self.cancel_work("scan")
            self.dismiss(None)


def _size_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def text_lines(text: str, max_lines: int = 400) -> Sequence[str]:
    """Lines of `text` for a detail pane, bounded; says how many were left out."""
    parts = text.split("\n")
    if len(parts) <= max_lines:
        return parts
    return [*parts[:max_lines], f"... {len(parts) - max_lines:,} more lines"]
