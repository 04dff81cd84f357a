"""Resume: from which checkpoint, with which settings and command, and what it skips, redoes and trains anew.

A changed setting is planned again at once, so that what is read here is what would be started. Enter starts only
what was planned without a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Input

from ckpt_tui.checkpoints.hparams import Effect, effect_among, flat_settings, goes_by_evaluations
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.tui import keys
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.judgement import effect_role, verdict_words
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.screens.work import WorkScreen
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.value_words import summary
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.steady_input import SteadyInput
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

if TYPE_CHECKING:
    from ckpt_tui.services.resume import ResumePlan

COLUMNS = (
    Column("setting", 14, grows=True, keep="middle"),
    Column("recorded", 12, grows=True),
    Column("new", 8, grows=True),
    Column("effect on the resume", 28, priority=1),  # the line below says it of the row under the cursor
)
# What a person may want to change comes first.
_ORDER = (Effect.COURSE, Effect.EXACTNESS, Effect.SAFE, Effect.UNKNOWN, Effect.IMPOSSIBLE)
_MOST_CHANGED = ("lr", "learning_rate", "max_steps", "total_steps")
_IF_CHANGED = {
    Effect.COURSE: "changes the course",
    Effect.EXACTNESS: "breaks exactness if changed",
    Effect.SAFE: "safe to change",
    Effect.UNKNOWN: "not known here",
    Effect.IMPOSSIBLE: "cannot be changed",
}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One recorded hyperparameter and the value typed for it; `new` is None while it stays as it is."""

    key: str
    recorded: object
    new: str | None
    effect: Effect

    @property
    def can_change(self) -> bool:
        """Only single values can be typed."""
        return self.effect is not Effect.IMPOSSIBLE and not isinstance(self.recorded, (dict, list, tuple))


