"""Choose one of several rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from ckpt_tui.text import cell_width, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.styled import line
from ckpt_tui.tui.widgets.virtual_list import Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

PickRow = str | tuple[str, str]


class PickDialog(ModalScreen[int | None]):
    """Ends with the index of the row that was chosen, or None. A row is its text, or its text and a note."""

    CSS_PATH = "dialogs.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.dialog_bindings("leave")

    def __init__(self, title: str, rows: Sequence[PickRow], *, selected: int = 0) -> None:
        super().__init__()
        self._title_text = title
        self._rows = [(row, "") if isinstance(row, str) else row for row in rows]
        self._selected = selected

    def compose(self) -> ComposeResult:
        note_width = min(max((cell_width(safe_text(note, 40)) for _, note in self._rows), default=0), 40)
        are_numbers = all(note.replace(",", "").isdigit() for _, note in self._rows if note)
        columns = (
            Column("", 12, grows=True, keep="middle"),
            Column("", max(note_width, 1), align="right" if are_numbers else "left", priority=1),
        )
        with Vertical(classes="dialog"):
            yield Words(line((self._title_text, "strong")), classes="dialog-title")
            rows = VirtualList[tuple[str, str]](
                columns,
                lambda row: (row[0], (row[1], "dim")),
                self._rows,
                show_header=False,
                empty_text="nothing to choose from",
            )
            frame = 4 if self.app.size.height < 18 else 6  # its border, title and hint
            rows.styles.height = max(min(len(self._rows), 14, self.app.size.height - frame), 1)
            yield rows
            yield Words(line(("Enter chooses, Esc leaves", "dim")), classes="dialog-hint")

    def on_mount(self) -> None:
        self.query_one(VirtualList).focus()
        self.query_one(VirtualList).cursor = self._selected

    @on(VirtualList.Selected)
    def _chosen(self, message: VirtualList.Selected) -> None:
        message.stop()
        self.dismiss(message.index)

    def action_leave(self) -> None:
        self.dismiss(None)
