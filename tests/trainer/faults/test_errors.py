"""The i-th file operation fails, once or from then on, for every i: with EIO, ENOSPC and EACCES."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter
from tests.builders.crashing import CHANGING, LOOKING, failing_at
from tests.builders.unsynced import Journal, materialise
from tests.trainer.faults.states import is_of_its_step, state_at
from tests.trainer.faults.test_kills import ALL_KINDS, POLICY, SCENES, session
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.state import read_file
from trainer.errors import UsageError

EVERY = CHANGING + LOOKING
ERRORS = {number: OSError(number, os.strerror(number)) for number in (errno.EIO, errno.ENOSPC, errno.EACCES)}
_QUICK = [(errno.EIO, False), (errno.ENOSPC, True), (errno.EACCES, False)]
FAULTS = [
    pytest.param(
        number, forever, id=f"{errno.errorcode[number]}-{'forever' if forever else 'once'}",
        marks=() if (number, forever) in _QUICK else pytest.mark.long,
    )
    for number in ERRORS
    for forever in (False, True)
]  # fmt: skip


class Scene:
    """Copies of a run directory as `test_kills` prepares it."""

    def __init__(self, scratch: Path, name: str) -> None:
        prepare, self.floor, _ = SCENES[name]
        self._scratch = scratch
        (scratch / "before").mkdir()
        prepare(scratch / "before" / "run")
        self._before = Journal(scratch / "before")
        self._untouched = next(self._before.crashes())

    def copies(self) -> Iterator[Path]:
        while True:
            materialise(self._before, self._untouched, self._scratch / "after")
            (self._scratch / "after" / "run").mkdir(exist_ok=True)
            yield self._scratch / "after" / "run"
            shutil.rmtree(self._scratch / "after")


def check_resume(run: Path, floor: int) -> None:
    with Checkpointer(run, POLICY, say=lambda line: None) as checkpoints:
        assert not list(run.glob("**/.tmp-*"))
        source = checkpoints.find("auto")
        assert (-1 if source is None else source.state["step"]) >= floor
        assert source is None or is_of_its_step(source.state)


@pytest.mark.parametrize(("number", "forever"), FAULTS)
def test_a_save_survives_each_operation_that_fails(scratch: Path, number: int, forever: bool) -> None:
    scene = Scene(scratch, "with retention")
    for i, run in enumerate(scene.copies(), start=1):
        told: list[str] = []
        log = EventWriter(run)
        with Checkpointer(run, POLICY, log=log, say=told.append) as checkpoints:
            assert checkpoints.find("auto") is not None
            with failing_at(i, ERRORS[number], forever=forever, calls_of=EVERY, within=str(run)) as calls:
                name = checkpoints.save_now(state_at(3, epoch=3), ALL_KINDS, "regular")
            # Either it is durable, or it was told that it is not, and everything is as it was.
            if name is None:
                assert any("failed" in line for line in told), (i, calls[-1])
            else:
                assert (run / name).exists()
            assert (checkpoints.last_step == 3) == (name is not None)
            # The fault is gone: the next save is as ever.
            assert checkpoints.save_now(state_at(4, epoch=4), ALL_KINDS, "regular"), (i, calls[-1])
        log.close()
        check_resume(run, 4)
        names = [event.name for event in events(run)]
        assert "checkpoint_saved" in names
        log_failed = len(calls) > i - 1 and forever
        if name is None and not log_failed:
            assert "checkpoint_failed" in names, (i, calls[i - 1])
        if len(calls) < i:
            assert i > 60
            return


@pytest.mark.parametrize(("number", "forever"), FAULTS)
def test_a_resume_survives_or_refuses_each_operation_that_fails(scratch: Path, number: int, forever: bool) -> None:
    """It starts where it should, or does not start, and says why; it never begins anew over what is there."""
    scene = Scene(scratch, "after a damaged run")
    for i, run in enumerate(scene.copies(), start=1):
        told: list[str] = []
        log = EventWriter(run)
        source = None
        with failing_at(i, ERRORS[number], forever=forever, calls_of=EVERY, within=str(run)) as calls:
            try:
                with Checkpointer(run, POLICY, log=log, say=told.append) as checkpoints:
                    source = checkpoints.find("auto")
                    assert source is not None, f"begins anew: {i} {calls[-1]}"
            except (UsageError, OSError):
                pass
        log.close()
        # Nothing was lost by the attempt, and what could not be read this time is not called damaged.
        assert {path.name[:10] for path in run.glob("quarantine/*.pt")} <= {"best_model"}, (i, calls[-1])
        check_resume(run, scene.floor)
        if len(calls) < i:
            assert i > 30
            return


def events(run: Path) -> list[Event]:
    found = [decode(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    return [event for event in found if isinstance(event, Event)]


def test_the_session_of_these_tests_is_one_that_works(scratch: Path) -> None:
    session(scratch / "run", [(1, ALL_KINDS)])
    check_resume(scratch / "run", 1)


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it mapped into memory, this would end the process, as would a block that the device cannot give."""
    session(scratch / "run", [(1, {"best"}), (2, {"rolling"})])
    latest = scratch / "run" / "latest.pt"
    preadv = os.preadv

    def shortened(fd: int, *rest: object) -> int:
        if os.path.samestat(os.fstat(fd), latest.stat()):
            os.truncate(latest, 300)
        return preadv(fd, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", shortened)
    with Checkpointer(scratch / "run", POLICY, say=lambda line: None) as checkpoints:
        source = checkpoints.find("auto")
    assert source is not None
    assert source.state["step"] == 2
    assert source.name == "rolling_last_backup.pt"


def test_a_save_that_failed_between_two_names_leaves_nothing_for_the_next_to_trip_over(scratch: Path) -> None:
    """Then latest_backup.pt and latest.pt are one file, and to rename one name of a file to another does nothing."""
    run = scratch / "run"
    session(run, [(1, set()), (2, set())])
    (run / "latest_backup.pt").unlink()
    (run / "latest_backup.pt").hardlink_to(run / "latest.pt")
    with Checkpointer(run, POLICY, say=lambda line: None) as checkpoints:
        checkpoints.find("auto")
        assert checkpoints.save_now(state_at(3), (), "regular")
        assert not list(run.glob(".tmp-*"))
    check_resume(run, 3)
    assert read_file(str(run / "latest_backup.pt"))[0]["step"] == 2


def test_a_child_that_is_forked_after_a_save_keeps_its_own_memory(scratch: Path) -> None:
    """The snapshot's memory was not there in children: to drop it there took away what lay in its place."""
    with Checkpointer(scratch / "run", POLICY, say=lambda line: None) as checkpoints:
        assert checkpoints.save_now(state_at(1, width=300_000), (), "regular")
        child = os.fork()
        if child == 0:
            try:
                mapped = [mmap.mmap(-1, 1 << 20) for _ in range(40)]
                mapped += [mmap.mmap(-1, checkpoints_size(scratch / "run")) for _ in range(40)]
                del checkpoints
                gc.collect()
                for memory in mapped:
                    memory[0] = memory[len(memory) - 1] = 1
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def checkpoints_size(run: Path) -> int:
    return -(-(run / "latest.pt").stat().st_size // 4096) * 4096
