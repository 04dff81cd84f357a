"""Inspect: any checkpoint, at once, without running it. Tree, tensors, settings, optimizer, pickle, findings.

The file is opened in a thread; the screen is there at once and says how it stands. Statistics of a tensor are
read when asked for, streamed, and stop when the screen is left.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from functools import partial
from operator import attrgetter, indexOf
from typing import Any, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import ContentSwitcher, Input

from ckpt_tui.checkpoints.model import Finding, GlobalRef, Severity, TensorInfo
from ckpt_tui.errors import CkptError
from ckpt_tui.text import duration
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.copying import Copied, copied_error
from ckpt_tui.tui.judgement import sorted_by_severity
from ckpt_tui.tui.screens import inspect_rows as rows
from ckpt_tui.tui.screens import inspect_text as text
from ckpt_tui.tui.screens.inspect_detail import Detail, read_statistics, tensor_of
from ckpt_tui.tui.screens.inspect_text import Opened, open_for_inspection
from ckpt_tui.tui.screens.work import ByteProgress, WorkScreen
from ckpt_tui.tui.state_tree import TREE_SORTS, Node
from ckpt_tui.tui.styled import error_content
from ckpt_tui.tui.tensor_table import IN_FILE_ORDER, sort_words
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.steady_input import SteadyInput
from ckpt_tui.tui.widgets.view_tabs import View, ViewTabs
from ckpt_tui.tui.widgets.virtual_list import Cell, VirtualList
from ckpt_tui.tui.widgets.words import Words

PREPARE_DELAY_S = 0.1
ROOMY = 34  # lines from which on a histogram gets more than one
FILTER_PLACEHOLDER = "words that the name, shape or dtype must hold"
VIEW_KEYS = {
    "tree": "t",
    "tensors": "n",
    "settings": "s",
    "optimizer": "o",
    "pickle": "p",
    "findings": "f",
}


class InspectScreen(WorkScreen[None]):
    """One checkpoint. `path` is a file or a directory."""

    CSS_PATH = "inspect.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall"), (ROOMY, "-roomy")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.INSPECT_KEYS)

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.opened: Opened | None = None
        self._sort, self._is_reversed = IN_FILE_ORDER, False  # of the list of tensors; the tree has its own
        self._not_filled = set(VIEW_KEYS)
        self._started_at = time.monotonic()
        self._filters = dict.fromkeys(VIEW_KEYS, "")
        self._detail = Detail()

    # -- layout -------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield Words(id="facts")
        yield ViewTabs([View(name, key, name) for name, key in VIEW_KEYS.items()], id="views")
        yield Words(id="rule")
        yield SteadyInput(id="filter", placeholder=FILTER_PLACEHOLDER, compact=True)
        with ContentSwitcher(initial="tree", id="lists"):
            yield VirtualList[Node](rows.TREE_COLUMNS, self._tree_cells, id="tree", key=attrgetter("path"))
            yield VirtualList[TensorInfo](rows.TENSOR_COLUMNS, self._tensor_cells, id="tensors", key=id)
            yield VirtualList[rows.Fact](rows.FACT_COLUMNS, rows.fact_cells, id="settings", show_header=False)
            yield VirtualList[rows.Fact](rows.FACT_COLUMNS, rows.fact_cells, id="optimizer", show_header=False)
            yield VirtualList[GlobalRef](rows.GLOBAL_COLUMNS, rows.global_cells, id="pickle")
            yield VirtualList[Finding](rows.FINDING_COLUMNS, rows.finding_cells, id="findings")
        with Vertical(id="problem"):
            yield Words(id="problem_text")
        yield Words(id="detail")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#filter", Input).display = False
        self.query_one("#problem").display = False
        self._show_facts()
        self._show_rule()
        for view in VIEW_KEYS:
            self._list(view).set_empty_text("opening ...")
        self._list("tree").focus()
        self.start_work("open", partial(open_for_inspection, self.path))
        self._clock = self.set_interval(0.5, self._show_elapsed)

    def _show_elapsed(self) -> None:
        elapsed_s = time.monotonic() - self._started_at
        for view in VIEW_KEYS:
            self._list(view).set_empty_text(f"opening ... {duration(elapsed_s)}    Esc leaves it")

    def on_resize(self) -> None:
        self._show_facts()
        self._show_rule()
        self._show_detail()

    def to_copy(self) -> Copied | None:
        """The dotted path of a tensor or setting, with its value where it has one."""
        if self.problem is not None:
            return copied_error(self.problem)
        row: Any = self._list(self.view).cursor_row
        if row is None:
            return None
        if isinstance(row, Node):
            value = row.value
            is_plain = value is None or isinstance(value, (bool, int, float, str))
            return Copied("value" if is_plain else "path", f"{row.path} = {value!r}" if is_plain else row.path)
        if isinstance(row, rows.Fact):
            return Copied("setting", f"{row.key} = {row.full or row.value}")
        if isinstance(row, Finding):
            return Copied("finding", f"{row.where}: {row.message}")
        return Copied("name", row.name)

    @property
    def view(self) -> str:
        return self.query_one("#lists", ContentSwitcher).current or "tree"

    def _list(self, view: str) -> VirtualList[Any]:
        return self.query_one(f"#{view}", VirtualList)

    def _tree_cells(self, node: Node) -> tuple[Cell, ...]:
        assert self.opened is not None
        return rows.tree_cells(self.opened.tree, self.opened.weights.total.size_bytes, node)

    def _tensor_cells(self, tensor: TensorInfo) -> tuple[Cell, ...]:
        assert self.opened is not None
        in_file_order = self._sort == IN_FILE_ORDER
        num_bytes = self.opened.weights.total.size_bytes
        return rows.tensor_cells(self.opened.table, num_bytes, tensor, in_file_order=in_file_order)

    # -- opening ------------------------------------------------------------------------------------------------

    def work_done(self, group: str, result: Any) -> None:
        if group == "open":
            self._opened(result)
        elif group == "statistics":
            self._detail.keep(*result)
            self._show_detail()
        elif group == "prepare" and "tensors" in self._not_filled:
            self._fill("tensors")  # so that the view is there when its key comes

    def work_failed(self, group: str, error: CkptError) -> None:
        if group == "open":
            self._clock.stop()
            self._show_problem(error)
        elif self._detail.being_read is not None:
            self._detail.keep(self._detail.being_read, error)
            self._show_detail()

    def work_progress(self, group: str, text: str) -> None:
        self._detail.progressed(text)
        self._show_detail()

    def _opened(self, opened: Opened) -> None:
        self._clock.stop()
        self.opened = opened
        checkpoint = opened.checkpoint
        errors = any(finding.severity is Severity.ERROR for finding in checkpoint.findings)
        roles = {
            "pickle": {"dangerous": "error", "unknown": "error"}.get(checkpoint.safety, ""),
            "findings": "error" if errors else "",
        }
        views = [
            View(name, key, f"findings {len(checkpoint.findings)}" if name == "findings" else name, roles.get(name, ""))
            for name, key in VIEW_KEYS.items()
        ]
        self.query_one(ViewTabs).set_views(views)
        self._list("tensors").set_columns(rows.tensor_columns(opened.table))
        self._list("tree").set_columns(rows.tree_columns(has_files=bool(opened.files)))
        for name, words in {
            "tree": "there is no state in it, only tensors (n)",
            "tensors": "no tensors",
            "settings": "it names no settings",
            "optimizer": "no optimizer state in it",
            "pickle": "no pickle in it names anything: nothing could run",
            "findings": "nothing wrong was noticed while opening it; v validates every byte",
        }.items():
            self._list(name).set_empty_text(words)
        self._fill(self.view)
        self._show_facts()
        self._show_rule()
        self._show_detail()
        self.refresh_bindings()
        self._list("tree").cursor = opened.tree.index_of_weights
        # What a filter needs is made once the first picture is there: it would take half the time from drawing that.
        self.set_timer(PREPARE_DELAY_S, partial(self.start_work, "prepare", opened.prepare))

    def _show_problem(self, error: CkptError) -> None:
        self.problem = error
        self.query_one("#lists").display = False
        self.query_one("#detail").display = False
        self.query_one("#problem").display = True
        self.query_one("#problem_text", Words).update(error_content(error))
        self._show_facts()

    def _rows_of(self, view: str) -> Sequence[Any]:
        assert self.opened is not None
        opened, words = self.opened, self._filters[view].lower().split()
        if view == "tensors":
            return opened.table.select(words, self._sort, self._is_reversed)
        if view == "tree":
            return opened.tree.matching(words) if words else opened.tree.rows
        if view in ("settings", "optimizer"):
            facts = rows.setting_facts(opened.checkpoint) if view == "settings" else opened.optimizer_facts()
            return [
                fact for fact in facts if not words or (not fact.is_heading and _holds(words, fact.key, fact.value))
            ]
        if view == "pickle":
            return [ref for ref in rows.sorted_globals(opened.checkpoint) if _holds(words, ref.name, ref.verdict)]
        return [f for f in sorted_by_severity(opened.checkpoint.findings) if _holds(words, f.where, f.message, f.code)]

    def _fill(self, view: str, *, keep_cursor: bool = True) -> None:
        self._not_filled.discard(view)
        self._list(view).set_rows(self._rows_of(view), keep_cursor=keep_cursor)
        if view != self.view:
            self._list(view).expect_height(self._list(self.view).size.height)  # one place on the screen for all
        if self._filters[view]:
            self._list(view).set_empty_text(f"nothing here holds `{self._filters[view]}`; Esc clears the filter")

    # -- lines above and below ----------------------------------------------------------------------------------

    def _show_facts(self) -> None:
        width = max(self.size.width - 2, 10)
        if self.opened is not None:
            content = text.facts_content(self.path, self.opened, width)
        else:
            failed = self.query_one("#problem").display
            content = text.unopened_content(self.path, "could not be opened" if failed else "opening ...", width)
        self.show("facts", content)

    def _show_rule(self) -> None:
        view, counts = self.view, ""
        if self.opened is not None:
            shown = len(self._list(view).rows)
            total = len(self.opened.table.all) if view == "tensors" else shown
            counts = text.count_words(view, shown, total)
            if view == "tree" and self.opened.tree.leaves_cut and self._filters[view]:
                counts += " (of the first 200,000 values)"
            words = self._order_words(view)
            if words:
                counts = f"{words} ── {counts}"
        rule = text.rule_content(self._filters[view], counts, max(self.size.width, 10))
        self.show("rule", rule)

    def _order_words(self, view: str) -> str:
        assert self.opened is not None
        if view == "pickle":
            return text.weights_only_words(self.opened.weights_only)
        if view == "tree" and not self._filters["tree"]:
            return sort_words(self.opened.tree.sort, self.opened.tree.is_reversed)
        return sort_words(self._sort, self._is_reversed) if view == "tensors" else ""

    def _show_detail(self) -> None:
        if self.opened is not None:
            row, height = self._list(self.view).cursor_row, text.HISTOGRAM_LINES if self.size.height >= ROOMY else 1
            self.show("detail", self._detail.content(self.opened, row, max(self.size.width - 2, 10), height))

    # -- messages -----------------------------------------------------------------------------------------------

    async def on_key(self, event: events.Key) -> None:
        """Letters that follow `/` closely go into the filter, as on a slow line, where keys come in bunches.

        The app runs a binding only after a key has gone up to it; by then the next letters are on their way to a list,
        and `o` would show the optimizer. So the screen, which they pass, opens views and filter by itself.
        """
        field = self.query_one("#filter", Input)
        if field.display:
            if event.is_printable and event.character and self.opened is not None:
                field.insert_text_at_cursor(event.character)
                event.stop()
            return
        active = self.active_bindings.get(event.key)
        if active is None or active.node is not self or not active.enabled:
            return
        if active.binding.action == "filter" or active.binding.action.startswith("view("):
            event.stop()
            await self.run_action(active.binding.action)

    @on(VirtualList.Moved)
    def _cursor_moved(self, message: VirtualList.Moved) -> None:
        if message.virtual_list.id == self.view:
            self._show_detail()

    @on(VirtualList.Selected)
    def _row_selected(self, message: VirtualList.Selected) -> None:
        row = message.virtual_list.cursor_row
        if isinstance(row, Node) and row.can_open and not self._filters["tree"]:
            self._toggle(message.index)
        elif tensor_of(row) is not None:
            self.action_statistics()

    @on(VirtualList.TitlePressed, "#tensors")
    def _tensor_title_pressed(self, message: VirtualList.TitlePressed) -> None:
        if self.opened is not None:
            sort = rows.sort_of_column(self.opened.table, message.column)
            if sort is not None:
                self._sort_by(sort, is_reversed=sort == self._sort and not self._is_reversed)

    @on(VirtualList.TitlePressed, "#tree")
    def _tree_title_pressed(self, message: VirtualList.TitlePressed) -> None:
        if self.opened is not None:
            tree = self.opened.tree
            sort = {"of all": "size"}.get(
                rows.TREE_COLUMNS[message.column].title, rows.TREE_COLUMNS[message.column].title
            )
            if sort in TREE_SORTS:
                self._sort_by(sort, is_reversed=sort == tree.sort and not tree.is_reversed)

    @on(ViewTabs.Chosen)
    def _tab_chosen(self, message: ViewTabs.Chosen) -> None:
        self.action_view(message.view_id)

    @on(Input.Changed, "#filter")
    def _filter_changed(self, message: Input.Changed) -> None:
        if self.opened is None:
            return
        words = message.value.strip()
        if words == self._filters[self.view]:
            return
        self._filters[self.view] = words
        self._fill(self.view, keep_cursor=False)
        self._show_rule()
        self._show_detail()

    @on(Input.Submitted, "#filter")
    def _filter_submitted(self) -> None:
        self._end_filter()

    # -- actions ------------------------------------------------------------------------------------------------

    def action_view(self, view: str) -> None:
        self._end_filter()
        if self.opened is not None and view in self._not_filled:
            self._fill(view)
        self.query_one("#lists", ContentSwitcher).current = view
        self.query_one(ViewTabs).active = view
        self.set_focus(self._list(view))
        self.refresh_bindings()
        self._show_rule()
        self._show_detail()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if self.opened is None and action in ("filter", "sort", "reverse", "statistics"):
            return False
        if action in ("sort", "reverse"):
            return self.view == "tensors" or (self.view == "tree" and not self._filters["tree"])
        return action != "statistics" or self.view in ("tree", "tensors")

    def action_filter(self) -> None:
        if self.opened is None:
            return
        field = self.query_one("#filter", Input)
        field.value = self._filters[self.view]
        field.display = True
        self.query_one("#rule").display = False
        self.set_focus(field)  # at once, so that the next letter goes into it

    def _clear_filter(self) -> None:
        """Every row again, the cursor where it was: what was found is seen in its place."""
        row = self._list(self.view).cursor_row
        was_filtered = bool(self._filters[self.view])
        self._filters[self.view] = ""
        self.query_one("#filter", Input).value = ""
        if self.opened is not None and was_filtered:
            self._fill(self.view)
            if isinstance(row, Node):
                index = self.opened.tree.reveal(row.path)
                self._list("tree").rows_changed(self.opened.tree.rows, from_index=0)
                self._list("tree").cursor = index
        self._end_filter()
        self._show_rule()
        self._show_detail()

    def _end_filter(self) -> None:
        field = self.query_one("#filter", Input)
        if field.display:
            field.display = False
            self.query_one("#rule").display = True
            self._show_rule()
            self.set_focus(self._list(self.view))

    def action_sort(self) -> None:
        if self.opened is None:
            return
        if self.view == "tree":
            sorts, now = TREE_SORTS, self.opened.tree.sort
        else:
            sorts, now = self.opened.table.sorts, self._sort
        self._sort_by(sorts[(sorts.index(now) + 1) % len(sorts)], is_reversed=False)

    def action_reverse(self) -> None:
        if self.opened is None:
            return
        if self.view == "tree":
            self._sort_by(self.opened.tree.sort, is_reversed=not self.opened.tree.is_reversed)
        else:
            self._sort_by(self._sort, is_reversed=not self._is_reversed)

    def _sort_by(self, sort: str, *, is_reversed: bool) -> None:
        """Sort the view that is shown; what was under the cursor in the tree stays there, a list begins anew."""
        assert self.opened is not None
        shown = self._list(self.view)
        if self.view == "tree":
            row = shown.cursor_row
            self.opened.tree.sort_by(sort, is_reversed=is_reversed)
            shown.set_columns(rows.tree_columns(sort, is_reversed, has_files=bool(self.opened.files)))
            if not self._filters["tree"]:
                shown.rows_changed(self.opened.tree.rows, from_index=0)
                if row is not None:
                    shown.cursor = indexOf(self.opened.tree.rows, row)
        else:
            self._sort, self._is_reversed = sort, is_reversed
            shown.set_columns(rows.tensor_columns(self.opened.table, sort, is_reversed))
            self._fill("tensors", keep_cursor=False)
            shown.action_move_to_start()
        self._show_rule()

    def action_statistics(self) -> None:
        """Read the values of the tensor under the cursor, in a thread."""
        if self.opened is None:
            return
        tensor = tensor_of(self._list(self.view).cursor_row)
        if tensor is None:
            app_of(self).say("Statistics are those of one tensor: go to one (n lists them all).")
            return
        if not self._detail.begin(tensor):
            return
        progress = ByteProgress(self, "statistics", "reading", tensor.size_bytes)
        self.start_work("statistics", partial(read_statistics, self.opened.checkpoint, tensor, progress))
        self._show_detail()

    def action_validate(self) -> None:
        from ckpt_tui.tui.screens.validate import ValidateScreen

        self.app.push_screen(ValidateScreen([self.path]))

    def _toggle(self, index: int) -> None:
        assert self.opened is not None
        self.opened.tree.toggle(index)
        self._tree_changed(index)

    def _tree_changed(self, index: int) -> None:
        assert self.opened is not None
        tree_list = self._list("tree")
        tree_list.rows_changed(self.opened.tree.rows, from_index=index)
        self._show_rule()

    def action_open_branch(self) -> None:
        if self.opened is None or self.view != "tree" or self._filters["tree"]:
            return
        index = self._list("tree").cursor
        if index < len(self.opened.tree.rows) and self.opened.tree.rows[index].can_open:
            if self.opened.tree.rows[index].is_open:
                self._list("tree").cursor = index + 1
            else:
                self._toggle(index)

    def action_close_branch(self) -> None:
        if self.opened is None or self.view != "tree" or self._filters["tree"] or not self.opened.tree.rows:
            return
        index = self._list("tree").cursor
        if self.opened.tree.rows[index].is_open:
            self._toggle(index)
        else:
            self._list("tree").cursor = self.opened.tree.parent(index)

    def action_leave(self) -> None:
        """One thing at a time: the filter being typed, the reading, the filter, the screen."""
        if self.query_one("#filter", Input).display or self._filters[self.view]:
            self._clear_filter()
        elif self._detail.being_read is not None:
            self.cancel_work("statistics")
            self._detail.being_read = None
            self._show_detail()
        else:
            self.cancel_work("open")
            gc.unfreeze()  # what the opening froze is now in nobody's way
            self.dismiss(None)


def _holds(words: list[str], *texts: str) -> bool:
    haystack = " ".join(texts).lower()
    return all(word in haystack for word in words)
