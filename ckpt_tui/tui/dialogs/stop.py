"""What a stop asks of which process, what is saved and what is at risk, to be read before it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from ckpt_tui.text import duration, plural, safe_text
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.styled import lines

if TYPE_CHECKING:
    from ckpt_tui.services.stop_plan import StopPlan


class StopDialog(ConfirmDialog):
    """True when the training shall be asked to save and end. What cannot be asked from here can only be read."""

    def __init__(self, plan: StopPlan) -> None:
        yes, no = ("Stop", "Let it run") if plan.asked_at is None else ("Wait for it", "Leave")
        if plan.refusals:
            yes, no = "", "Close"
        super().__init__("Stop the training", plan.sentences, yes_label=yes, no_label=no)
        self.plan = plan

    def body(self, width: int) -> Content:
        plan = self.plan
        rows = [paragraph(refusal, width, "error", mark="✖ ") for refusal in plan.refusals]
        rows += [paragraph(warning, width, "warning", mark="▲ ") for warning in plan.warnings]
        if plan.at_risk_steps and not any("would be lost" in one for one in (*plan.sentences, *plan.warnings)):
            took = f", {duration(plan.at_risk_s)} of training" if plan.at_risk_s > 0 else ""
            rows.append(paragraph(f"At risk now: {plural(plan.at_risk_steps, 'step')}{took}.", width, mark="▲ "))
        rows += [paragraph(sentence, width, mark="· ") for sentence in plan.sentences]
        if plan.refusals and plan.hint:
            rows.append(paragraph(safe_text(plan.hint, 400), width, "accent", mark="-> "))
        return lines(*rows)
