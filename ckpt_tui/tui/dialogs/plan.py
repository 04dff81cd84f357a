"""The plan of a restore, a rollback or an undo, to be read before it is carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.styled import line, lines

if TYPE_CHECKING:
    from ckpt_tui.services.restore import Plan

TITLES = {"restore": "Restore", "rollback": "Roll back", "undo": "Undo"}
YES_LABELS = {"restore": "Restore", "rollback": "Roll back", "undo": "Undo it"}


def title_of(plan: Plan) -> str:
    """What the plan would do, by name."""
    return TITLES.get(plan.act, plan.act)


class PlanDialog(ConfirmDialog):
    """Shows `plan`; True when it shall be carried out. Cancel has the focus; an empty plan can only be closed."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(
            TITLES.get(plan.act, plan.act),
            plan.sentences,
            yes_label="" if plan.is_empty else YES_LABELS.get(plan.act, plan.act),
            no_label="Close" if plan.is_empty else "Cancel",
        )
        self.plan = plan

    def body(self, width: int) -> Content:
        # The sentences name every file that changes; a list of the moves under them would say it all twice.
        rows = [paragraph(sentence, width) for sentence in self.plan.sentences]
        if self.plan.warnings:
            rows.append(Content(""))
            rows.extend(paragraph(warning, width, "warning", mark="▲ ") for warning in self.plan.warnings)
        if self.plan.steps:
            rows += [Content(""), line(("Nothing is deleted; u takes it back.", "dim"))]
        return lines(*rows)
