"""Run directories in which deeds were done, and any deed that could be done next."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.services.restore import Plan, carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from tests.builders.run_directories import damage, let_age, run_directory, save
from tests.builders.set_aside import copied

NOT_THE_RUNS = ("events.jsonl", "set_aside")


def state_of(directory: Path) -> dict[str, tuple[str, int, int]]:
    """Names with digest, mode and modification time; without the log, and what is set aside."""
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in directory.iterdir()
        if path.name not in NOT_THE_RUNS
    }


def registered(directory: Path) -> Path:
    rows = [
        {"path": path.name, "bytes": path.stat().st_size, "mtime": path.stat().st_mtime, "kind": "other", "step": 1}
        for path in sorted(directory.glob("emergency*.pt"))
    ]
    (directory / "registry.json").write_text(json.dumps({"version": 1, "checkpoints": rows}))
    return directory


def three_deeds(directory: Path) -> list[dict[str, tuple[str, int, int]]]:
    """A run that was mended, rolled back and rolled back further; the states before each deed, and after the last."""
    registered(run_directory(directory))
    damage(directory / "latest.pt")
    (directory / "latest.pt").chmod(0o640)
    let_age(directory / "latest.pt")
    states = [state_of(directory)]
    plans: list[Callable[[str], Plan]] = [
        plan_restore,
        partial(plan_rollback, to="300"),
        partial(plan_rollback, to="200"),
    ]
    for plan_next in plans:
        carry_out(plan_next(str(directory)))
        states.append(state_of(directory))
    return states


def four_deeds(directory: Path) -> Path:
    """A restore, two rollbacks, and an undo of the second one; of what the first set aside there is a copy, what the
    second one did is the only one of step 400."""
    three_deeds(directory)
    carry_out(plan_undo(str(directory)))
    return directory


def trained(directory: Path, step: int) -> None:
    """A save as the trainer makes it, and its retention."""
    for name in (f"rolling_step_{step:06d}.pt", "latest.pt"):
        data = save(directory / ".tmp-new", step)
        os.utime(directory / ".tmp-new", (1_790_000_000 + step, 1_790_000_000 + step))
        assert data
        (directory / ".tmp-new").replace(directory / name)
    for path in sorted(directory.glob("rolling_step_*.pt"))[:-4]:
        path.unlink()


def random_plan(what: str, directory: Path, chance: random.Random, numbers: list[int]) -> Plan:
    if what == "restore":
        name = chance.choice(["latest_backup.pt", "best_model_previous.pt", "best_model_backup.pt"])
        return plan_restore(str(directory), [name])
    if what == "rollback":
        return plan_rollback(str(directory), str(chance.choice([200, 300, 400])))
    if what == "undo to" and numbers:
        return plan_undo(str(directory), to=chance.choice(numbers))
    return plan_redo(str(directory)) if what == "redo" else plan_undo(str(directory))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """After four deeds. Not to be changed: copy it."""
    return four_deeds(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path / "run")
