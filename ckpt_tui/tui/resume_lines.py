"""What the resume dialog says of a plan: its head, its sentences, and the effect of the setting at the cursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from ckpt_tui.text import cell_width, fit, safe_text
from ckpt_tui.tui.judgement import verdict_words
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.setting_rows import SettingRow, without_said
from ckpt_tui.tui.styled import line, parts_width

if TYPE_CHECKING:
    from ckpt_tui.services.resume import ResumePlan

_NARROW = 60
_CHOSEN = {"auto": "chosen by auto", "latest": "as asked: latest", "best": "as asked: best"}
# What is not called by its name.
_LAUNCHERS = {"program": "as a program of its own", "template": "with a command of your own"}
_ALL_LEVELS = ("structure", "integrity", "numbers", "resume")


def head_line(plan: ResumePlan, source: str, num_columns: int) -> Content:
    """From what it resumes, why from that, and by which launcher. source: what was asked for."""
    words, role = verdict_words(plan.validation.verdict)
    levels = [level for level, outcome in plan.validation.levels.items() if outcome == "pass"]
    only = "" if len(levels) == len(_ALL_LEVELS) or not levels else f" only {', '.join(levels)}"
    width = num_columns - 2
    name = fit(safe_text(plan.checkpoint_name, 300), max(width - cell_width(words) - 2, 8)).rstrip()
    # In the order in which they are read, the least important last: what does not fit is left out, word by word.
    parts = [
        (("Resume from ", "dim"), 5 if num_columns >= _NARROW else 9), ((name, "strong"), 0),
        ((f"  step {plan.step:,}", ""), 2), ((f"  {words}", role), 1), ((only, "warning"), 3),
        ((f"   {_CHOSEN.get(source, 'as asked')}", "accent"), 4),
        ((f"   {_LAUNCHERS.get(plan.launcher, f'with {plan.launcher}')}" if plan.launcher else "", "dim"), 6),
    ]  # fmt: skip
    while parts_width([part for part, _ in parts]) > width and len(parts) > 1:
        parts.remove(max(parts, key=lambda part: part[1]))
    return line(*(part for part, _ in parts))


def sentence_lines(
    plan: ResumePlan, refusals: Sequence[str], changes: Mapping[str, str], width: int, *, is_forgotten: bool
) -> list[Content]:
    """What stands against it first. changes: those that it was planned with, which the table tells already.
    is_forgotten: there is a command of the person's own that was let go."""
    rows = [paragraph(refusal, width, "error", mark="✖ ") for refusal in refusals]
    rows += [paragraph(warning, width, "warning", mark="▲ ") for warning in plan.warnings]
    rows += [paragraph(hint, width, mark="-> ") for hint in getattr(plan, "hints", ())]
    if template := getattr(plan, "template", None):
        kept = "is kept for this directory; K forgets it." if template.is_kept else "will be kept for the next resumes."
        rows.append(paragraph(f"The command is your own, and {kept}", width))
    if is_forgotten:
        rows.append(paragraph("The command of your own is forgotten, and no longer used; K keeps it again.", width))
    return [*rows, *(paragraph(one, width) for one in without_said(plan.sentences, changes))]


def in_short(text: str, row: SettingRow | None, num_columns: int) -> str:
    """An effect without its second half, or in a word or two, where the end of the line would cut it anywhere."""
    if row is None:
        return text
    whole = row.effect.explanation
    shorter = (text, text.replace(whole, whole.partition(":")[0]), text.replace(whole, row.effect.words))
    return next((one for one in shorter if cell_width(one) <= num_columns - 2), shorter[-1])
