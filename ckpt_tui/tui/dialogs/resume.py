"""Resume: from which checkpoint, with which settings and command, and what it skips, redoes and trains anew.

What is typed is judged at the field at once and planned again a moment later, so that what is read here is what would
be started. Enter starts only what was planned without a refusal, and only an Enter that was meant for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Input

from ckpt_tui.errors import CkptError
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.judgement import effect_role
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.resume_lines import head_line, in_short, sentence_lines
from ckpt_tui.tui.screens.work import ByteProgress, WorkScreen
from ckpt_tui.tui.setting_rows import (
    COLUMNS,
    COMMAND,
    SettingRow,
    as_template,
    judged,
    judged_command,
    plain_places,
    setting_cells,
    setting_rows,
    with_command,
)
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.value_words import summary
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.steady_input import SteadyInput
from ckpt_tui.tui.widgets.virtual_list import VirtualList
from ckpt_tui.tui.widgets.words import Words

if TYPE_CHECKING:
    from ckpt_tui.services.resume import ResumePlan

TYPED_FOR_S = 0.5  # from the last key to planning again
# An Enter sooner than this after another key, or after another plan came up, was meant for what was there before: it
# bounced, was held down or pasted, or a slow line brought it together with keys whose work is not done yet.
CALM_S = 0.5

Replan = Callable[[Mapping[str, str]], "ResumePlan"]


class ResumeDialog(WorkScreen["ResumePlan | None"]):
    """Ends with the plan to start, or None. `replan` makes a plan from changed settings, as typed; it may be slow.

    A command of the person's own is typed as a setting is, and stands among the changes under COMMAND.

    row: the checkpoint that a person was at in the list, to be chosen from here.
    """

    CSS_PATH = "resume.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (24, "-tall")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.RESUME_KEYS)

    def __init__(self, directory: str, plan: ResumePlan, replan: Replan | None = None, *, row: str = "") -> None:
        super().__init__()
        self.directory = directory
        self.plan = plan
        self.changes: dict[str, str] = {}
        self.source = plan.source
        self._command = _command_of(plan)
        self._sources = list(dict.fromkeys([plan.source, "auto", "latest", "best", *([row] if row else [])]))
        self._replan = replan
        self._planned: tuple[str, dict[str, str]] = (plan.source, {})  # what `plan` was made of
        self._problem: CkptError | None = None
        self._is_planning = False
        self._was_refused = False
        self._only_changed = False
        self._said: tuple[str, str] | None = None  # of what is being typed
        self._soon: Timer | None = None
        self._edited: SettingRow | None = None
        self._came_up_at = 0.0  # what is shown now
        self._forgotten = False  # the command that was kept: it can be kept again
        self._is_command_new = False  # with the next plan

    def compose(self) -> ComposeResult:
        yield Words(id="facts")
        with VerticalScroll(id="sentences", can_focus=False):
            yield Words(id="sentences_text")
        yield SteadyInput(id="filter", compact=True, placeholder="only settings that hold these words")
        yield VirtualList[SettingRow](COLUMNS, setting_cells, self._rows(), id="settings", key=lambda row: row.key)
        with Horizontal(id="editor"):
            yield Words(id="editor_label")
            yield SteadyInput(id="editor_value", compact=True)
            yield Words(id="editor_hint")
        yield Words(id="effect")
        with VerticalScroll(id="command"):
            yield Words(id="command_text")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#editor").display = False
        self.query_one("#filter").display = False
        self.settings.set_empty_text("the settings of this run are not recorded")
        self.settings.focus()
        self._show_plan()
        if not self._is_command_kept:
            self.start_work("forgotten", partial(_is_forgotten, self.directory))

    def on_screen_resume(self) -> None:
        self._came_up_at = time.monotonic()

    def to_copy(self) -> Copied | None:
        return Copied("command", self.plan.command_line)

    @property
    def settings(self) -> VirtualList[SettingRow]:
        return self.query_one("#settings", VirtualList)

    @property
    def is_editing(self) -> bool:
        return bool(self.query_one("#editor").display)

    @property
    def is_typing(self) -> bool:
        """Whether Enter and letters belong to a field."""
        return isinstance(self.focused, Input)

    def _rows(self) -> list[SettingRow]:
        words = self.query_one("#filter", Input).value if self.is_mounted else ""
        rows = setting_rows(self._recorded, self.changes, words=words, only_changed=self._only_changed)
        is_needed = not self._command
        return with_command(
            rows, self._command, self.changes, words=words, only_changed=self._only_changed, is_needed=is_needed
        )

    @property
    def _recorded(self) -> Mapping[str, object]:
        return self.plan.hyperparameters or {}

    # -- drawing ------------------------------------------------------------------------------------------------

    def _show_plan(self) -> None:
        self.query_one(KeyLine).labels_changed()
        self._show_facts()
        self._show_sentences()
        self._show_command()
        self._show_rows()

    def _show_facts(self) -> None:
        self.show("facts", head_line(self.plan, self.source, self.size.width))

    def _show_rows(self) -> None:
        self.settings.set_rows(self._rows())
        self._show_effect()

    def _show_command(self) -> None:
        command = self.plan.command_line
        shown = paragraph(command, max(self.size.width - 3, 20), "accent", mark="$ ") if command else line("")
        self.query_one("#command_text", Words).update(shown)

    def _show_sentences(self) -> None:
        width = max(self.size.width - 4, 20)  # its padding, and a scroll bar
        said = self._planned[1]
        rows = sentence_lines(self.plan, self._refusals(), said, width, is_forgotten=self._forgotten)
        self.query_one("#sentences_text", Words).update(lines(*rows))

    def on_resize(self) -> None:
        self._show_facts()
        self._show_sentences()
        self._show_command()
        self._show_effect()

    def _refusals(self) -> list[str]:
        if self._problem is not None:
            problem = self._problem
            return [
                ". ".join(part.rstrip(".") for part in (problem.title, problem.message, problem.hint) if part) + "."
            ]
        return list(self.plan.refusals)

    def _show_effect(self, progress: str = "") -> None:
        content: Content
        row = self.settings.cursor_row
        if self._said is not None and self.is_editing:
            text, role = self._said
            content = line((in_short(text, row, self.size.width), role))
        elif self._is_planning:
            content = line((f"planning again with the change ... {progress}", "accent"))
        elif self._was_refused:
            content = line(("✖ It cannot be started as it is: see above.", "error"))
        elif self.has_class("-whole-command"):  # what is against it, of which the rest stands above the table
            told = [*((f"✖ {one}", "error") for one in self._refusals())]
            told += [(f"▲ {one}", "warning") for one in self.plan.warnings]
            content = line(told[0]) if told else Content("")
        elif row is None:
            content = Content("")
        elif row.key == COMMAND:
            content = line(("The command that starts it: yours instead, with {checkpoint} and {settings} in it", "dim"))
        else:
            content = line((in_short(row.effect.explanation, row, self.size.width), effect_role(row.effect.value)))
        self.show("effect", content)

    @on(VirtualList.Moved)
    def _moved(self) -> None:
        self._was_refused = False
        self._show_effect()

    # -- editing ------------------------------------------------------------------------------------------------

    @on(VirtualList.Selected)
    def action_edit(self) -> None:
        """Edit the setting under the cursor. (Enter never comes here: a click on the row does.)"""
        row = self.settings.cursor_row
        if self.has_class("-whole-command"):
            row = with_command([], self._command, self.changes)[0]
        if row is None or self.is_editing:
            return
        self._was_refused = False
        if not row.is_single:
            self.show("effect", line(("Only single values can be changed here.", "warning")))
            return
        self._edited = row
        hint = "Enter takes it" if row.key == COMMAND else "Enter takes it, Esc leaves it"  # a command wants the room
        self.query_one("#editor_hint", Words).update(line((hint, "dim")))
        was = "" if row.key == COMMAND else f"  {summary(row.recorded, 40)}"
        self.query_one("#editor_label", Words).update(line((row.key, "strong"), f"{was} -> "))
        self._open("#editor")
        self.set_class(row.key == COMMAND, "-edits-command")
        field = self.query_one("#editor_value", Input)
        field.value = row.new if row.new is not None else _as_recorded(row)
        field.cursor_position = len(field.value)
        field.focus()
        self.refresh_bindings()

    @on(Input.Changed, "#editor_value")
    def _typing(self) -> None:
        row = self._edited
        if row is None or not self.is_editing:
            return
        value = self.query_one("#editor_value", Input).value
        if row.key == COMMAND:
            self._said = judged_command(value, self._command, self._recorded)
        else:
            self._said = judged(row, value, self._recorded)
        self._show_effect()
        if self._soon is not None:
            self._soon.stop()
        if self._said[1] != "error" or self._said[0].startswith("✖ The saved state"):
            self._soon = self.set_timer(TYPED_FOR_S, lambda: self._plan(self._with(row, value)))

    def _with(self, row: SettingRow, value: str) -> dict[str, str]:
        """The changes with this one; none where it is what was recorded."""
        changes = {key: text for key, text in self.changes.items() if key != row.key}
        if value.strip() not in ("", _as_recorded(row)):
            changes[row.key] = value.strip()
        return changes

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "forget" and not (self._forgotten or self._is_command_kept):
            return False
        return action == "leave" or not self.is_typing

    @property
    def _is_command_kept(self) -> bool:
        template = getattr(self.plan, "template", None)
        return template is not None and template.is_kept

    # The only place where it can be clicked.
    needed_keys = ("resume.start", "resume.forget")

    @property
    def key_labels(self) -> Mapping[str, tuple[str, ...]]:
        """On the last line, by their ids."""
        return {"resume.forget": ("keep command", "keep") if self._forgotten else ("forget command", "forget")}

    def _open(self, field: str, *, is_open: bool = True) -> None:
        self.query_one(field).display = is_open
        self.set_class(self.is_editing or bool(self.query_one("#filter").display), "-has-field")

    def _end_typing(self) -> None:
        if self._soon is not None:
            self._soon.stop()
        self._edited = self._said = None
        self._open("#editor", is_open=False)
        self.set_class(False, "-edits-command")
        (self.query_one("#command") if self.has_class("-whole-command") else self.settings).focus()
        self._show_effect()
        self.refresh_bindings()

    @on(Input.Submitted, "#editor_value")
    def _apply(self) -> None:
        row, value = self._edited, self.query_one("#editor_value", Input).value
        self._end_typing()
        if row is not None:
            self._change(self._with(row, value))

    def _change(self, changes: dict[str, str]) -> None:
        """`_plan` knows whether it has to: what was typed last may be planned already, or not at all."""
        is_other, self.changes = changes != self.changes, changes
        self._plan(changes)
        if is_other:
            self._show_rows()

    def _plan(self, changes: Mapping[str, str]) -> None:
        """Plan with `changes`, which may be no more than typed so far. The newest wins."""
        if self._planned == (self.source, dict(changes)) and not self._is_planning and self._problem is None:
            self._show_sentences()
            return
        self._is_planning = True
        self._planned = (self.source, dict(changes))
        self._show_effect()
        progress = ByteProgress(self, "plan", "reading", 0)
        self.start_work("plan", partial(self._made, self.source, dict(changes), progress))

    def _made(self, source: str, changes: Mapping[str, str], progress: ByteProgress) -> ResumePlan:
        if self._replan is not None:
            return self._replan(changes)
        from ckpt_tui.services.resume import plan_resume

        settings = {key: text for key, text in changes.items() if key != COMMAND}
        command = changes.get(COMMAND)
        return plan_resume(self.directory, source, settings, command=command, on_bytes=progress.add)

    def action_reset(self) -> None:
        row = self.settings.cursor_row
        if row is not None:
            self._change({key: text for key, text in self.changes.items() if key != row.key})

    def action_reset_all(self) -> None:
        self._change({})

    def action_source(self) -> None:
        """The next choice of a checkpoint."""
        self.source = self._sources[(self._sources.index(self.source) + 1) % len(self._sources)]
        self._plan(self.changes)

    def work_done(self, group: str, result: Any) -> None:
        if group == "forgotten":
            self._forgotten = bool(result)
            self._show_sentences()
            self.query_one(KeyLine).labels_changed()
            return
        if group == "forget":
            self._forgotten = bool(result)
            self._is_command_new = True
            self._planned = ("", {})  # somebody may have typed meanwhile
            self._plan(self.changes)
            return
        if self._is_command_new:
            self._command, self._is_command_new = _command_of(result), False
        self.plan, self._problem, self._is_planning = result, None, False
        self._came_up_at = time.monotonic()
        self._show_plan()

    def work_failed(self, group: str, error: CkptError) -> None:
        if group == "forgotten":
            return
        self._problem, self._is_planning = error, False
        if group == "forget":  # it is as it was; what was planned has to be planned again
            self._planned = (self.source, dict(self.changes))
        self._show_plan()

    def work_progress(self, group: str, text: str) -> None:
        if self._is_planning:
            self._show_effect(text)

    def action_forget(self) -> None:
        """Let the command go that is kept for the directory, or keep it again; and plan with what is then known."""
        if self._is_planning or self.is_working("forget"):
            return
        self._is_planning = True
        self._planned = ("", {})  # nothing starts that was planned before
        self._show_effect()
        self.start_work("forget", partial(_forget, self.directory, is_again=self._forgotten))

    # -- what is shown ------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        self._open("#filter")
        self.query_one("#filter").focus()
        self.refresh_bindings()

    @on(Input.Changed, "#filter")
    def _filter(self) -> None:
        self._show_rows()

    @on(Input.Submitted, "#filter")
    def _filtered(self) -> None:
        self._end_typing()

    def action_only_changed(self) -> None:
        self._only_changed = not self._only_changed
        empty = "nothing is changed yet" if self._only_changed else "the settings of this run are not recorded"
        self.settings.set_empty_text(empty)
        self._show_rows()

    def action_command(self) -> None:
        """The whole command, or the table again."""
        self.toggle_class("-whole-command")
        (self.query_one("#command") if self.has_class("-whole-command") else self.settings).focus()
        self._show_effect()

    # -- ending -------------------------------------------------------------------------------------------------

    def action_start(self) -> None:
        """Start what is planned, unless that is being planned again or was refused."""
        app = app_of(self)
        calm_s = min(app.pressed_at - self._came_up_at, app.quiet_s)
        if self._is_planning or self._planned != (self.source, self.changes):
            return
        if self._refusals():
            self._was_refused = True
            if self.has_class("-whole-command"):  # why stands above the table
                self.action_command()
            self._show_effect()
        elif calm_s < CALM_S:
            self.show("effect", line(("Enter came in haste: it starts when it is pressed once more.", "accent")))
        else:
            self.dismiss(self.plan)

    def action_leave(self) -> None:
        """Out of the field, the filter, the whole command, and only then of the dialog."""
        words = self.query_one("#filter", Input)
        if self.is_editing:
            self._end_typing()
            self._plan(self.changes)
        elif words.display:
            words.value = ""
            self._open("#filter", is_open=False)
            self._end_typing()
        elif self.has_class("-whole-command"):
            self.action_command()
        else:
            self.cancel_work("plan")
            self.dismiss(None)


def _forget(directory: str, *, is_again: bool) -> bool:
    """Whether the command is forgotten now."""
    from ckpt_tui.services.launchers.template import forget_template, keep_again

    if is_again:
        keep_again(directory)
        return False
    return forget_template(directory) is not None


def _is_forgotten(directory: str) -> bool:
    from ckpt_tui.services.launchers.template import forgotten_template

    return forgotten_template(directory) is not None


def _command_of(plan: ResumePlan) -> str:
    """What a command of a person's own begins as: the one that is kept, or what would run; "" where none is known."""
    template = getattr(plan, "template", None)
    if template is not None:
        return plain_places(str(template.line))
    return as_template(plan.command, plan.checkpoint_path, plan.checkpoint_name) if plan.command else ""


def _as_recorded(row: SettingRow) -> str:
    """What stands in the field of a row that is not changed."""
    return str(row.recorded) if row.key == COMMAND else summary(row.recorded, 200)
