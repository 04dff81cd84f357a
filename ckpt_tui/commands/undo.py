"""Take the last restore or rollback back; again for the one before it.

Every file gets the very bytes back that it had. What was written since is set aside, not deleted.
"""

from __future__ import annotations

import argparse

from ckpt_tui.commands.acting import act, add_act_arguments
from ckpt_tui.output import CommandResult, Output

EXAMPLES = ("ckpt-tui undo runs/gpt --dry-run", "ckpt-tui undo runs/gpt --yes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    add_act_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.restore import plan_undo

    return act(lambda on_bytes: plan_undo(args.directory), args, out)
