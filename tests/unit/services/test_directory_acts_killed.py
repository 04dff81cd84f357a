"""Restore, rollback and undo of checkpoints that are directories, killed at every file operation, log and all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import CheckpointRestored
from ckpt_tui.services.restore import Plan, carry_out, plan_restore, plan_rollback, plan_undo
from tests.builders.crashing import failing_at, file_operations, killed_at
from tests.builders.run_directories import write_log
from tests.builders.trees import tree_of
from tests.trainer.faults.states import state_at
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import find
from trainer.checkpoint.state import NEEDED

GROWS = ["events.jsonl", "set_aside"]
PlanIt = Callable[[str], Plan]


@pytest.fixture
def place() -> Iterator[Path]:
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=where, prefix="ckpt-tui-tests-") as path:
        yield Path(path)


def damaged_run(run: Path) -> Path:
    """latest (step 20) is damaged with all that shares its bytes; its log is of a process that is gone."""
    policy = Policy(is_async=False, checkpoint_format="dir", keep_rolling=2)
    with Checkpointer(run, policy, needed=NEEDED, say=lambda line: None) as checkpoints:
        for step in (10, 20):
            checkpoints.save(state_at(step, width=20), {"rolling"})
    with open(run / "latest" / "model.pt", "r+b") as file:
        file.truncate(400)
    (run / "trainer.lock").unlink()
    write_log(run, last_step=21, saves=[(step, f"rolling_step_{step:06d}") for step in (10, 20)])
    return run


def copied(start: Path, run: Path) -> Path:
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(start, run)
    return run


def checkpoints_in(run: Path) -> dict[str, dict[str, bytes | None]]:
    """Every whole directory below `run`, also where it lies aside, as what is in it."""
    return {
        path.relative_to(run).as_posix(): tree_of(path)
        for path in run.rglob("*")
        if path.is_dir() and (path / "manifest.json").exists()
    }


def num_restored(run: Path) -> int:
    lines = (run / "events.jsonl").read_bytes().splitlines()
    return sum(isinstance(decode(line), CheckpointRestored) for line in lines)


def taken(run: Path) -> str | None:
    registry = Registry(str(run))
    registry.sync()
    source = find(str(run), "auto", registry)
    return source.name if source is not None else None


@pytest.mark.long
@pytest.mark.parametrize("act", ["restore", "rollback", "undo"])
def test_acts_on_directories_killed_at_every_file_operation_lose_nothing(place: Path, act: str) -> None:
    start = damaged_run(place / "start")
    plan_it: PlanIt = plan_restore if act == "restore" else partial(plan_rollback, to="10")
    if act == "undo":
        carry_out(plan_rollback(str(start), "10"))
        plan_it = plan_undo
    run = copied(start, place / "run")
    before, everything = tree_of(run, without=GROWS), list(checkpoints_in(run).values())
    operations = file_operations(partial(carry_out, plan_it(str(run))))
    after, num_logged, takes = tree_of(run, without=GROWS), num_restored(run), taken(run)
    ends = set()
    for number, operation in enumerate(operations, start=1):
        where = f"{act}, operation {number} ({operation})"
        run = copied(start, place / "run")
        assert killed_at(number, partial(carry_out, plan_it(str(run)))), where
        for name, content in checkpoints_in(run).items():
            assert content in everything or "incoming" in name, f"torn: {name}, {where}"
        plan_undo(str(run))  # whatever is done next completes it
        now = tree_of(run, without=GROWS)
        assert now in (before, after), f"half a deed: {where}"
        ends.add(now == after)
        there = list(checkpoints_in(run).values())
        assert all(content in there for content in everything), f"lost: {where}"
        if now == after:
            assert num_restored(run) == num_logged, f"logged once: {where}"
            assert taken(run) == takes, where
    assert ends == {True, False}


@pytest.mark.long
def test_a_failing_disk_at_every_file_operation_of_a_rollback_loses_nothing(place: Path) -> None:
    start = damaged_run(place / "start")
    everything = list(checkpoints_in(start).values())
    run = copied(start, place / "run")
    before = tree_of(run, without=GROWS)
    total = len(file_operations(partial(carry_out, plan_rollback(str(run), "10"))))
    after = tree_of(run, without=GROWS)
    for number in range(1, total + 1):
        run = copied(start, place / "run")
        plan = plan_rollback(str(run), "10")
        with failing_at(number, OSError(5, "Input/output error"), forever=number % 2 == 0), suppress(CkptError):
            carry_out(plan)
        plan_undo(str(run))
        assert tree_of(run, without=GROWS) in (before, after), number
        there = list(checkpoints_in(run).values())
        assert all(content in there for content in everything), number
