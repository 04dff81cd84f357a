"""What went wrong, in three parts: what, where and why, what to do. `c` copies it, through SSH too (OSC 52).

Where a training ended at once, `o` leads to all that it printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button

from ckpt_tui.errors import CkptError
from ckpt_tui.text import fit, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.copying import copied_error
from ckpt_tui.tui.dialogs.confirm import leave_room, text_width, written
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.words import Words

_MOST_LINES = 8


class ErrorDialog(ModalScreen[str | None]):
    """Shows `error` until it is closed. Ends with `output` when a person wants to see that, else with None."""

    CSS_PATH = "dialogs.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    AUTO_FOCUS = "#close"
    BINDINGS: ClassVar[list[BindingType]] = keys.dialog_bindings("leave", "copy", "output", "page_up", "page_down")

    def __init__(self, error: CkptError, *, has_output: bool = False, last_lines: Sequence[str] = ()) -> None:
        super().__init__()
        self._last_lines = tuple(last_lines)
        self.error = error
        self._has_output = has_output

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog dialog-error"):
            yield Words(line(("✖ ", "error"), (self.error.title, "error")), classes="dialog-title")
            with VerticalScroll(classes="dialog-body", can_focus=False):
                yield Words(self._body(), id="body_text")
            with Horizontal(classes="dialog-buttons"):
                yield Button("Close", id="close", compact=True)
                yield Button("Copy", id="copy", compact=True)
                if self._has_output:
                    yield Button("Output", id="output", compact=True)
                copy, output, leave = (written(self, name) for name in ("copy", "output", "leave"))
                hint = f"{copy} copies, {leave} closes"
                if self._has_output:
                    hint = f"{copy} copy  {output} output  {leave}"
                yield Words(line((hint, "dim")), classes="dialog-hint", id="hint")

    def _body(self) -> Content:
        width = text_width(self.app.size)
        rows = [paragraph(self.error.message, width)] if self.error.message else []
        if self.error.hint:
            rows += [Content(""), paragraph(self.error.hint, width, mark="-> ")]
        if self._last_lines:
            rows += [Content(""), line(("Its last lines:", "dim"))]
            rows += [line((fit(safe_text(one, 400), width).rstrip(), "dim")) for one in self._last_lines[-_MOST_LINES:]]
        return lines(*rows)

    def on_resize(self) -> None:
        self.query_one("#body_text", Words).update(self._body())
        leave_room(self)

    def on_mount(self) -> None:
        leave_room(self)

    @on(Button.Pressed, "#close")
    def action_leave(self) -> None:
        self.dismiss(None)

    @on(Button.Pressed, "#output")
    def action_output(self) -> None:
        if self._has_output:
            self.dismiss("output")

    def action_scroll_body(self, pages: int) -> None:
        body = self.query_one(".dialog-body", VerticalScroll)
        body.scroll_relative(y=pages * max(body.size.height - 1, 1), animate=False)

    @on(Button.Pressed, "#copy")
    def action_copy(self) -> None:
        app = app_of(self)
        app.say(app.copy(copied_error(self.error)))
