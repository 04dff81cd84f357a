"""Killed at every file operation of a save and of a resume, really, in a forked child; then resumed."""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter
from tests.builders.crashing import file_operations, killed_at
from tests.builders.unsynced import Journal, materialise
from tests.trainer.faults.states import is_of_its_step, state_at
from trainer.checkpoint import publish_directory
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish import digest_of_file
from trainer.checkpoint.state import read_file

POLICY = Policy(keep_rolling=1, keep_emergency=1)
ALL_KINDS = {"rolling", "best", "epoch"}


class Floor:
    """The newest step that was called durable, in memory that a killed child shares with its parent."""

    def __init__(self, step: int) -> None:
        self._memory = mmap.mmap(-1, 8)
        self.step = step

    @property
    def step(self) -> int:
        return int.from_bytes(self._memory[:8], "little", signed=True)

    @step.setter
    def step(self, step: int) -> None:
        self._memory[:8] = step.to_bytes(8, "little", signed=True)


def session(
    directory: Path, saves: list[tuple[int, set[str]]], floor: Floor | None = None, policy: Policy = POLICY
) -> None:
    """A session as the trainer has it: lock, log, resume, saves."""
    log = EventWriter(directory)
    with Checkpointer(directory, policy, log=log, say=lambda line: None) as checkpoints:
        checkpoints.find("auto")
        for step, kinds in saves:
            assert checkpoints.save_now(state_at(step, epoch=step), kinds, "regular")
            if floor is not None:
                floor.step = step
    log.close()


def nothing(run: Path) -> None:
    """No directory yet."""


