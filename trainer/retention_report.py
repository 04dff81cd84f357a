"""`python -m trainer retention DIR`: what the next save would remove, and why the rest stays. Removes nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from ckpt_tui import text
from trainer.checkpoint.names import BEST, Name, pinned_in, read_name, rolling_name
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.registry import REGISTRY_NAME, Registry
from trainer.checkpoint.retention import Verdict, judged
from trainer.command_line import Parser
from trainer.errors import UsageError

SCHEMA = "ckpt-tui/trainer-retention/1"
# Flag of the trainer, field of the policy.
_FLAGS = (
    ("keep_checkpoints", "keep_rolling"), ("keep_emergency_checkpoints", "keep_emergency"),
    ("keep_every", "keep_every"), ("keep_best", "keep_best"),
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """The report of a run directory, for a person or with --json for a script."""
    parser = Parser(prog="python -m trainer retention", description=__doc__)
    parser.add_argument("directory", metavar="DIR", help="a run directory")
    parser.add_argument("--dry-run", action="store_true", help="said for clearness: nothing is ever removed here")
    for flag, _ in _FLAGS:
        parser.add_argument(
            f"--{flag}", type=int, metavar="N", help="another rule than the run's own, to see what it does"
        )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    options = parser.parse_args(argv)
    if not os.path.isdir(options.directory):
        raise UsageError(f"{options.directory}: no such run directory")
    chosen = {name: value for flag, name in _FLAGS if (value := getattr(options, flag)) is not None}
    registry = Registry(options.directory)
    registry.sync()
    try:
        policy = replace(policy_of_run(options.directory), **chosen)
    except ValueError as error:
        raise UsageError(str(error)) from error
    verdicts = verdicts_of(registry, policy)
    freed = _freed_bytes(registry, verdicts)
    if options.json:
        rows = [{"path": one.name.name, "goes": one.goes, "rule": one.rule} for one in verdicts]
        data = {"checkpoints": rows, "freed_bytes": freed}
        print(json.dumps({"schema": SCHEMA, "ok": True, "data": data, "errors": []}))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(verdicts, freed)))
    return 0


def policy_of_run(directory: str) -> Policy:
    """The policy that the run was saved with last, as its registry tells; the default one when it does not."""
    try:
        with open(os.path.join(directory, REGISTRY_NAME), "rb") as file:
            told = dict(json.loads(file.read())["policy"])
        known: dict[str, Any] = {setting.name: told[setting.name] for setting in fields(Policy) if setting.name in told}
        return Policy(**known)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Policy()


def verdicts_of(registry: Registry, policy: Policy) -> list[Verdict]:
    """On every checkpoint there is, as the next rolling save decides; what goes comes first, oldest first."""
    there = [name for path in registry.entries if (name := read_name(path)) is not None]
    abandoned = registry.abandoned()
    step = 1 + max((name.step or 0 for name in there if name.name not in abandoned), default=0)
    coming = Name(rolling_name(step), "rolling", step=step)
    verdicts = judged(
        [*there, coming], policy, step=step, protected={coming.name}, pinned=pinned_in(registry.directory),
        abandoned=abandoned, scores=registry.scores(policy.monitor),
    )  # fmt: skip
    return [verdict for verdict in verdicts if verdict.name is not coming]


def _freed_bytes(registry: Registry, verdicts: Sequence[Verdict]) -> int:
    """Bytes on the disk that only names have that go."""
    staying = {registry.entries[one.name.name]["inode"] for one in verdicts if not one.goes}
    going = [registry.entries[one.name.name] for one in verdicts if one.goes]
    return sum({entry["inode"]: entry["bytes"] for entry in going if entry["inode"] not in staying}.values())


def _lines(verdicts: Sequence[Verdict], freed: int) -> list[str]:
    width = max([len(BEST), *(text.cell_width(one.name.name) for one in verdicts)])
    lines = [f"{'goes ' if one.goes else 'stays'}  {text.fit(one.name.name, width)}  {one.rule}" for one in verdicts]
    num_going = sum(one.goes for one in verdicts)
    return [*lines, f"the next save removes {text.plural(num_going, 'checkpoint')}, which frees {text.size(freed)}"]
