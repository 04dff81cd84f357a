"""Relaunch a training from a checkpoint, detached: it outlives this terminal.

The recorded command runs again, with its launcher (python, torchrun, accelerate, sbatch ...), told to go on from the
checkpoint; its output goes to session_N.log in the run directory. Changed settings are compared first, each with its
effect on the training; impossible ones are refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.commands.confirm import add_confirm_arguments, confirm, sentence_lines
from ckpt_tui.commands.starting import died_result, started_data, started_lines
from ckpt_tui.commands.waiting import Interrupted, seconds, teller
from ckpt_tui.errors import CkptError
from ckpt_tui.output import CommandResult, ExitCode, Output, Style
from ckpt_tui.text import run_word, safe_text

if TYPE_CHECKING:
    from ckpt_tui.services.launch import Launched
    from ckpt_tui.services.resume import ResumePlan

EXAMPLES = (
    "ckpt-tui resume runs/gpt --dry-run",
    "ckpt-tui resume runs/gpt --yes",
    "ckpt-tui resume runs/gpt --from best --set lr=1e-4",
    "ckpt-tui resume runs/mine --command 'python train.py --ckpt {checkpoint} {settings}'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument(
        "--from", dest="source", metavar="WHICH", default="auto",
        help="auto (newest valid, the default), latest, best, a step, a file name in DIR, or a path",
    )  # fmt: skip
    parser.add_argument(
        "--set", dest="settings", metavar="KEY=VALUE", action="append", default=[], help="change a hyperparameter"
    )
    parser.add_argument(
        "--wait", metavar="S", type=seconds, default=60.0,
        help="seconds to wait for its first new step (60); Ctrl+C ends the waiting, never the training",
    )  # fmt: skip
    parser.add_argument(
        "--no-wait", dest="wait", action="store_const", const=0.0, help="start it and say so, without waiting"
    )
    parser.add_argument(
        "--command", metavar="TEMPLATE",
        help="a command of your own, kept for the directory once it has started; {checkpoint} {checkpoint_name} {step}"
        " {directory} {settings} and every setting's name stand for what a resume puts in",
    )  # fmt: skip
    parser.add_argument("--forget-command", action="store_true", help="no longer use the command that is kept, and end")
    parser.add_argument(
        "--recall-command", action="store_true", help="keep the command again that was forgotten last, and end"
    )
    add_confirm_arguments(parser)
    parser.add_argument(
        "--force", action="store_true",
        help="even if a training may still run on another host that cannot be asked; never beside one seen to live",
    )  # fmt: skip


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.launch import TrainingDiedError, launch
    from ckpt_tui.services.overrides import parse_assignments
    from ckpt_tui.services.resume import plan_resume

    if args.forget_command or args.recall_command:
        return _forget(args)
    changes = parse_assignments(args.settings)
    with out.progress("checking") as progress:
        plan = plan_resume(
            args.directory, args.source, changes, command=args.command, force=args.force, on_bytes=progress.advance
        )
    data = _plan_data(plan)
    if args.dry_run:
        return CommandResult(
            data={**data, "done": False}, view=lambda style: _plan_lines(plan, style),
            exit_code=ExitCode.DIFFERENT if plan.refusals else ExitCode.OK,
        )  # fmt: skip
    if plan.refusals:
        raise CkptError("Refused", " ".join(plan.refusals), "`--dry-run` shows the whole plan.")
    sentences = [*plan.sentences, *_start_lines(plan), plan.command_line]
    if not confirm("Start it now?", sentences, plan.warnings, yes=args.yes, out=out):
        return CommandResult(
            data={**data, "done": False}, view=lambda style: ["Nothing was started."], exit_code=ExitCode.DIFFERENT
        )
    try:
        with Interrupted() as interrupted:
            started = launch(plan, wait_s=args.wait, on_progress=teller(out), is_cancelled=interrupted.is_set)
    except TrainingDiedError as error:
        return died_result(error, data)
    return CommandResult(
        data={**data, "done": True, **started_data(started)}, view=lambda style: _started_lines(plan, started, style)
    )


def _forget(args: argparse.Namespace) -> CommandResult:
    from ckpt_tui.services.launchers.template import forget_template, keep_again

    option = "--recall-command" if args.recall_command else "--forget-command"
    is_alone = args.command is None and not args.settings and args.source == "auto"
    if not is_alone or (args.recall_command and args.forget_command):
        raise CkptError("Usage", f"{option} stands alone", "Resume with another command afterwards.")
    directory = str(Path(args.directory).absolute())
    if not Path(directory).is_dir():
        raise CkptError("Not found", f"{directory} is not a directory", "Give the run directory.")
    if args.recall_command:
        line = keep_again(directory, is_tried=args.dry_run)
        would = "Would be kept again" if args.dry_run else "Kept again"
        said = would if line is not None else "No command was forgotten"
    else:
        line = forget_template(directory, is_tried=args.dry_run)
        done, none = ("Would forget", "No command is kept") if args.dry_run else ("Forgotten", "No command was kept")
        said = done if line is not None else none
    # Told whole, so that it can be given again.
    lines = [f"{said}: {safe_text(line, 100_000)}" if line else f"{said}."]
    return CommandResult(
        data={
            "directory": directory,
            "forgotten": line if args.forget_command else None,
            "kept_again": line if args.recall_command else None,
            "done": line is not None and not args.dry_run,
        },
        view=lambda style: lines,
    )


def _plan_data(plan: ResumePlan) -> dict[str, object]:
    return {
        "directory": plan.directory,
        "checkpoint": plan.checkpoint_name,
        "step": plan.step,
        "validity": plan.validation.verdict,
        "levels": plan.validation.levels,
        "command": list(plan.command),
        "command_line": plan.command_line,
        "cwd": plan.cwd,
        "changes": [
            {"key": c.key, "change": c.change, "a": c.a, "b": c.b, "effect": str(c.effect)} for c in plan.changes
        ],
        "steps_skipped": plan.steps_skipped,
        "steps_redone": plan.steps_redone,
        "steps_new": plan.steps_new,
        "redone_s": plan.redone_s,
        "new_s": plan.new_s,
        "sentences": list(plan.sentences),
        "warnings": list(plan.warnings),
        "refusals": list(plan.refusals),
        "session": plan.session,
        "launcher": plan.launcher,
        "environment": dict(plan.environment),
        "not_known": list(plan.not_known),
        "known_by": plan.known_by,
        "hints": list(plan.hints),
        "files": [{"name": file.name, "content": file.content} for file in plan.files],
        "kept_command": plan.template.line if plan.template is not None else None,
    }


OWN_TRAINER = "the bundled trainer"  # as launchers/spelling.py says it: nobody doubts it


def _start_lines(plan: ResumePlan) -> Iterator[str]:
    """How it is started: by which launcher, where, with which environment, and who told so."""
    if plan.command:
        yield f"Started by {plan.launcher}, in {plan.cwd}."
    if plan.known_by and plan.known_by != OWN_TRAINER:
        yield f"How it resumes is known: {plan.known_by}."
    if plan.environment:
        yield "Sets " + ", ".join(f"{name}={value}" for name, value in plan.environment.items()) + ", as recorded."
    if plan.template is not None:
        kept = "is kept for this directory; --forget-command lets it go" if plan.template.is_kept else "will be kept"
        yield f"Its command is your own: {plan.template.line} ({kept})."
    for file in plan.files:
        yield f"Writes {file.name} into the run directory: the job script, changed where it starts the training."


def _plan_lines(plan: ResumePlan, style: Style) -> Iterator[str]:
    yield from sentence_lines([*plan.sentences, *_start_lines(plan)], plan.warnings, style)
    for refusal in plan.refusals:
        for line in sentence_lines([f"Refused: {refusal}"], (), style):
            yield style.paint(line, "bad")
    if plan.hints:
        yield ""
        yield "To resume by hand:"
        yield from (f"  {safe_text(hint, 4000)}" for hint in plan.hints)
    for file in plan.files:
        yield ""
        yield style.paint(f"{file.name}:", "dim")
        yield from (f"  {safe_text(line, 4000)}" for line in file.content.splitlines())
    yield ""
    if plan.command_line:
        # Whole, on one line: a person copies it.
        yield safe_text(plan.command_line, 100_000)
        yield ""
    yield style.paint("Nothing was started (--dry-run).", "dim")


def _started_lines(plan: ResumePlan, started: Launched, style: Style) -> Iterator[str]:
    yield style.paint(f"{style.glyph('✓', 'ok')} started, process {started.pid}", "good")
    yield from sentence_lines(plan.sentences, plan.warnings, style)
    yield from started_lines(started, style)
    yield f"Watch it: ckpt-tui watch {run_word(plan.directory)}"
