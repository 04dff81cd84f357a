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
from ckpt_tui.text import safe_text
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.words import Words


class ErrorDialog(ModalScreen[None]):
    """Shows `error` until it is closed. Nothing else happens."""

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#close"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="dialog.close", tooltip="Close this message"),
        Binding("c", "copy", "Copy", id="dialog.copy", tooltip="Copy the message to your clipboard (OSC 52)"),
    ]

    def __init__(self, error: CkptError) -> None:
        super().__init__()
        self.error = error

    def compose(self) -> ComposeResult:
        rows = [line(self.error.message, limit=4000)] if self.error.message else []
        if self.error.hint:
            rows += [Content(""), line(("-> ", "accent"), self.error.hint, limit=4000)]
        with Vertical(classes="dialog dialog-error"):
            yield Words(line(("✖ ", "error"), (self.error.title, "error")), classes="dialog-title")
            with VerticalScroll(classes="dialog-body", can_focus=False):
                yield Words(lines(*rows))
            with Horizontal(classes="dialog-buttons"):
                yield Button("Close", id="close", compact=True)
                yield Button("Copy", id="copy", compact=True)
                yield Words(line(("c copies, Esc closes", "dim")), classes="dialog-hint", id="hint")

    @on(Button.Pressed, "#close")
    def action_close(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed, "#copy")
    def action_copy(self) -> None:
        self.app.copy_to_clipboard(copied_text(self.error))
        self.query_one("#hint", Words).update(line(("copied", "good")))


def copied_text(error: CkptError) -> str:
    """The error as plain text, safe to paste into a shell or an issue."""
    parts = (error.title, error.message, error.hint)
    return "\n".join(safe_text(part, 4000) for part in parts if part)
