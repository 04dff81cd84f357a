"""What happened here: a step with what was around it, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen

from ckpt_tui.run.moment import Moment
from ckpt_tui.run.moment_words import moment_lines, steps_words, way_back
from ckpt_tui.run.wording import Line
from ckpt_tui.tui import keys
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.words import Words

# Roles of `output.Style`, which wording speaks, as those of `styled`.
_ROLES = {"good": "good", "bad": "error", "warn": "warning", "accent": "accent", "dim": "dim", "bold": "strong"}

# Of the style sheet: the widest it gets, its border and padding at both sides, and its lines that are not the body.
_MOST_CELLS, _FRAME_CELLS, _OTHER_LINES = 90, 6, 7


class MomentDialog(ModalScreen[str | None]):
    """Ends with the name of the checkpoint to go to in the list, or None."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *keys.bindings_of(keys.MOMENT_KEYS),
        *keys.dialog_bindings(),
    ]

    def __init__(
        self, told: Moment, *, why: str = "", validity: Mapping[str, str] | None = None, can_act: bool = True,
        unicode: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self._told, self._why, self._validity, self._can_act = told, why, validity or {}, can_act
        self._unicode = unicode

    def compose(self) -> ComposeResult:
        told = self._told
        width = min(int(self.app.size.width * 0.9), _MOST_CELLS) - _FRAME_CELLS
        steps = steps_words(told)
        title = line((steps.capitalize(), "strong"))
        if width >= 60:
            title = line((f"What happened at {steps}", "strong"), (f"   {self._why}", "dim"))
        body = [_content(one) for one in moment_lines(told, unicode=self._unicode, width=width)]
        with Vertical(classes="dialog dialog-moment"):
            yield Words(title, classes="dialog-title")
            with VerticalScroll(classes="dialog-body", can_focus=False):
                yield Words(lines(*body))
            yield Words(_content(way_back(told, self._validity)), classes="dialog-way-back")
            yield Words(line((self._hint(), "dim")), classes="dialog-hint")

    def show_way_back(self, told: Moment, validity: Mapping[str, str]) -> None:
        """The files have been looked at since: the same moment, and what is known of the way back now."""
        self._told, self._validity = told, validity
        self.query_one(".dialog-way-back", Words).update(_content(way_back(told, validity)))
        self.query_one(".dialog-hint", Words).update(line((self._hint(), "dim")))

    def to_copy(self) -> Copied:
        words = [one for one in self.query(Words) if not one.has_class("dialog-hint")]
        return Copied("text", "\n".join(str(one.content) for one in words))

    def on_resize(self) -> None:
        """What matters most is below: it stays in sight, and the rest is scrolled."""
        room = int(self.size.height * 0.95) - _OTHER_LINES
        self.query_one(".dialog-body", VerticalScroll).styles.max_height = max(room, 2)

    def _hint(self) -> str:
        if self._told.save is None:
            return "Esc leaves"
        if self.app.size.width < 60:
            return "g goes to it   Esc leaves"
        rolls = ", there b rolls back to it" if self._can_act else ""
        return f"g finds it in the list{rolls}   Esc leaves"

    def action_go(self) -> None:
        self.dismiss(self._told.save.path if self._told.save is not None else None)

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_scroll_body(self, by: int) -> None:
        self.query_one(".dialog-body", VerticalScroll).scroll_relative(y=by, animate=False)


def _content(one: Line) -> Content:
    return line(*((text, _ROLES.get(role, "")) for text, role in one))
