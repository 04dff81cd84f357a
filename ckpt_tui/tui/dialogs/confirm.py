"""A question with a safe answer: what would happen, and two buttons of which the harmless one has the focus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.screen import ModalScreen, Screen
from textual.widgets import Button

from ckpt_tui.text import safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.paragraphs import paragraphs
from ckpt_tui.tui.styled import line
from ckpt_tui.tui.widgets.words import Words


def text_width(terminal: Size) -> int:
    """Of the text in a dialog: dialogs.tcss says how wide it is, its frame, and its bar where there is more to read."""
    if terminal.height < _SHORT:
        return max(min(terminal.width, 90) - 5, 20)
    return max(min(terminal.width * 9 // 10, 90) - 7, 20)


# Of dialogs.tcss: the lines of a dialog that are not its body, and from which height on it has all of them.
_FRAME_LINES, _SHORT_FRAME_LINES, _SHORT = 6, 4, 18


def written(dialog: Screen[Any], name: str) -> str:
    """The key of a row of DIALOG_KEYS, as this person has it."""
    row = next(row for row in keys.DIALOG_KEYS if row.id == f"dialog.{name}")
    return keys.key_words(app_of(dialog).settings.keymap.get(row.id, row.key).split(",")[0])


def leave_room(dialog: Screen[Any]) -> None:
    """The buttons stay in sight, however much there is to read."""
    height = dialog.app.size.height
    frame = _FRAME_LINES if height >= _SHORT else _SHORT_FRAME_LINES
    room = (int(height * 0.95) if height >= _SHORT else height) - frame
    dialog.query_one(".dialog-body").styles.max_height = max(room, 1)


class ConfirmDialog(ModalScreen[bool]):
    """Ends with True only when a person chose `yes_label`. Without one there is nothing to confirm, only to read."""

    CSS_PATH = "dialogs.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    AUTO_FOCUS = "#no"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,up", "app.focus_previous", "Previous button", show=False),
        Binding("right,down", "app.focus_next", "Next button", show=False),
        *keys.dialog_bindings("leave", "yes", "no", "page_up", "page_down"),
    ]

    def __init__(self, title: str, sentences: Sequence[str], *, yes_label: str = "", no_label: str = "Cancel") -> None:
        super().__init__()
        self._title_text = title
        self._sentences = tuple(sentences)
        self._yes_label = yes_label
        self._no_label = no_label

    def body(self, width: int) -> Content:
        """What a person reads before they answer, in lines of `width`."""
        return paragraphs(self._sentences, width)

    def more_buttons(self) -> Iterable[Button]:
        """Other ways on, which a dialog handles itself."""
        return ()

    def to_copy(self) -> Copied:
        text = self.query_one("#body_text", Words).content
        return Copied("text", f"{self._title_text}\n{text}")

    def on_resize(self) -> None:
        self.query_one("#body_text", Words).update(self.body(text_width(self.app.size)))
        leave_room(self)

    def on_mount(self) -> None:
        leave_room(self)

    def compose(self) -> ComposeResult:
        yes, no, leave = (written(self, name) for name in ("yes", "no", "leave"))
        hint = f"{yes} yes   {no} no   {leave} leave" if self._yes_label else f"Enter or {leave} closes"
        with Vertical(classes="dialog"):
            yield Words(line((self._title_text, "strong")), classes="dialog-title")
            with VerticalScroll(classes="dialog-body", can_focus=False):
                yield Words(self.body(text_width(self.app.size)), id="body_text")
            with Horizontal(classes="dialog-buttons"):
                yield Button(Content(safe_text(self._no_label)), id="no", compact=True)
                if self._yes_label:
                    yield Button(Content(safe_text(self._yes_label)), id="yes", compact=True, variant="warning")
                more = list(self.more_buttons())
                yield from more
                # Beside a third button there is no room for a word with each key.
                yield Words(line((f"{yes}/{no}, {leave} leaves" if more else hint, "dim")), classes="dialog-hint")

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id in ("yes", "no"):
            self.dismiss(event.button.id == "yes")

    def action_yes(self) -> None:
        self.dismiss(bool(self._yes_label))

    def action_leave(self) -> None:
        self.dismiss(False)

    def action_scroll_body(self, pages: int) -> None:
        body = self.query_one(".dialog-body", VerticalScroll)
        body.scroll_relative(y=pages * max(body.size.height - 1, 1), animate=False)
