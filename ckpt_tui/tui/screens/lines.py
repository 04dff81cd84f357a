"""A file by lines: newest at the bottom and followed, filtered as you type, any line in full on Enter.

Base of the events screen and of the session log screen. The file is looked at once a second; when nothing was
written, nothing is sent.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input

from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import fit, plural, size
from ckpt_tui.tui import keys
from ckpt_tui.tui.copying import Copied, copied_error
from ckpt_tui.tui.log_lines import LogLines, VisibleLines
from ckpt_tui.tui.screens.work import ByteProgress, WorkScreen, worker_is_cancelled
from ckpt_tui.tui.styled import error_content, line, lines, spread
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

POLL_INTERVAL_S = 1.0
MAX_CACHED_ROWS = 2000


@dataclass(frozen=True, slots=True)
class Search:
    """Which lines are shown. words: all of them must be in the line; only_bad: lines that are not events."""

    words: tuple[str, ...] = ()
    only_bad: bool = False

    @property
    def is_everything(self) -> bool:
        return not self.words and not self.only_bad


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
        yield Input(id="filter", placeholder="words that the line must hold", compact=True)
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
        if search.only_bad:
            found = log.select(self._matcher(search), **keywords)
            if found and log.is_partial(found[-1]):
                found.pop()  # it is being written: not an event yet, and not bad either
        else:
            found = log.find(search.words, **keywords)
        return Scanned(search, found, from_index, log.times_replaced)

    def _matcher(self, search: Search) -> Callable[[bytes], bool]:
        words = [word.lower().encode("utf-8", "surrogateescape") for word in search.words]
        is_bad = self.is_bad
        return lambda text: is_bad(text) and all(word in text.lower() for word in words)

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
        scanned: Scanned = result
        if self._problem is not None:
            self._problem = None
            self.line_list.display = True
            self.query_one("#problem").display = False
        was_replaced = scanned.times_replaced != self._times_replaced
        self._times_replaced = scanned.times_replaced
        if was_replaced:
            self._cached.clear()
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

    def _empty_words(self) -> str:
        if self.search.only_bad:
            return "no bad lines"
        return "no line holds these words; Esc clears the filter" if self.search.words else "nothing in it yet"

    # -- lines around the list ----------------------------------------------------------------------------------

    def _show_facts(self) -> None:
        width = max(self.size.width - 2, 10)
        right = f"{plural(len(self.log_lines), self.WHAT)}, {size(self.log_lines.num_bytes)}"
        name = fit(self.path, min(len(self.path), max(width - len(right) - 2, 10)), keep="end")
        top = spread([(name, "strong")], [(right, "dim")], width)
        if self._progress:
            second = line((self._progress, "accent"), ("  Esc stops", "dim"))
        elif not self.search.is_everything:
            what = plural(len(self.visible_lines), "bad line" if self.search.only_bad else "line")
            words = f" with: {' '.join(self.search.words)}" if self.search.words else ""
            second = line((f"{what}{words}", "accent"), ("  Esc shows all", "dim"))
        else:
            following = "following the newest line" if self.line_list.is_at_end else "F follows the newest line"
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
        field = self.query_one("#filter", Input)
        field.value = " ".join(self.search.words)
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, message: Input.Changed) -> None:
        self.set_search(Search(tuple(message.value.split()), self.search.only_bad))

    @on(Input.Submitted, "#filter")
    def _end_filter(self) -> None:
        self.query_one("#filter").display = False
        self.line_list.focus()

    def set_search(self, search: Search) -> None:
        """Show only the lines that `search` names."""
        if search == self.search:
            return
        self.search = search
        self.visible_lines.found = None if search.is_everything else array("Q")
        self._num_scanned = 0
        self._cancel_and_scan()

    def _cancel_and_scan(self) -> None:
        self.cancel_work("scan")
        self._scan()

    def action_leave(self) -> None:
        if self.query_one("#filter").display or not self.search.is_everything:
            self.query_one("#filter", Input).value = ""
            self._end_filter()
            self.set_search(Search())
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
