"""`python -m trainer --out DIR ...` trains; `python -m trainer hash DIR` prints a fingerprint of the final state."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.command_line import Parser
from trainer.config import Request, parse
from trainer.errors import UsageError
from trainer.observers import check_installed

if TYPE_CHECKING:
    from trainer.checkpoint.registry import Registry


def main(argv: Sequence[str]) -> int:
    """Gives the exit code: 0 at the end, 1 on failure, 2 for what cannot be done, 128 + signal."""
    try:
        if argv[:1] == ["hash"]:
            return print_hash(argv[1:])
        if argv[:1] == ["retention"]:
            from trainer.retention_report import main as report_retention

            return report_retention(argv[1:])
        request = parse(argv)
        if request.is_check:
            return 0
        if request.list_checkpoints:
            from trainer.listing import print_checkpoints

            print_checkpoints(_registry(request.out), is_json=request.as_json)
            return 0
        return train(request)
    except UsageError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2


def train(request: Request) -> int:
    # Before torch is loaded, which takes a second: a signal in that second is not lost.
    from trainer.signals import Signals

    signals = Signals()
    check_installed(request.config)
    from trainer.loop import run

    return run(request, signals)


def print_hash(argv: Sequence[str]) -> int:
    """A fingerprint of a checkpoint's training state, free of times and paths; by default of the newest valid one."""
    parser = Parser(prog="python -m trainer hash", description=print_hash.__doc__)
    parser.add_argument("directory", metavar="DIR", help="a run directory")
    parser.add_argument("which", metavar="WHICH", nargs="?", default="auto", help="auto, latest, best, a name or path")
    given = parser.parse_args(argv)
    directory = given.directory
    from trainer.checkpoint.resume import find
    from trainer.checkpoint.state import fingerprint

    source = find(directory, given.which, _registry(directory), needed=("step",))  # of any loop, not only of this one
    if source is None:
        raise UsageError(f"{directory} holds no checkpoint")
    print(fingerprint(source.state))
    return 0


def _registry(directory: str) -> Registry:
    from trainer.checkpoint.lineage import lineage_of
    from trainer.checkpoint.registry import Registry

    if not os.path.isdir(directory):
        raise UsageError(f"{directory}: no such run directory")
    registry = Registry(directory)
    registry.sync()
    lineage_of(directory, registry)  # also where the registry is gone: what was left behind is told as such
    return registry


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
