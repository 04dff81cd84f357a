"""A disk that fills up: foreseen, told, survived, and saved to again when there is room."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import proven
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.formats import load_checkpoint
from trainer.checkpoint.policy import FORMATS, Policy

NUM_ELEMENTS = 1 << 19
COPY_BYTES = 4 * NUM_ELEMENTS + (64 << 10)  # of a checkpoint, rounded up


def state_at(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"weight": torch.full((NUM_ELEMENTS,), float(step))}}


def step_of(path: Path) -> int:
    state = load_checkpoint(str(path)).state
    assert (state["model"]["weight"] == state["step"]).all()
    return int(state["step"])


def events(directory: Path, name: str) -> list[Any]:
    lines = (directory / "events.jsonl").read_bytes().splitlines()
    return [event for line in lines if isinstance(event := decode(line), Event) and event.name == name]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[float], Path]]:
    """A filesystem of its own with room for so many checkpoints."""
    mounted: list[Path] = []

    def made(num_copies: float) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        size = int(num_copies * COPY_BYTES) + (1 << 20)  # what a save leaves free
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("only root may mount a filesystem")
        mounted.append(path)
        return path / "run"

    yield made
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.parametrize("form", FORMATS)
def test_what_retention_lets_go_goes_first_when_it_is_tight(disk: Callable[[float], Path], form: str) -> None:
    """Two rolling ones, the backup of the newest and the two of a save need five copies; there is room for four."""
    run = disk(4.2)
    said: list[str] = []
    policy, suffix = Policy(keep_rolling=2, checkpoint_format=form), ".pt" if form == "file" else ""
    with Checkpointer(run, policy, log=EventWriter(run), say=said.append) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(state_at(step), {"rolling"})
            checkpoints.wait()
            assert step_of(run / f"latest{suffix}") == step
    assert events(run, "checkpoint_failed") == []
    assert {path.stem for path in run.glob("rolling_step*")} == {"rolling_step_000005", "rolling_step_000006"}
    reasons = [event.reason for event in events(run, "checkpoint_removed")]
    assert "--keep_checkpoints 2, before the save: the disk is full" in reasons
    assert events(run, "disk")[0].free_bytes < 2 * COPY_BYTES


@pytest.mark.parametrize("form", FORMATS)
def test_without_room_for_a_second_copy_there_is_one(disk: Callable[[float], Path], form: str) -> None:
    run = disk(4.2)
    said: list[str] = []
    policy, suffix = Policy(keep_rolling=9, checkpoint_format=form), ".pt" if form == "file" else ""
    with Checkpointer(run, policy, log=EventWriter(run), say=said.append) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(state_at(step), {"rolling"})
    # 1 and its copy, 2 and its copy in place of the first; then 3 alone; and 4 has no room at all.
    assert [step_of(path) for path in sorted(run.glob("rolling_step*"))] == [1, 2, 3]
    assert step_of(run / f"rolling_last_backup{suffix}") == 2
    assert step_of(run / f"latest{suffix}") == 3
    [failed] = events(run, "checkpoint_failed")
    assert (failed.step, failed.stage, failed.kept) == (4, "write", f"latest{suffix}")
    assert "are free on the disk" in failed.error
    assert f"no room for an independent copy of rolling_step_000003{suffix}: the backups stay as they are" in said
    assert any(line.startswith(f"the disk under {run} is full") for line in said)


def test_training_goes_on_and_saves_again_when_there_is_room(disk: Callable[[float], Path]) -> None:
    run = disk(5)
    said: list[str] = []
    filler = run.parent / "somebody_elses"
    with Checkpointer(run, Policy(keep_rolling=1), log=EventWriter(run), say=said.append) as checkpoints:
        checkpoints.save(state_at(1), {"rolling"})
        checkpoints.wait()
        filler.write_bytes(bytes(int(2.9 * COPY_BYTES)))
        for step in (2, 3):
            checkpoints.save(state_at(step), {"rolling"})
            checkpoints.wait()
            assert checkpoints.last_step == 1
            assert step_of(run / "latest.pt") == step_of(run / "rolling_step_000001.pt") == 1
        filler.unlink()
        checkpoints.save(state_at(4), {"rolling"})
    assert step_of(run / "latest.pt") == step_of(run / "rolling_last_backup.pt") == 4
    assert [event.step for event in events(run, "checkpoint_failed")] == [2, 3]
    assert said[-1] == "saving works again: rolling_step_000004.pt"
    assert sum(line.startswith("the disk under") for line in said) == 1
    assert not list(run.glob(".tmp*"))


@pytest.mark.parametrize("form", FORMATS)
def test_fewer_are_kept_on_a_full_disk_where_that_was_asked_for(disk: Callable[[float], Path], form: str) -> None:
    run = disk(6.5)
    policy = Policy(keep_rolling=9, keep_rolling_when_full=2, checkpoint_format=form)
    with Checkpointer(run, policy, log=EventWriter(run), say=lambda _: None) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(state_at(step), {"rolling"})
            checkpoints.wait()
            assert checkpoints.last_step == step
    assert events(run, "checkpoint_failed") == []
    assert step_of(next(run.glob("latest_backup*"))) == 7


def test_a_disk_that_turns_out_full_is_pruned_and_written_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the filesystem said before was wrong, as quotas make it."""
    log = EventWriter(tmp_path)
    with Checkpointer(tmp_path, Policy(keep_rolling=2), log=log, say=lambda _: None) as checkpoints:
        for step in (1, 2):
            checkpoints.save_now(state_at(step), {"rolling"}, "regular")
        real, opened = os.write, []

        def write(fd: int, data: Any) -> int:
            name = Path(f"/proc/self/fd/{fd}").readlink().name
            if name.startswith(".tmp-rolling_step") and (tmp_path / "rolling_step_000001.pt").exists():
                opened.append(name)
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
            return real(fd, data)

        monkeypatch.setattr(proven.os, "write", write)
        assert checkpoints.save_now(state_at(3), {"rolling"}, "regular") == "rolling_step_000003.pt"
        assert len(opened) == 1
    [gone] = events(tmp_path, "checkpoint_removed")
    assert (gone.path, gone.step) == ("rolling_step_000001.pt", 3)
    assert step_of(tmp_path / "latest.pt") == 3


