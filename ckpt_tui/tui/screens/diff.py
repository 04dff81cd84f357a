"""Diff: what differs between two checkpoints, settings first with what each does to a resume, then the weights.

Both files are opened and compared in a thread, streamed; nothing of either is kept in memory.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import ContentSwitcher, Input

from ckpt_tui.errors import CkptError
from ckpt_tui.text import fit, metric
from ckpt_tui.tui import keys
from ckpt_tui.tui.picked_rows import PickedRows, WordFilter
from ckpt_tui.tui.screens.diff_order import SORTS, columns_in_order, in_order, sort_of_column
from ckpt_tui.tui.screens.diff_rows import (
    CHANGE_ROLES,
    MODULE_COLUMNS,
    OTHER_COLUMNS,
    SETTING_COLUMNS,
    TENSOR_COLUMNS,
    as_wide_as_told,
    module_cells,
    note_content,
    other_cells,
    row_content,
    setting_cells,
    short_path,
    verdict_content,
)
from ckpt_tui.tui.screens.work import ByteProgress, WorkScreen, worker_is_cancelled
from ckpt_tui.tui.styled import bar, error_content, line, lines
from ckpt_tui.tui.value_words import shape_text
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.steady_input import SteadyInput
from ckpt_tui.tui.widgets.view_tabs import View, ViewTabs
from ckpt_tui.tui.widgets.virtual_list import Cell, VirtualList
from ckpt_tui.tui.widgets.words import Words

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.diff import Diff
    from ckpt_tui.checkpoints.module_changes import ModuleChange
    from ckpt_tui.checkpoints.tensor_changes import TensorChange

VIEW_KEYS = {"settings": "s", "tensors": "n", "modules": "m", "other": "o"}
_SORTED_COLUMNS = {"tensors": TENSOR_COLUMNS, "modules": MODULE_COLUMNS}
_NUM_MEASURED = 1000  # rows whose texts say how wide a column has to be
_NUM_MODULES = 8  # rows at least, where the model parts into as many


class DiffScreen(WorkScreen[None]):
    """What changed from checkpoint `path_a` to `path_b`."""

    CSS_PATH = "diff.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.DIFF_KEYS)

    def __init__(self, path_a: str, path_b: str) -> None:
        super().__init__()
        self.path_a = path_a
        self.path_b = path_b
        self.diff: Diff | None = None
        self._progress = ""
        self._largest = 0.0
        self._largest_module = 0.0
        self._depth = 0
        self._with_same = False
        self._sort, self._is_reversed = SORTS[0], False
        self._tensors: list[TensorChange] = []  # all that may be shown, in order
        self._tensor_names = WordFilter([])
        self._stale: set[str] = set()  # views whose rows are not those that the words and the order ask for
        self._words: list[str] = []

    def compose(self) -> ComposeResult:
        yield Words(id="facts")
        yield ViewTabs([View(name, key, name) for name, key in VIEW_KEYS.items()], id="views")
        yield SteadyInput(id="filter", placeholder="words that the name must hold", compact=True)
        with ContentSwitcher(initial="settings", id="lists"):
            yield VirtualList[Any](SETTING_COLUMNS, setting_cells, id="settings")
            yield VirtualList[Any](TENSOR_COLUMNS, self._tensor_cells, id="tensors")
            yield VirtualList[Any](MODULE_COLUMNS, self._module_cells, id="modules")
            yield VirtualList[Any](OTHER_COLUMNS, other_cells, id="other")
        with Vertical(id="problem"):
            yield Words(id="problem_text")
        yield Words(id="detail")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#problem").display = False
        self.query_one("#filter").display = False
        self._list("settings").focus()
        self._start()

    def on_resize(self) -> None:
        self._show_facts()

    def _start(self) -> None:
        self.diff = None
        self._progress = "opening ..."
        self._show_facts()
        self.start_work("diff", partial(self._compare, self.path_a, self.path_b))

    def _compare(self, path_a: str, path_b: str) -> Diff:
        """Runs in a thread."""
        from ckpt_tui.checkpoints.diff import diff_checkpoints
        from ckpt_tui.checkpoints.registry import open_checkpoint

        a, b = open_checkpoint(path_a), open_checkpoint(path_b)
        progress = ByteProgress(self, "diff", "comparing", a.size_bytes + b.size_bytes)
        found = diff_checkpoints(a, b, on_bytes=progress.add, is_cancelled=worker_is_cancelled())
        del a, b
        gc.freeze()  # of 100,000 tensors: the collector need not look at them while keys are pressed
        return found

    def work_progress(self, group: str, text: str) -> None:
        self._progress = text
        self._show_facts()

    def work_failed(self, group: str, error: CkptError) -> None:
        self._progress = ""
        self.problem = error
        self.query_one("#lists").display = False
        self.query_one("#detail").display = False
        self.query_one("#problem").display = True
        self.query_one("#problem_text", Words).update(error_content(error))
        self._show_facts()

    def work_done(self, group: str, result: Any) -> None:
        from ckpt_tui.checkpoints.module_changes import shown_depth

        diff: Diff = result
        self.diff, self._progress = diff, ""
        self._largest = _largest(diff.tensors)
        self._order()
        self._depth = shown_depth(diff.modules, _NUM_MODULES)
        counts = {
            "settings": len(diff.hyperparameters),
            "tensors": len(diff.changed_tensors),
            "modules": len([module for module in self._modules() if module.num_changed]),
            "other": diff.num_other + len(diff.parts),
        }
        views = [View(name, key, f"{name} {counts[name]:,}") for name, key in VIEW_KEYS.items()]
        self.query_one(ViewTabs).set_views(views)
        self._show_rows()
        self._show_facts()
        self.refresh_bindings()
        if not diff.hyperparameters and diff.changed_tensors and self.view == "settings":
            self.action_view("tensors")

    def _order(self) -> None:
        """Put the tensors in order: once, and not for each letter of a filter."""
        assert self.diff is not None
        tensors = self.diff.tensors if self._with_same else self.diff.changed_tensors
        self._tensors = in_order(tensors, self._sort, is_reversed=self._is_reversed)
        self._tensor_names = WordFilter([tensor.name.lower() for tensor in self._tensors])

    def _show_rows(self) -> None:
        if self.diff is None:
            return
        self._show_empty_texts(self.diff)
        self._stale = set(VIEW_KEYS)
        self._fill(self.view)

    def _fill(self, view: str) -> None:
        """The rows of one view: those of the others when they are shown, and not for each letter of a filter."""
        if self.diff is None or view not in self._stale:
            return
        self._stale.discard(view)
        rows: Sequence[Any]
        if view == "settings":
            rows = [row for row in self.diff.hyperparameters if self._holds(row.key)]
            self._list(view).set_columns(as_wide_as_told(SETTING_COLUMNS, map(setting_cells, rows)))
        elif view == "tensors":
            rows = PickedRows(self._tensor_names.places(self._words), self._tensors.__getitem__)
        elif view == "modules":
            modules = in_order(self._modules(), self._sort, is_reversed=self._is_reversed)
            self._largest_module = _largest(modules)
            rows = [row for row in modules if self._holds(row.name)]
        else:
            parts = [row for row in self.diff.parts if self._holds(row.part)]
            rows = [*parts, *(row for row in self.diff.other if self._holds(row.path))]
            self._list(view).set_columns(as_wide_as_told(OTHER_COLUMNS, map(other_cells, rows[:_NUM_MEASURED])))
        self._list(view).set_rows(rows)

    def _show_empty_texts(self, diff: Diff) -> None:
        """What a list says that has no rows: with a filter, nothing about the checkpoints."""
        texts = {
            "settings": "the same settings in both",
            "tensors": f"all {len(diff.tensors):,} tensors are the same in both; a shows them",
            "modules": "no module changed; a shows them",
            "other": "everything else is the same in both",
        }
        filtered = f"nothing here holds `{' '.join(self._words)}`; Esc shows all" if self._words else ""
        for view, text in texts.items():
            self._list(view).set_empty_text(filtered or text)

    def _modules(self) -> list[ModuleChange]:
        """The modules at the depth that is shown; those that did not change only where everything is shown."""
        from ckpt_tui.checkpoints.module_changes import at_depth

        found = at_depth(self.diff.modules, self._depth) if self.diff is not None else []
        return [module for module in found if module.num_changed or self._with_same]

    def _holds(self, name: str) -> bool:
        lowered = name.lower()
        return all(word in lowered for word in self._words)

    def _module_cells(self, module: ModuleChange) -> tuple[Cell, ...]:
        return module_cells(module, _share(module.relative_l2, self._largest_module))

    def _tensor_cells(self, tensor: TensorChange) -> tuple[Cell, ...]:
        relative = tensor.relative_l2
        share = _share(relative, self._largest)
        return (
            tensor.name,
            (tensor.change, CHANGE_ROLES.get(tensor.change, "" if tensor.change == "value" else "dim")),
            metric(relative),
            metric(tensor.max_abs),
            "-" if tensor.cosine is None else f"{tensor.cosine:.6f}",
            (bar(share, 10), "dim"),
            shape_text(tensor.shape_b or tensor.shape_a or ()),
        )

    # -- lines --------------------------------------------------------------------------------------------------

    def _show_facts(self) -> None:
        width = max(self.size.width - 2, 10)
        rows = [
            line(("a  ", "dim"), (fit(short_path(self.path_a, self.path_b), width - 3, keep="end"), "strong")),
            line(("b  ", "dim"), (fit(short_path(self.path_b, self.path_a), width - 3, keep="end"), "strong")),
        ]
        if self._progress:
            rows.append(line((self._progress, "accent"), ("  Esc stops", "dim")))
        elif self.diff is not None:
            shown = line((f"only names with: {' '.join(self._words)}", "accent"), ("  Esc shows all", "dim"))
            rows.append(shown if self._words else verdict_content(self.diff))
        else:
            rows.append(line("could not be compared" if self.query_one("#problem").display else "stopped"))
        note = note_content(self.diff) if self.diff is not None else None
        self.set_class(note is not None, "-noted")
        if note is not None:
            rows.append(note)
        self.show("facts", lines(*rows))

    def _show_detail(self) -> None:
        row = self._list(self.view).cursor_row
        self.show("detail", row_content(row) if row is not None else Content(""))

    @property
    def view(self) -> str:
        return self.query_one("#lists", ContentSwitcher).current or "settings"

    def _list(self, view: str) -> VirtualList[Any]:
        return self.query_one(f"#{view}", VirtualList)

    # -- messages and actions -----------------------------------------------------------------------------------

    @on(VirtualList.Moved)
    def _moved(self, message: VirtualList.Moved) -> None:
        if message.virtual_list.id == self.view:
            self._show_detail()

    @on(ViewTabs.Chosen)
    def _tab_chosen(self, message: ViewTabs.Chosen) -> None:
        self.action_view(message.view_id)

    def action_view(self, view: str) -> None:
        self._fill(view)
        self.query_one("#lists", ContentSwitcher).current = view
        self.query_one(ViewTabs).active = view
        self.refresh_bindings()
        self._list(view).focus()
        self._show_detail()

    @on(VirtualList.Selected, "#modules")
    def _module_chosen(self, message: VirtualList.Selected) -> None:
        """The tensors of a module: those whose names hold its name."""
        module: ModuleChange | None = message.virtual_list.cursor_row
        if module is not None:
            self.query_one("#filter", Input).value = f"{module.name}." if module.name else ""
            self.action_view("tensors")

    def action_deeper(self, step: int) -> None:
        depths = {module.depth for module in self.diff.modules} if self.diff is not None else set()
        if self._depth + step in depths:
            self._depth += step
            self._show_rows()
        self.action_view("modules")

    def action_sort(self) -> None:
        self._sort_by(SORTS[(SORTS.index(self._sort) + 1) % len(SORTS)], is_reversed=False)

    def action_reverse(self) -> None:
        self._sort_by(self._sort, is_reversed=not self._is_reversed)

    @on(VirtualList.TitlePressed)
    def _title_pressed(self, message: VirtualList.TitlePressed) -> None:
        columns = _SORTED_COLUMNS.get(message.virtual_list.id or "")
        sort = sort_of_column(columns, message.column) if columns is not None and self.diff is not None else None
        if sort is not None:
            self._sort_by(sort, is_reversed=sort == self._sort and not self._is_reversed)

    def _sort_by(self, sort: str, *, is_reversed: bool) -> None:
        """Both lists in this order, from their beginnings."""
        self._sort, self._is_reversed = sort, is_reversed
        self._order()
        self._show_rows()
        for view, columns in _SORTED_COLUMNS.items():
            self._list(view).set_columns(columns_in_order(columns, sort, is_reversed=is_reversed))
            self._list(view).action_move_to_start()
        self._show_detail()

    def action_toggle_same(self) -> None:
        self._with_same = not self._with_same
        self._order()
        self._show_rows()
        self.action_view("modules" if self.view == "modules" else "tensors")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "deeper" and self.view != "modules":
            return False
        if action in ("sort", "reverse") and self.view not in _SORTED_COLUMNS:
            return False
        return self.diff is not None or action not in ("filter", "toggle_same", "swap", "deeper", "sort", "reverse")

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, message: Input.Changed) -> None:
        self._words = message.value.lower().split()
        self._show_rows()
        self._show_facts()

    @on(Input.Submitted, "#filter")
    def _end_filter(self) -> None:
        self.query_one("#filter").display = False
        self._list(self.view).focus()

    def action_swap(self) -> None:
        if self.diff is not None:
            self.path_a, self.path_b = self.path_b, self.path_a
            self._start()

    def action_leave(self) -> None:
        if self.query_one("#filter").display or self._words:
            self.query_one("#filter", Input).value = ""
            self._end_filter()
        elif self.cancel_work("diff"):
            self._progress = ""
            self._show_facts()
        else:
            gc.unfreeze()
            self.dismiss(None)


def _largest(changes: Iterable[TensorChange | ModuleChange]) -> float:
    relative = (change.relative_l2 for change in changes)
    return max((value for value in relative if value is not None and math.isfinite(value)), default=0.0)


def _share(relative: float | None, largest: float) -> float:
    return relative / largest if relative is not None and largest and math.isfinite(relative) else 0.0
