"""Ask a running training to save and end, and wait until it has.

Sends SIGTERM to the process that holds the directory, or to the torchrun that would start it again; the bundled
trainer then writes an emergency checkpoint.
Exit code 1 when it is still at work after --timeout seconds.
"""

from __future__ import annotations

import argparse

from ckpt_tui.commands.confirm import add_confirm_arguments, confirm
from ckpt_tui.errors import CkptError
from ckpt_tui.output import CommandResult, ExitCode, Output

EXAMPLES = ("ckpt-tui stop runs/gpt", "ckpt-tui stop runs/gpt --yes --timeout 120")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument("--timeout", metavar="S", type=float, default=60.0, help="seconds to wait for it (60)")
    add_confirm_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.launch import restarter_of, running, say, stop

    owner = running(args.directory)
    if owner is None:
        raise CkptError(
            "Not running", f"no training is running in {args.directory}", "`ckpt-tui status DIR` says more."
        )
    restarter = restarter_of(owner.pid)
    who = f"torchrun (process {restarter})" if restarter else f"Process {owner.pid}"
    sentence = f"{who} gets SIGTERM: {'the training' if restarter else 'it'} saves and ends."
    data: dict[str, object] = {"pid": owner.pid, "told_by": owner.told_by, "done": False}
    if args.dry_run:
        return CommandResult(data=data, view=lambda style: [sentence, "Nothing was done (--dry-run)."])
    if not confirm("Stop it now?", [sentence], [], yes=args.yes, out=out):
        return CommandResult(data=data, view=lambda style: ["It goes on."], exit_code=ExitCode.DIFFERENT)
    stopped = stop(args.directory, args.timeout)
    return CommandResult(
        data={**data, "done": stopped.has_ended, "seconds": stopped.seconds},
        view=lambda style: [say(stopped)],
        exit_code=ExitCode.OK if stopped.has_ended else ExitCode.DIFFERENT,
    )
