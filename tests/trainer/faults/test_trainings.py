"""Whole trainings, from `main` to exit code, while operations fail, clocks jump and others want the directory."""

from __future__ import annotations

import errno
import random
import signal
from pathlib import Path

import pytest

from tests.builders.held import Hold
from tests.trainer.faults.nursery import Ended, Nursery
from tests.trainer.faults.states import is_of_its_step, state_at
from tests.trainer.faults.test_random_kills import TRAINING, check_directory, check_log, state_hash
from trainer.__main__ import main
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.state import fingerprint

ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES, errno.EROFS)
SHORT = ["--max_steps", "6", "--checkpoint_freq", "2", "--eval_freq", "2"]


def command(run: Path, corpus: Path, *options: str) -> list[str]:
    return ["--out", str(run), "--data", str(corpus), *TRAINING, "--resume", "auto", *options]


def check_failing(nursery: Nursery, corpus: Path, run: Path, whole: str, **fault: int) -> None:
    """A training with a fault says whether its result is there, and one without it afterwards makes it so."""
    ended = nursery.run(command(run, corpus, *SHORT), **fault)
    assert "Traceback" not in ended.output, (fault, ended.output)
    assert ended.code in (0, 1, 2), (fault, ended.output)
    if ended.code == 0:
        assert state_hash(run) == whole, fault
    elif ended.code == 1:
        assert "could not be saved" in ended.output, (fault, ended.output)
    else:
        assert "trainer: " in ended.output, (fault, ended.output)
    after = nursery.run(command(run, corpus, *SHORT))
    assert after.code == 0, (fault, after.output)
    # What a resume takes: a save that failed between two names may have left the last state under the first alone.
    with Checkpointer(run, say=lambda line: None) as checkpoints:
        source = checkpoints.find("auto")
    assert source is not None
    assert fingerprint(source.state) == whole, fault
    check_log(run)
    check_directory(run)


def measured(nursery: Nursery, corpus: Path, run: Path) -> tuple[str, int]:
    """The hash of an undisturbed one, and how many operations it takes."""
    ended: Ended = nursery.run(command(run, corpus, *SHORT), fail_at=10**9, error=errno.EIO, forever=0)
    assert ended.code == 0, ended.output
    assert ended.num_operations > 200
    return state_hash(run), ended.num_operations


def test_a_training_survives_operations_that_fail(nursery: Nursery, corpus: Path, scratch: Path) -> None:
    whole, num_operations = measured(nursery, corpus, scratch / "whole")
    rng = random.Random(2)
    for number, at in enumerate(rng.sample(range(1, num_operations), 14)):
        fault = {"fail_at": at, "error": ERRORS[number % len(ERRORS)], "forever": int(number % 3 == 0)}
        check_failing(nursery, corpus, scratch / str(number), whole, **fault)


@pytest.mark.long
@pytest.mark.parametrize("forever", [0, 1], ids=["once", "forever"])
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_training_survives_each_operation_that_fails(
    nursery: Nursery, corpus: Path, scratch: Path, number: int, forever: int
) -> None:
    whole, num_operations = measured(nursery, corpus, scratch / "whole")
    for at in range(1, num_operations + 1):
        check_failing(nursery, corpus, scratch / str(at), whole, fail_at=at, error=number, forever=forever)


def test_a_clock_that_jumps_changes_nothing(nursery: Nursery, corpus: Path, scratch: Path) -> None:
    straight, run = scratch / "straight", scratch / "run"
    assert nursery.run(command(straight, corpus)).code == 0
    for seed, num_steps in enumerate(("20", "31", "48")):
        ended = nursery.run(command(run, corpus, "--max_steps", num_steps, "--checkpoint_minutes", "9999"), clock=seed)
        assert ended.code == 0, ended.output
    assert {path.name for path in run.glob("rolling_step_*.pt")} >= {f"rolling_step_0000{n}.pt" for n in (46, 47, 48)}
    check_log(run)
    check_directory(run)


def test_emergency_saves_keep_their_order_when_the_clock_jumps(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter(["20300101_000000", "19700101_000000", "19700101_000000", "20991231_235959", "20000101_000000"] * 9)
    monkeypatch.setattr("time.strftime", lambda form, at=None: next(days))
    with Checkpointer(scratch / "run", Policy(keep_emergency=3), say=lambda line: None) as checkpoints:
        for step in (10, 10, 10, 20, 30):
            assert checkpoints.save_now(state_at(step), {"emergency"})
    kept = sorted(path.name for path in (scratch / "run").glob("emergency_*.pt"))
    assert [name.split("_")[2] for name in kept] == ["000010", "000020", "000030"]
    with Checkpointer(scratch / "run", say=lambda line: None) as checkpoints:
        source = checkpoints.find("auto")
    assert source is not None
    assert source.step == 30
    assert is_of_its_step(source.state)


def test_a_second_trainer_is_refused_and_the_first_not_disturbed(
    nursery: Nursery, corpus: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, run = scratch / "straight", scratch / "run"
    assert nursery.run(command(straight, corpus)).code == 0
    hold = Hold(scratch, "checkpoint_saved 1")
    nursery.start(command(run, corpus), hold=hold)
    hold.wait()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        assert main(command(run, corpus)) == 2
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    told = capsys.readouterr().err
    assert told.startswith("trainer: Another process trains in")
    assert told.count("\n") == 1
    hold.go_on()
    assert nursery.finish().code == 0
    assert state_hash(run) == state_hash(straight)
    assert check_log(run) == 1
