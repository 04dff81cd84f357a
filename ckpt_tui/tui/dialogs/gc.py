"""What would be freed, file by file, and what that costs, to be read before anything goes: the one act that deletes.

The lines and sentences are those of the command and of its JSON. First what it comes to, then what cannot be had back
afterwards, then every file: a person on a small screen has read what counts before they scroll.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from ckpt_tui.text import cell_width, fit, run_word, size
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
from ckpt_tui.tui.paragraphs import broken, paragraph
from ckpt_tui.tui.styled import line, lines

if TYPE_CHECKING:
    from ckpt_tui.services.gc import GcPlan
    from ckpt_tui.services.gc_words import GcRow

_LEAST_NAME = 10


class GcDialog(ConfirmDialog):
    """Shows `plan`; True when what it chose shall go. Cancel has the focus; an empty plan can only be closed."""

    def __init__(self, plan: GcPlan) -> None:
        can_be_done = not plan.is_empty and not plan.refusals
        super().__init__(
            "Free space",
            plan.sentences,
            yes_label=f"Free {size(plan.freed_bytes)}" if can_be_done else "",
            no_label="Cancel" if can_be_done else "Close",
        )
        self.plan = plan

    def body(self, width: int) -> Content:
        from ckpt_tui.services.gc_words import rows_of

        width -= 1  # of a body that is scrolled the bar takes one more
        plan = self.plan
        rows = [paragraph(refusal, width, "error", mark="✖ ") for refusal in plan.refusals]
        first, *others = plan.sentences
        rows.append(paragraph(first, width, mark="▸ "))
        losses = sorted(
            others, key=lambda said: said in plan.afterwards
        )  # that it deletes, before anything is scrolled
        rows += [paragraph(sentence, width, "warning", mark="▲ ") for sentence in losses]
        rows += [paragraph(warning, width, "warning", mark="▲ ") for warning in plan.warnings]
        told = rows_of(plan)
        if told:
            rows += [Content(""), *_file_lines(told, width)]
        if any(item.kind == "quarantine" and not item.is_chosen for item in plan.items):
            command = f"ckpt-tui gc {run_word(plan.directory)} --quarantine"
            rows += [Content(""), paragraph(f"`{command}` frees what is in quarantine, too.", width, "dim")]
        return lines(*rows)


def _file_lines(rows: Sequence[GcRow], width: int) -> list[Content]:
    """Each file on a line under its heading; why on the next one where it has no room."""
    from ckpt_tui.services.gc_words import NAME_CELLS

    found: list[Content] = []
    step_width = max((cell_width(row.step) for row in rows), default=0)
    size_width = max((cell_width(row.size) for row in rows), default=0)
    beside = 2 + (2 + step_width if step_width else 0) + 2 + size_width
    has_steps = width - beside >= _LEAST_NAME + 8
    beside -= 0 if has_steps or not step_width else 2 + step_width
    longest = min(max((cell_width(row.name) for row in rows), default=0), NAME_CELLS)
    name_width = min(longest, max(width - beside, _LEAST_NAME))
    heading = ""
    for row in rows:
        if row.heading != heading:
            heading = row.heading
            found.append(paragraph(heading, width, "strong"))
        if not row.name:
            continue
        mark, role = ("✖ ", "warning") if row.is_chosen else ("· ", "dim")
        step = f"  {fit(row.step, step_width, 'right')}" if has_steps and step_width else ""
        cells = f"{fit(row.name, name_width, 'left', 'end')}{step}  {fit(row.size, size_width, 'right')}"
        why = row.why if has_steps or not row.step else f"{row.step}, {row.why}"
        why_role = "" if row.is_chosen else "dim"
        if 2 + cell_width(cells) + 2 + cell_width(why) <= width:
            found.append(line((mark, role), cells, (f"  {why}", why_role)))
        else:
            found.append(line((mark, role), cells))
            found += [line((f"    {part}", why_role)) for part in broken(why, max(width - 4, 10))]
    return found
