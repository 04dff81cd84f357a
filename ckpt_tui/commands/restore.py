"""Put valid backups in place of damaged or missing checkpoints.

Without a name: every damaged or missing file that has a valid backup; what was validated before and not written since
is not read again, and the plan says so (--recheck reads it). With one: that file; or, with the name of a
backup, put that backup in place of what it stands in for (best_model_previous.pt becomes best_model.pt).
With quarantine/NAME: what the trainer had found bad gets its name back, if it is valid after all, or with --force.
Nothing is deleted: what is replaced goes to DIR/set_aside/, and `ckpt-tui undo` brings it back.
"""

from __future__ import annotations

import argparse

from ckpt_tui.commands.acting import act, add_act_arguments
from ckpt_tui.output import CommandResult, Output

EXAMPLES = (
    "ckpt-tui restore runs/gpt --dry-run",
    "ckpt-tui restore runs/gpt --yes",
    "ckpt-tui restore runs/gpt --recheck",
    "ckpt-tui restore runs/gpt latest.pt",
    "ckpt-tui restore runs/gpt best_model_previous.pt",
    "ckpt-tui restore runs/gpt quarantine/latest_20260131_235959_unreadable.pt",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument(
        "names", metavar="NAME", nargs="*", default=[], help="file to restore, or the backup to put in place"
    )
    add_act_arguments(parser)
    parser.add_argument(
        "--recheck", action="store_true", help="read every file again, also what is known to have been valid"
    )


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.restore import plan_restore

    return act(
        lambda on_bytes: plan_restore(
            args.directory, args.names, force=args.force, recheck=args.recheck, on_bytes=on_bytes
        ),
        args,
        out,
    )