class ResumeDialog(WorkScreen["ResumePlan | None"]):
    """Ends with the plan to start, or None. `replan` makes a plan from changed settings, as typed; it may be slow."""

    CSS_PATH = "resume.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.RESUME_KEYS)

    def __init__(
        self,
        directory: str,
        plan: ResumePlan,
        replan: Callable[[Mapping[str, str]], ResumePlan] | None = None,
        *,
        row: str = "",
    ) -> None:
        super().__init__()
        self._row_name = row
        self.directory = directory
        self.plan = plan
        self.changes: dict[str, str] = {}
        self._replan = replan or partial(_replan, directory, plan.source)
        self._problem: CkptError | None = None
        self._is_planning = False
        self._was_refused = False

    def compose(self) -> ComposeResult:
        yield Words(id="facts")
        with VerticalScroll(id="sentences"):
            yield Words(id="sentences_text")
        yield VirtualList[SettingRow](COLUMNS, setting_cells, self._rows(), id="settings", key=lambda row: row.key)
        with Horizontal(id="editor"):
            yield Words(id="editor_label")
            yield SteadyInput(id="editor_value", compact=True)
            yield Words(id="editor_hint")
        yield Words(id="effect")
        yield Words(id="command")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one("#editor").display = False
        self.settings.set_empty_text("the settings of this run are not recorded")
        self.settings.focus()
        self._show_plan()

    def to_copy(self) -> Copied | None:
        return Copied("command", self.plan.command_line)

    @property
    def settings(self) -> VirtualList[SettingRow]:
        return self.query_one("#settings", VirtualList)

    @property
    def is_editing(self) -> bool:
        return bool(self.query_one("#editor").display)

    def _rows(self) -> list[SettingRow]:
        recorded = self.plan.hyperparameters or {}
        is_by_evaluations = goes_by_evaluations(flat_settings({**recorded, **self.changes}))
        rows = [
            SettingRow(key, value, self.changes.get(key), effect_among(key, is_by_evaluations=is_by_evaluations))
            for key, value in recorded.items()
        ]
        return sorted(rows, key=_place_of)

    # -- drawing ------------------------------------------------------------------------------------------------

    def _show_plan(self) -> None:
        plan = self.plan
        words, role = verdict_words(plan.validation.verdict)
        self.show(
            "facts",
            line(("Resume from ", "dim"), (plan.checkpoint_name, "strong"), f"  step {plan.step:,}  ", (words, role)),
        )
        self._show_sentences()
        self.query_one("#command", Words).update(lines(line(("$ ", "dim"), (plan.command_line, "accent"), limit=8000)))
        self.settings.set_rows(self._rows())
        self._show_effect()

    def _show_sentences(self) -> None:
        width = max(self.size.width - 3, 20)  # its padding, and a scroll bar
        rows = [paragraph(refusal, width, "error", mark="✖ ") for refusal in self._refusals()]
        rows += [paragraph(warning, width, "warning", mark="▲ ") for warning in self.plan.warnings]
        rows += [paragraph(sentence, width) for sentence in self.plan.sentences]
        self.query_one("#sentences_text", Words).update(lines(*rows))

    def on_resize(self) -> None:
        self._show_sentences()

    def _refusals(self) -> list[str]:
        if self._problem is not None:
            problem = self._problem
            return [
                ". ".join(part.rstrip(".") for part in (problem.title, problem.message, problem.hint) if part) + "."
            ]
        return list(self.plan.refusals)

    def _show_effect(self) -> None:
        content: Content
        row = self.settings.cursor_row
        if self._is_planning:
            content = line(("planning again with the change ...", "accent"))
        elif self._was_refused:
            content = line(("✖ It cannot be started as it is: see above.", "error"))
        elif row is None:
            content = Content("")
        else:
            content = line((row.effect.explanation, effect_role(row.effect.value)))
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
        if row is None or self.is_editing:
            return
        self._was_refused = False
        if isinstance(row.recorded, (dict, list, tuple)):
            self.show("effect", line(("Only single values can be changed here.", "warning")))
            return
        self.query_one("#editor_hint", Words).update(line(("Enter takes it, Esc leaves it", "dim")))
        self.query_one("#editor_label", Words).update(line((row.key, "strong"), f"  {summary(row.recorded, 40)} -> "))
        self.query_one("#editor").display = True
        self.refresh_bindings()
        field = self.query_one("#editor_value", Input)
        field.value = row.new if row.new is not None else summary(row.recorded, 200)
        field.cursor_position = len(field.value)
        field.focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # While a value is typed Enter belongs to the field.
        return not (action in ("start", "edit", "reset") and self.is_editing)

    def _end_editing(self) -> None:
        self.query_one("#editor").display = False
        self.refresh_bindings()
        self.settings.focus()

    @on(Input.Submitted)
    def _apply(self) -> None:
        row = self.settings.cursor_row
        value = self.query_one("#editor_value", Input).value.strip()
        self._end_editing()
        if row is not None:
            self._change(row, None if value in ("", summary(row.recorded, 200)) else value)

    def _change(self, row: SettingRow, value: str | None) -> None:
        if self.changes.get(row.key) == value:
            return
        if value is None:
            del self.changes[row.key]
        else:
            self.changes[row.key] = value
        self._is_planning = True
        self.settings.set_rows(self._rows())
        self._show_effect()
        self.start_work("plan", partial(self._replan, dict(self.changes)))

    def action_reset(self) -> None:
        row = self.settings.cursor_row
        if row is not None and not self.is_editing:
            self._change(row, None)

    def work_done(self, group: str, result: Any) -> None:
        self.plan, self._problem, self._is_planning = result, None, False
        self._show_plan()

    def work_failed(self, group: str, error: CkptError) -> None:
        self._problem, self._is_planning = error, False
        self._show_plan()

    # -- ending -------------------------------------------------------------------------------------------------

    def action_start(self) -> None:
        """Start what is planned, unless that is being planned again or was refused."""
        if self._is_planning:
            return
        if self._refusals():
            self._was_refused = True
            self._show_effect()
        else:
            self.dismiss(self.plan)

    def action_leave(self) -> None:
        if self.is_editing:
            self._end_editing()
        else:
            self.cancel_work("plan")
            self.dismiss(None)


def _place_of(row: SettingRow) -> tuple[object, ...]:
    return (not row.can_change, row.key not in _MOST_CHANGED, _ORDER.index(row.effect), row.key)


def setting_cells(row: SettingRow) -> tuple[Cell, ...]:
    if row.new is None:
        return (row.key, summary(row.recorded), "", (_IF_CHANGED[row.effect], "dim"))
    return ((row.key, "strong"), summary(row.recorded), (f"-> {row.new}", "strong"), _effect_cell(row.effect))


def _effect_cell(effect: Effect) -> Cell:
    return (effect.words, effect_role(effect.value))


def _replan(directory: str, source: str, changes: Mapping[str, str]) -> ResumePlan:
    from ckpt_tui.services.resume import plan_resume

    return plan_resume(directory, source, changes)
