"""What went wrong, in three parts: what, where and why, what to do. `c` copies it, through SSH too (OSC 52)."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button

from ckpt_tui.errors import CkptError
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.copying import copied_error
from ckpt_tui.tui.dialogs.confirm import text_width
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.words import Words


class ErrorDialog(ModalScreen[None]):
    """Shows `error` until it is closed. Nothing else happens."""

    CSS_PATH = "dialogs.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    AUTO_FOCUS = "#close"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="dialog.close", tooltip="Close this message"),
        Binding("c", "copy", "Copy", id="dialog.copy", tooltip="Copy the message to your clipboard (OSC 52)"),
        *keys.dialog_bindings(),
    ]

    def __init__(self, error: CkptError) -> None:
        super().__init__()
        self.error = error

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog dialog-error"):
            yield Words(line(("✖ ", "error"), (self.error.title, "error")), classes="dialog-title")
            with VerticalScroll(classes="dialog-body", can_focus=False):
                yield Words(self._body(), id="body_text")
            with Horizontal(classes="dialog-buttons"):
                yield Button("Close", id="close", compact=True)
                yield Button("Copy", id="copy", compact=True)
                yield Words(line(("c copies, Esc closes", "dim")), classes="dialog-hint", id="hint")

    def _body(self) -> Content:
        width = text_width(self.app.size.width)
        rows = [paragraph(self.error.message, width)] if self.error.message else []
        if self.error.hint:
            rows += [Content(""), paragraph(self.error.hint, width, mark="-> ")]
        return lines(*rows)

    def on_resize(self) -> None:
        self.query_one("#body_text", Words).update(self._body())

    @on(Button.Pressed, "#close")
    def action_close(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed, "#copy")
    def action_copy(self) -> None:
        said = app_of(self).copy(copied_error(self.error))
        self.query_one("#hint", Words).update(line((said.partition(":")[0], "good")))
