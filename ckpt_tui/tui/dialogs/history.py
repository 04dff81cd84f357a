"""What was done to a run directory, the newest first: what each deed still holds, and the way back and forth.

What could be freed of it is shown, file by file, before anything is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen

from ckpt_tui.text import plural, safe_text, size
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.dialogs.confirm import text_width
from ckpt_tui.tui.facts import clock_words
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

if TYPE_CHECKING:
    from ckpt_tui.services.deeds import History, PastDeed

Chosen = tuple[Literal["undo", "redo", "gc"], int]

_COLUMNS = (
    Column("", 3, align="right"),
    Column("deed", 8, grows=True, most=12),
    Column("when", 11, grows=True, most=16, priority=2),
    Column("state", 13),
    Column("set aside", 16, grows=True, priority=1),
)
_STATES = {
    "done": ("✓ done", "good"),
    "undone": ("↻ taken back", "dim"),
    "interrupted": ("▲ interrupted", "warning"),
    "conflict": ("▲ conflict", "warning"),
    "collected": ("· freed by gc", "dim"),
    "unreadable": ("? unreadable", "warning"),
}
_MOST_ROWS, _DETAIL_LINES = 8, 5


class HistoryDialog(ModalScreen["Chosen | None"]):
    """Ends with what shall be taken back or done again, as `plan_undo` and `plan_redo` mean it, that space shall be
    freed, or None."""

    CSS_PATH = "dialogs.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.HISTORY_KEYS)

    def __init__(self, history: History, now: float) -> None:
        super().__init__()
        self._history, self._now = history, now
        self._deeds = list(reversed(history.deeds))

    def compose(self) -> ComposeResult:
        history = self._history
        held = f", {size(history.size_bytes)} set aside" if history.size_bytes else ""
        title = f"{plural(len(history.deeds), 'deed')}{held}" if history.deeds else "Nothing was done here yet"
        with Vertical(classes="dialog dialog-history"):
            yield Words(line((title, "strong")), classes="dialog-title")
            yield VirtualList(
                _COLUMNS, self._cells, self._deeds, key=lambda deed: deed.number, show_header=False,
                empty_text="no restore, no rollback",
            )  # fmt: skip
            with VerticalScroll(classes="dialog-body", can_focus=False):
                yield Words(id="body_text")
        yield KeyLine()

    def on_mount(self) -> None:
        self._arrange()
        self.query_one(VirtualList).focus()
        self._show()

    def on_resize(self) -> None:
        self._arrange()
        self._show()

    def _arrange(self) -> None:
        room = self.app.size.height - 5  # its border and title, and the last line
        num_rows = max(min(len(self._deeds), _MOST_ROWS, room // 2), 1)
        self.query_one(VirtualList).styles.height = num_rows
        self.query_one(".dialog-body").styles.max_height = max(room - num_rows, 1)

    def _cells(self, deed: PastDeed) -> tuple[Cell, ...]:
        held = f"{plural(len(deed.held), 'file')}, {size(deed.size_bytes)}" if deed.held else ""
        return (
            (str(deed.number), "dim"), (safe_text(deed.act, 40), "strong"), clock_words(deed.at, self._now),
            _STATES.get(deed.state, (deed.state, "")), (held, "dim"),
        )  # fmt: skip

    @property
    def deed(self) -> PastDeed | None:
        """The one under the cursor."""
        row: PastDeed | None = self.query_one(VirtualList).cursor_row
        return row

    @on(VirtualList.Moved)
    def _show(self) -> None:
        self.query_one("#body_text", Words).update(self._body(text_width(self.app.size)))
        self.refresh_bindings()

    def _body(self, width: int) -> Content:
        deed, history = self.deed, self._history
        rows: list[Content] = []
        if deed is not None:
            rows += [Content("")]
            why_not = [paragraph(deed.why_not, width, "warning", mark="▲ ")] if deed.why_not else []
            is_open = deed.state in ("interrupted", "conflict")
            rows += why_not if is_open else []
            told = [*deed.told]
            if deed.state == "interrupted":  # its plan is not what was done
                told = [" ".join((*told, "What it was to do:"))]
            rows += [paragraph(sentence, width) for sentence in told]
            if deed.state == "interrupted":
                planned = [sentence for sentence in deed.sentences if not sentence.startswith("Needs ")]
                rows += [paragraph(sentence, width, "dim", mark="· ") for sentence in planned]
            rows += why_not if not is_open else []
            if deed.freed_words:
                rows.append(paragraph(deed.freed_words, width, "warning", mark="▲ "))
        if history.size_bytes:
            key = keys.key_words(app_of(self).settings.keymap.get("history.gc", "F").split(",")[0])
            rows.append(paragraph(f"{key} shows what could be freed of it, and asks.", width, "dim"))
        return lines(*rows)

    def to_copy(self) -> Copied | None:
        return Copied("text", str(self.query_one("#body_text", Words).content))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "undo":
            return self.deed is not None and self.deed.can_undo
        if action == "redo":
            return self._history.next_redo is not None
        if action == "gc":
            return bool(self._history.size_bytes)
        return True

    @on(VirtualList.Selected)
    def action_undo(self) -> None:
        """This one, and those after it."""
        if self.deed is not None and self.deed.can_undo:
            self.dismiss(("undo", self.deed.number))

    def action_redo(self) -> None:
        if self._history.next_redo is not None:
            self.dismiss(("redo", self._history.next_redo))

    def action_gc(self) -> None:
        if self._history.size_bytes:
            self.dismiss(("gc", 0))

    def action_leave(self) -> None:
        self.dismiss(None)
