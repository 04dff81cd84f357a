"""The plan of a restore, a rollback or an undo, to be read before it is carried out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from ckpt_tui.text import size
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
from ckpt_tui.tui.styled import Part, line, lines

if TYPE_CHECKING:
    from ckpt_tui.services.restore import Plan, PlannedMove

TITLES = {"restore": "Restore", "rollback": "Roll back", "undo": "Undo"}
YES_LABELS = {"restore": "Restore", "rollback": "Roll back", "undo": "Undo it"}


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

    def body(self) -> Content:
        rows = [line(sentence, limit=4000) for sentence in self.plan.sentences]
        if self.plan.steps:
            rows.append(Content(""))
            rows.extend(move_content(move) for move in self.plan.steps)
        if self.plan.warnings:
            rows.append(Content(""))
            rows.extend(line(("▲ ", "warning"), (warning, "warning"), limit=4000) for warning in self.plan.warnings)
        if self.plan.steps:
            needs = f"Needs {size(self.plan.bytes_needed)} of disk. " if self.plan.bytes_needed else ""
            rows += [Content(""), line((f"{needs}Nothing is deleted; it can be undone.", "dim"))]
        return lines(*rows)


def move_content(move: PlannedMove) -> Content:
    """One file that changes: `copy  latest_backup.pt -> latest.pt  10.4 MB`, and what becomes of the present one."""
    parts: list[Part] = [(f"{move.action:<9}  ", "accent"), move.source, (" -> ", "dim"), move.target]
    content = line(*parts, (f"  {size(move.size_bytes)}", "dim"))
    if not move.replaces:
        return content
    return lines(content, line((f"{'':<9}  the present {move.target} is set aside", "dim")))
