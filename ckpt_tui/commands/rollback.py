"""Make an earlier checkpoint the one that a resume starts from.

Newer checkpoints of every kind, files and directories, go to DIR/set_aside/, latest becomes the target. Where another
training wrote them, what that one takes for its newest does (last.ckpt, the file `latest`). A path from elsewhere is
copied in first.
Nothing is deleted: `ckpt-tui undo` brings everything back as it was.
"""

from __future__ import annotations

import argparse

from ckpt_tui.commands.acting import act, add_act_arguments
from ckpt_tui.output import CommandResult, Output

EXAMPLES = (
    "ckpt-tui rollback runs/gpt --to 5000 --dry-run",
    "ckpt-tui rollback runs/gpt --to rolling_step_005000.pt",
    "ckpt-tui rollback runs/gpt --to best --yes",
    "ckpt-tui rollback runs/gpt --to ../backups/best_model.pt --dry-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument(
        "--to", metavar="STEP-or-NAME", required=True, help="step, epoch 3, name, latest, best, or a path from anywhere"
    )
    add_act_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.restore import plan_rollback

    return act(lambda on_bytes: plan_rollback(args.directory, args.to, on_bytes=on_bytes), args, out)
