"""What restore, rollback and undo have in common: show the plan, ask, do it, say what was done."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from ckpt_tui.commands.confirm import add_confirm_arguments, confirm, sentence_lines
from ckpt_tui.output import CommandResult, ExitCode, Output, Style
from ckpt_tui.services.restore import Outcome, Plan, carry_out


def add_act_arguments(parser: argparse.ArgumentParser) -> None:
    add_confirm_arguments(parser)
    parser.add_argument("--force", action="store_true", help="even while a training holds the directory")


def act(plan_it: Callable[[Callable[[int], None]], Plan], args: argparse.Namespace, out: Output) -> CommandResult:
    """Plan, ask, carry out. Exit code 1 when the person said no."""
    with out.progress("checking") as progress:
        plan = plan_it(progress.advance)
    if plan.is_empty or args.dry_run:
        return CommandResult(data={**_plan_data(plan), "done": False}, view=lambda style: _plan_lines(plan, style))
    if not confirm(f"{plan.act.capitalize()} now?", plan.sentences, plan.warnings, yes=args.yes, out=out):
        return CommandResult(
            data={**_plan_data(plan), "done": False}, view=lambda style: ["Nothing was changed."],
            exit_code=ExitCode.DIFFERENT,
        )  # fmt: skip
    # Read, written and read back again.
    with out.progress("copying", total_bytes=2 * plan.bytes_needed or None) as progress:
        outcome = carry_out(plan, force=args.force, on_bytes=progress.advance)
    return CommandResult(
        data={**_plan_data(plan), **_outcome_data(outcome), "done": True},
        view=lambda style: _outcome_lines(plan, outcome, style),
    )


def _plan_data(plan: Plan) -> dict[str, object]:
    return {
        "act": plan.act,
        "directory": plan.directory,
        "steps": [
            {"action": s.action, "source": s.source, "target": s.target, "bytes": s.size_bytes, "replaces": s.replaces}
            for s in plan.steps
        ],
        "sources": [
            {"name": s.name, "step": s.step, "validity": s.validity, "levels": dict(s.levels)} for s in plan.sources
        ],
        "sentences": list(plan.sentences),
        "warnings": list(plan.warnings),
        "steps_given_up": plan.steps_given_up,
        "seconds_given_up": plan.seconds_given_up,
        "bytes_needed": plan.bytes_needed,
        "undoes": plan.undoes,
        "takes_back": list(plan.takes_back),
        "resume_would_take": plan.resume_takes,
        "unread": list(plan.unread),
    }


def _outcome_data(outcome: Outcome) -> dict[str, object]:
    return {"number": outcome.number, "set_aside": list(outcome.set_aside), "sentences": list(outcome.sentences)}


def _plan_lines(plan: Plan, style: Style) -> Iterator[str]:
    yield from sentence_lines(plan.sentences, plan.warnings, style)
    if not plan.is_empty:
        yield style.paint("Nothing was changed (--dry-run).", "dim")


def _outcome_lines(plan: Plan, outcome: Outcome, style: Style) -> Iterator[str]:
    yield style.paint(f"{style.glyph('✓', 'ok')} {plan.act} done", "good")
    yield from sentence_lines(outcome.sentences, plan.warnings, style)
