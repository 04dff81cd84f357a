"""Relaunch a training from a checkpoint, detached: it outlives this terminal.

The recorded command runs again with `--resume CHECKPOINT`; its output goes to session_N.log in the run directory.
Changed settings are compared first, each with its effect on the training; impossible ones are refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui.commands.confirm import add_confirm_arguments, confirm, sentence_lines
from ckpt_tui.errors import CkptError
from ckpt_tui.output import CommandResult, ExitCode, Output, Style
from ckpt_tui.text import safe_text, shell_word

if TYPE_CHECKING:
    from ckpt_tui.services.launch import Launched
    from ckpt_tui.services.resume import ResumePlan

EXAMPLES = (
    "ckpt-tui resume runs/gpt --dry-run",
    "ckpt-tui resume runs/gpt --yes",
    "ckpt-tui resume runs/gpt --from best --set lr=1e-4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument(
        "--from", dest="source", metavar="WHICH", default="auto",
        help="auto (newest valid, the default), latest, best, a file name in DIR, or a path",
    )  # fmt: skip
    parser.add_argument(
        "--set", dest="settings", metavar="KEY=VALUE", action="append", default=[], help="change a hyperparameter"
    )
    add_confirm_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.launch import launch
    from ckpt_tui.services.resume import plan_resume

    changes = dict(_setting(text) for text in args.settings)
    with out.progress("checking") as progress:
        plan = plan_resume(args.directory, args.source, changes, on_bytes=progress.advance)
    data = _plan_data(plan)
    if args.dry_run:
        return CommandResult(
            data={**data, "done": False}, view=lambda style: _plan_lines(plan, style),
            exit_code=ExitCode.DIFFERENT if plan.refusals else ExitCode.OK,
        )  # fmt: skip
    if plan.refusals:
        raise CkptError("Refused", " ".join(plan.refusals), "`--dry-run` shows the whole plan.")
    sentences = [*plan.sentences, plan.command_line]
    if not confirm("Start it now?", sentences, plan.warnings, yes=args.yes, out=out):
        return CommandResult(
            data={**data, "done": False}, view=lambda style: ["Nothing was started."], exit_code=ExitCode.DIFFERENT
        )
    started = launch(plan)
    return CommandResult(
        data={**data, "done": True, "pid": started.pid, "log": started.log_path},
        view=lambda style: _started_lines(plan, started, style),
    )


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip("-"):
        raise CkptError("Usage", f"--set {safe_text(text, 60)} is not KEY=VALUE", "For instance: --set lr=3e-4")
    return key.strip(), value


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
    }


def _plan_lines(plan: ResumePlan, style: Style) -> Iterator[str]:
    yield from sentence_lines(plan.sentences, plan.warnings, style)
    for refusal in plan.refusals:
        for line in sentence_lines([f"Refused: {refusal}"], (), style):
            yield style.paint(line, "bad")
    yield ""
    # Whole, on one line: a person copies it.
    yield safe_text(plan.command_line, 100_000)
    yield ""
    yield style.paint("Nothing was started (--dry-run).", "dim")


def _started_lines(plan: ResumePlan, started: Launched, style: Style) -> Iterator[str]:
    yield style.paint(f"{style.glyph('✓', 'ok')} started, process {started.pid}", "good")
    yield from sentence_lines(plan.sentences, plan.warnings, style)
    yield f"Output: {safe_text(started.log_path, 1000)}"
    yield f"Watch it: ckpt-tui watch {shell_word(plan.directory)}"