def two_saves(run: Path) -> None:
    session(run, [(1, ALL_KINDS), (2, {"rolling", "emergency"})])


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()  # other names of it stay as they are
    path.write_bytes(data[: len(data) // 2])


def damaged(run: Path) -> None:
    """A dead session's run: newest files damaged, one missing, half a file left, registry and log torn."""
    session(run, [(1, ALL_KINDS), (2, {"rolling"}), (3, {"best"})])
    for name in ("best_model.pt", "best_model_backup.pt"):
        damage(run / name)
    (run / "latest.pt").unlink()
    (run / ".tmp-latest.pt-99-0").write_bytes(b"half")
    (run / "registry.json").write_bytes((run / "registry.json").read_bytes()[:500])
    with open(run / "events.jsonl", "ab") as file:
        file.write(b'{"v":1,"event":"st')


def registry_behind(run: Path) -> None:
    """A session that died after its first checkpoint was published and before registry.json told of it."""
    session(run, [(1, ALL_KINDS)])
    before = (run / "registry.json").read_bytes()
    session(run, [(2, {"rolling"})])
    (run / "registry.json").write_bytes(before)
    # So that the resume has something to move, and a registry to write.
    damage(run / "latest.pt")


# name: (how the directory was before, its floor, what the session saves)
SCENES: dict[str, tuple[Callable[[Path], None], int, list[tuple[int, set[str]]]]] = {
    "first": (nothing, -1, [(1, ALL_KINDS)]),
    "with retention": (two_saves, 2, [(3, ALL_KINDS), (4, {"emergency"})]),
    "registry behind": (registry_behind, 2, []),
    "after a damaged run": (damaged, 2, [(4, {"rolling"})]),
}


def check_after(run: Path, floor: int) -> None:
    """Two resumes find what was durable, what was half done is cleared, and the next saves are as ever."""
    run.mkdir(exist_ok=True)
    session(run, [])
    log = EventWriter(run)
    with Checkpointer(run, POLICY, log=log, say=lambda line: None) as checkpoints:
        assert not list(run.glob("**/.tmp-*"))
        source = checkpoints.find("auto")
        step = -1 if source is None else int(source.state["step"])
        assert step >= floor
        assert source is None or is_of_its_step(source.state)
        for later in (step + 1, step + 2):
            assert checkpoints.save_now(state_at(later, epoch=later), ALL_KINDS, "regular")
    log.close()
    rows = {row["path"]: row for row in json.loads((run / "registry.json").read_bytes())["checkpoints"]}
    files = {path.name: path for path in run.glob("*.pt")}
    assert set(rows) == set(files)
    for name, path in files.items():
        assert rows[name]["digest"] in ("", digest_of_file(str(path))), name
    assert rows["latest.pt"]["step"] == rows["rolling_last_backup.pt"]["step"] == step + 2
    assert [name for name in files if name.startswith("rolling_step_")] == [f"rolling_step_{step + 2:06d}.pt"] or (
        source is not None  # what the session was resumed from stays
    )
    found = [decode(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    seqs = [event.seq for event in found if isinstance(event, Event)]
    assert seqs == list(range(1, len(seqs) + 1))


def check_names(run: Path) -> None:
    """There is no moment without a whole file under each of the names that are always there."""
    for name in ("latest.pt", "latest_backup.pt", "best_model.pt", "best_model_backup.pt", "rolling_last_backup.pt"):
        state, _ = read_file(str(run / name))
        assert is_of_its_step(state), name


def killed_everywhere(scratch: Path, scene: str) -> int:
    """Kill the scene at each of its file operations; gives how many there were."""
    prepare, floor_before, saves = SCENES[scene]
    (scratch / "before").mkdir()
    prepare(scratch / "before" / "run")
    before = Journal(scratch / "before")
    untouched = next(before.crashes())
    number, run = 1, scratch / "after" / "run"
    while True:
        materialise(before, untouched, scratch / "after")
        floor = Floor(floor_before)
        was_killed = killed_at(number, lambda: session(run, saves, floor))  # noqa: B023
        if scene == "with retention":
            check_names(run)
        check_after(run, floor.step)
        shutil.rmtree(scratch / "after")
        if not was_killed:
            return number - 1
        number += 1


@pytest.mark.parametrize("scene", SCENES)
def test_a_kill_at_every_file_operation(scratch: Path, scene: str) -> None:
    assert killed_everywhere(scratch, scene) > (8 if scene == "registry behind" else 25)


def test_the_operations_of_a_save_are_counted_in_every_thread(scratch: Path) -> None:
    calls = file_operations(lambda: session(scratch / "run", [(1, ALL_KINDS)]))
    assert {"open", "write", "fsync", "link", "rename", "mkdir"} <= set(calls)
    assert calls.count("fsync") >= 6


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("has_exchange", [True, False], ids=["exchange", "no exchange"])
def test_a_kill_at_file_operations_of_a_checkpoint_that_is_a_directory(
    scratch: Path, has_exchange: bool, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = replace(POLICY, checkpoint_format="dir")
    if not has_exchange:
        monkeypatch.setattr(publish_directory, "exchange", lambda a, b: False)
    (scratch / "before").mkdir()
    session(scratch / "before" / "run", [(1, ALL_KINDS), (2, ALL_KINDS)], policy=policy)
    before = Journal(scratch / "before")
    untouched, run, number = next(before.crashes()), scratch / "after" / "run", 1
    was_killed = True
    while was_killed:
        materialise(before, untouched, scratch / "after")
        floor = Floor(2)
        saves = [(3, {"rolling", "best"})]
        was_killed = killed_at(number, lambda: session(run, saves, floor, policy))  # noqa: B023
        for wanted in (3, 4):
            with Checkpointer(run, policy, say=lambda line: None) as checkpoints:
                assert not list(run.glob("**/.tmp-*"))
                source = checkpoints.find("auto")
                assert source is not None
                assert source.step >= floor.step, number
                assert is_of_its_step(source.state)
                assert checkpoints.save_now(state_at(wanted, epoch=wanted), ALL_KINDS, "regular")
        shutil.rmtree(scratch / "after")
        number += stride
    assert number > 80
