"""A plan of a resume in sentences, for a person to read before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckpt_tui.checkpoints.hparams import Effect
from ckpt_tui.services import validity
from ckpt_tui.services.catalog import Catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.overrides import value_text
from ckpt_tui.services.plans import safe_name
from ckpt_tui.services.resume_choice import Choice, passed_over_words
from ckpt_tui.text import duration, plural

if TYPE_CHECKING:
    from ckpt_tui.services.resume import ResumePlan


def resume_sentences(plan: ResumePlan, choice: Choice, wanted: Mapping[str, object]) -> list[str]:
    """What it starts from, what it skips, redoes and trains anew, what changes, and where its output goes."""
    entry = choice.entry
    levels = [level for level, word in plan.validation.levels.items() if word == "pass"]
    checked = f"{plan.validation.verdict}: {', '.join(levels)}" if levels else plan.validation.verdict
    step = f"step {entry.step:,}" if entry.step is not None else "step not known"
    sentences = [f"Resumes from {safe_name(entry.name)} ({step}; {checked})."]
    sentences += [f"Passed over: {passed_over_words(row)}." for row in choice.passed_over]
    newest = max((other.step or 0 for other, _ in choice.passed_over), default=0)
    if newest > plan.step:
        sentences.append(f"With the newest one whole, it would be {plural(newest - plan.step, 'step')} less to redo.")
    parts = [f"Skips {plural(plan.steps_skipped, 'step')}"]
    if plan.steps_redone:
        time_words = f" ({duration(plan.redone_s)})" if plan.redone_s else ""
        parts.append(f"redoes {plural(plan.steps_redone, 'step')}{time_words}")
    if plan.total_steps:
        parts.append(f"then trains {plan.steps_new:,} new")
    total = f": about {duration(plan.redone_s + plan.new_s)}" if plan.redone_s + plan.new_s else ""
    sentences.append(", ".join(parts) + total + ".")
    differing = {change.key for change in plan.changes}
    for change in plan.changes:
        if change.effect is Effect.IMPOSSIBLE:
            continue  # among the refusals
        values = f"{value_text(change.a)} -> {value_text(change.b)}"
        sentences.append(f"{safe_name(change.key)}: {values}, {change.effect.words}.")
    for key in wanted:
        if key not in differing:
            sentences.append(f"{safe_name(key)} is {value_text(wanted[key])} already.")
    if plan.launcher == "sbatch":
        sentences.append(f"Submits a job with sbatch; what sbatch says goes to session_{plan.session}.log.")
    elif plan.command:
        sentences.append(f"Starts detached, outlives this connection; output in session_{plan.session}.log.")
    return sentences


def branch_warning(catalog: Catalog, entry: CatalogEntry) -> list[str]:
    """What becomes of newer checkpoints: our trainer leaves them behind, others take the highest step again."""
    if entry.step is None:
        return []
    newer = [e for e in resume_order(catalog.entries) if e.step is not None and e.step > entry.step and e.is_candidate]
    newer = [e for e in newer if (known := validity.recall(e.path)) is None or known.verdict == "valid"]
    if not newer:
        return []
    if entry.session_id:
        return [
            f"Newer checkpoints stay here ({len(newer)}), abandoned: from now on `auto` takes none of them. To go on "
            f"from one later, name it: --resume {safe_name(newer[0].name)}."
        ]
    return [
        f"Newer checkpoints stay here ({len(newer)}): until step {newer[0].step:,} is passed, `auto` takes "
        f"{safe_name(newer[0].name)}. `ckpt-tui rollback` sets them aside first."
    ]
