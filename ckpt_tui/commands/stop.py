"""Ask a running training to save and end, and wait until it has.

Sends SIGTERM to the process that trains, or to the supervisor or the torchrun that would start it again; the bundled
trainer and our callbacks then save and end. Tells what was saved, or how many steps were lost.
Exit code 1 when it is still at work after --timeout seconds, or ended without saving what it had trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui.commands.confirm import add_confirm_arguments, confirm, sentence_lines
from ckpt_tui.commands.waiting import Interrupted, seconds, teller
from ckpt_tui.output import CommandResult, ExitCode, Output, Style
from ckpt_tui.text import duration, plural, run_word

if TYPE_CHECKING:
    from ckpt_tui.services.stop_plan import StopPlan
    from ckpt_tui.services.stopping import Stopped

EXAMPLES = ("ckpt-tui stop runs/gpt", "ckpt-tui stop runs/gpt --yes --timeout 120", "ckpt-tui stop runs/gpt --kill")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument("--timeout", metavar="S", type=seconds, default=60.0, help="seconds to wait for it (60)")
    parser.add_argument(
        "--kill", action="store_true",
        help="when it is still at work after that: end it unsaved (SIGKILL), asked for once more",
    )  # fmt: skip
    add_confirm_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.stop_plan import plan_stop
    from ckpt_tui.services.stopping import stop

    plan = plan_stop(args.directory)
    data = _plan_data(plan)
    if args.dry_run:
        return CommandResult(data=data, view=lambda style: _plan_lines(plan, style))
    is_asked = plan.asked_at is not None  # only waited for: nothing to confirm
    if (
        not plan.refusals
        and not is_asked
        and not confirm("Stop it now?", plan.sentences, plan.warnings, yes=args.yes, out=out)
    ):
        return CommandResult(data=data, view=lambda style: ["It goes on."], exit_code=ExitCode.DIFFERENT)
    with Interrupted() as interrupted:
        stopped = stop(
            args.directory, args.timeout, plan=plan, on_progress=teller(out), is_cancelled=interrupted.is_set
        )
    if not stopped.has_ended and not stopped.is_cancelled and args.kill:
        stopped = _kill(plan, stopped, args, out)
    return CommandResult(
        data={**data, **_outcome_data(stopped)},
        view=lambda style: _outcome_lines(plan.directory, stopped, style),
        exit_code=_exit_code(stopped),
    )


def _kill(plan: StopPlan, stopped: Stopped, args: argparse.Namespace, out: Output) -> Stopped:
    """Asked once more, with what it costs now."""
    from ckpt_tui.services.stopping import kill

    costs = ["Nothing is lost: what it has trained is saved."]
    if stopped.lost_steps:
        costs = [f"{plural(stopped.lost_steps, 'step')} ({duration(stopped.lost_s)} of training) are lost by that."]
    elif stopped.lost_steps is None:
        costs = ["How much is lost by that is not known: it has no log."]
    if not confirm("Kill it now, unsaved?", [*stopped.sentences, *costs], [], yes=args.yes, out=out):
        return stopped
    return kill(args.directory, plan=plan, on_progress=teller(out))


def _exit_code(stopped: Stopped) -> ExitCode:
    if stopped.is_cancelled:
        return ExitCode.INTERRUPTED
    return ExitCode.OK if stopped.has_ended and not stopped.lost_steps else ExitCode.DIFFERENT


def _plan_data(plan: StopPlan) -> dict[str, object]:
    return {
        "pid": plan.pid,
        "told_by": plan.told_by,
        "done": False,
        "directory": plan.directory,
        "host": plan.host,
        "targets": [
            {"pid": t.pid, "role": t.role, "told_by": t.told_by, "status": t.process.status,
             "on_sigterm": t.process.on_sigterm} for t in plan.targets
        ],
        "asked_at": plan.asked_at,
        "saves": plan.saves,
        "step": plan.step,
        "at_risk": {"steps": plan.at_risk_steps, "seconds": plan.at_risk_s, "checkpoint": plan.checkpoint or None},
        "job": plan.job or None,
        "command": list(plan.command),
        "sentences": list(plan.sentences),
        "warnings": list(plan.warnings),
        "refusals": list(plan.refusals),
        "hint": plan.hint,
    }  # fmt: skip


def _outcome_data(stopped: Stopped) -> dict[str, object]:
    return {
        "done": stopped.has_ended,
        "seconds": stopped.seconds,
        "killed": stopped.was_killed,
        "step": stopped.step,
        "saved": stopped.saved or None,
        "saved_step": stopped.saved_step,
        "lost": None if stopped.lost_steps is None else {"steps": stopped.lost_steps, "seconds": stopped.lost_s},
        "resume_would_take": stopped.checkpoint or None,
        "status": stopped.status or None,
        "reason": stopped.reason or None,
        "sentences": list(stopped.sentences),
        "hint": stopped.hint,
    }


def _plan_lines(plan: StopPlan, style: Style) -> Iterator[str]:
    yield from sentence_lines(plan.sentences, plan.warnings, style)
    for line in sentence_lines(plan.refusals, (), style):
        yield style.paint(line, "bad")
    if plan.hint:
        yield from sentence_lines([plan.hint], (), style)
    yield style.paint("Nothing was done (--dry-run).", "dim")


def _outcome_lines(directory: str, stopped: Stopped, style: Style) -> Iterator[str]:
    first, *rest = sentence_lines(stopped.sentences, (), style)
    is_good = stopped.has_ended and not stopped.lost_steps
    yield style.paint(
        f"{style.glyph('✓', 'ok') if is_good else style.glyph('▲', '!')} {first}", "good" if is_good else "warn"
    )
    yield from rest
    if stopped.is_cancelled:
        status = f"`ckpt-tui status {run_word(directory)}`"
        yield f"It still stops: it was asked, and nobody takes that back. {status} tells how it ends."
    elif stopped.hint:
        yield from sentence_lines([stopped.hint], (), style)
