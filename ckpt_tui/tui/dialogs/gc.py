"""What would be freed, file by file, and what that costs, to be read before anything goes: the one act that deletes.

A person chooses: space, Enter or a click takes a file from what goes, or adds it; the plan is made anew, in a thread,
and what it comes to is told again. The lines and sentences are those of the command and of its JSON. First what it
comes to, then the file under the cursor, then what cannot be had back: who reads a small screen has read what counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Button

from ckpt_tui.errors import CkptError
from ckpt_tui.services.gc_words import GcChoice, choices_of
from ckpt_tui.text import size
from ckpt_tui.tui import keys
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog, text_width, written
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

if TYPE_CHECKING:
    from ckpt_tui.services.gc import GcPlan

Replan = Callable[[frozenset[str]], "GcPlan"]
_COLUMNS = (
    Column("", 3),
    Column("", 14, grows=True, most=44, keep="end"),
    Column("", 8, align="right"),
    Column("", 22, grows=True, priority=1),
)


class PickList(VirtualList[GcChoice]):
    """One click on a row is enough to choose it."""

    async def _on_click(self, event: events.Click) -> None:
        before = self.cursor
        await super()._on_click(event)
        event.prevent_default()  # of the same method of the class above, which was called already
        if self.cursor != before and event.button != 3:
            self.action_select()


class GcDialog(ConfirmDialog):
    """Shows `plan`; True when what `self.plan` has chosen by then shall go. An empty plan can only be closed.

    replan: makes the plan of what a person picked, in a thread; None where nothing is to be chosen.
    """

    AUTO_FOCUS = "PickList"
    BINDINGS: ClassVar[list[BindingType]] = keys.dialog_bindings("choose")

    def __init__(self, plan: GcPlan, replan: Replan | None = None) -> None:
        super().__init__("Free space", plan.sentences)
        self.plan = plan
        self._replan = replan
        self._choices = choices_of(plan)
        self._is_planning = False
        self._error = ""

    @property
    def can_be_done(self) -> bool:
        """Whether there is a plan of just what is chosen, and nothing speaks against it."""
        return not (self._is_planning or self._error or self.plan.is_empty or self.plan.refusals)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Words(line((self._title_text, "strong")), classes="dialog-title")
            yield PickList(
                _COLUMNS, _cells, self._choices, key=lambda choice: choice.place, show_header=False,
                empty_text="nothing lies aside",
            )  # fmt: skip
            with VerticalScroll(classes="dialog-body", can_focus=False):
                yield Words(id="body_text")
            with Horizontal(classes="dialog-buttons"):
                yield Button("Cancel", id="no", compact=True)
                yield Button("Free", id="yes", compact=True, variant="warning")
                yield Words(classes="dialog-hint")

    def on_mount(self, event: events.Mount) -> None:  # type: ignore[override]
        event.prevent_default()  # the class above would give the body all the room
        self._show()

    def on_resize(self, event: events.Resize) -> None:  # type: ignore[override]
        event.prevent_default()
        self._show()

    @on(VirtualList.Moved)
    def _show(self) -> None:
        height = self.app.size.height
        room = max((int(height * 0.95) - 6) if height >= 18 else height - 4, 2)
        num_rows = max(min(len(self._choices), room // (2 if height >= 18 else 3)), 1)
        self.query_one(PickList).styles.height = num_rows
        self.query_one(".dialog-body").styles.max_height = max(room - num_rows, 1)
        self.query_one("#body_text", Words).update(self.body(text_width(self.app.size)))
        yes, no = self.query_one("#yes", Button), self.query_one("#no", Button)
        yes.display = self.can_be_done
        yes.label = f"Free {size(self.plan.freed_bytes)}"
        no.label = "Cancel" if self.can_be_done or self._is_planning else "Close"
        ways = [f"{written(self, 'choose')} choose"] if self._replan is not None and self._choices else []
        ways += [f"{written(self, 'yes')} yes"] if self.can_be_done else []
        self.query_one(".dialog-hint", Words).update(
            line(("   ".join([*ways, f"{written(self, 'leave')} leave"]), "dim"))
        )

    def body(self, width: int) -> Content:
        width -= 1  # of a body that is scrolled the bar takes one more
        plan = self.plan
        rows = [paragraph(refusal, width, "error", mark="✖ ") for refusal in plan.refusals]
        first, *others = plan.sentences
        rows.append(paragraph("Planning …" if self._is_planning else self._error or first, width, mark="▸ "))
        # That it deletes, before anything is scrolled.
        deletes = [said for said in others if said not in plan.afterwards]
        rows += [paragraph(sentence, width, "warning", mark="▲ ") for sentence in deletes]
        choice = self._at_cursor()
        if choice is not None:
            rows.append(paragraph(choice.heading, width, "strong"))
            what = "goes" if choice.is_chosen else "stays"
            told = ", ".join(part for part in (choice.name, choice.step, choice.size) if part)
            rows.append(paragraph(f"{told} {what}: {choice.why}", width))
        rows += [paragraph(sentence, width, "warning", mark="▲ ") for sentence in plan.afterwards]
        rows += [paragraph(warning, width, "warning", mark="▲ ") for warning in plan.warnings]
        return lines(*rows)

    def _at_cursor(self) -> GcChoice | None:
        if not self.is_mounted:
            return self._choices[0] if self._choices else None
        row: GcChoice | None = self.query_one(PickList).cursor_row
        return row

    @on(VirtualList.Selected)
    def action_choose(self) -> None:
        """Free this one, or keep it."""
        choice = self._at_cursor()
        if choice is None or self._replan is None:
            return
        self._choices = [
            replace(one, is_chosen=not one.is_chosen) if one.place == choice.place else one for one in self._choices
        ]
        self._is_planning, self._error = True, ""
        self.query_one(PickList).set_rows(self._choices)
        self._show()
        self.run_worker(self._plan_anew(self._replan), group="gc-plan", exclusive=True, exit_on_error=False)

    async def _plan_anew(self, replan: Replan) -> None:
        picked = frozenset(choice.place for choice in self._choices if choice.is_chosen)
        try:
            self.plan = await asyncio.to_thread(replan, picked)
            self._choices = choices_of(self.plan)
        except CkptError as error:
            self._error = f"{error.title}: {error.message}"
        self._is_planning = False
        self.query_one(PickList).set_rows(self._choices)
        self._show()

    def action_yes(self) -> None:
        if self.can_be_done:
            self.dismiss(True)


def _cells(choice: GcChoice) -> tuple[Cell, ...]:
    role = "warning" if choice.is_chosen else "dim"
    mark = "[x]" if choice.is_chosen else "[ ]"
    return ((mark, role), choice.name, choice.size, (choice.why, "" if choice.is_chosen else "dim"))