def test_a_second_attempt_keeps_what_the_first_had_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk turns out full among the renames: `latest.pt` is the new file already, its backup the one before."""
    with Checkpointer(tmp_path, Policy(keep_rolling=2), say=lambda _: None) as checkpoints:
        for step in (1, 2):
            checkpoints.save_now(state_at(step), {"rolling"}, "regular")
        real, failed = os.fsync, []

        def fsync(fd: int) -> None:
            is_replaced = step_of(tmp_path / "latest.pt") == 3
            if is_replaced and not failed and Path(f"/proc/self/fd/{fd}").readlink() == tmp_path:
                failed.append(fd)
                raise OSError(errno.ENOSPC, "No space left on device")
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        assert checkpoints.save_now(state_at(3), {"rolling"}, "regular") == "rolling_step_000003.pt"
        assert failed
    assert step_of(tmp_path / "latest.pt") == 3
    assert step_of(tmp_path / "latest_backup.pt") == 2


def test_the_last_valid_one_never_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventWriter(tmp_path)
    with Checkpointer(tmp_path, Policy(keep_rolling=1), log=log, say=lambda _: None) as checkpoints:
        checkpoints.save_now(state_at(1), {"rolling"}, "regular")

        def write(fd: int, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(proven.os, "write", write)
            assert checkpoints.save_now(state_at(2), {"rolling"}, "regular") is None
        assert step_of(tmp_path / "rolling_step_000001.pt") == 1
        assert checkpoints.save_now(state_at(3), {"rolling"}, "regular")
    assert [path.name for path in tmp_path.glob("rolling_step*")] == ["rolling_step_000003.pt"]


def test_the_use_of_the_disk_is_told_every_ten_saves(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, Policy(keep_rolling=3), log=EventWriter(tmp_path)) as checkpoints:
        for step in range(1, 21):
            checkpoints.save({"step": step, "model": {"w": torch.ones(10)}}, {"rolling"})
    told = events(tmp_path, "disk")
    assert [event.step for event in told] == [10, 20]
    assert told[1].count_by_kind["rolling"] == 4  # and the backup


def test_the_newest_of_the_runs_own_branch_stays_until_the_next_is_proven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a branch that was left has later ones."""

    def small(step: int) -> dict[str, Any]:
        return {"step": step, "model": {"weight": torch.full((10,), float(step))}}

    with Checkpointer(tmp_path, Policy(is_async=False), say=lambda line: None) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(small(step), {"rolling"})
    said: list[str] = []
    with Checkpointer(tmp_path, Policy(is_async=False, keep_rolling=1), say=said.append) as checkpoints:
        checkpoints.find("rolling_step_000010.pt")
        for step in (11, 12):
            checkpoints.save(small(step), {"rolling"})
        monkeypatch.setattr("trainer.checkpoint.room.Room._free", lambda room: 0)
        checkpoints.save(small(13), {"rolling"})
    assert any("failed" in line for line in said)
    assert sorted(path.name for path in tmp_path.glob("rolling_step_*")) == [
        f"rolling_step_{step:06d}.pt" for step in (10, 12, 20, 30)
    ]
