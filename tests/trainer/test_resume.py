"""Which checkpoint a resume takes, and what it says of it: on real files, in one process."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.events.codec import encode
from ckpt_tui.events.schema import RunStart, Step
from ckpt_tui.events.writer import EventWriter
from tests.builders.resumed_sessions import NEEDED, flip, found, session, state, three_saves
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.retraining import trained_since
from trainer.errors import UsageError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return three_saves(tmp_path / "run")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_no_reason_to_go_back_to_an_older_one(
    error: Exception, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, num_loads = torch.load, 0

    def scarce(*args: Any, **options: Any) -> Any:
        nonlocal num_loads
        num_loads += 1
        if num_loads == 1:
            raise error
        return load(*args, **options)

    there = sorted(os.listdir(run))
    monkeypatch.setattr(torch, "load", scarce)
    with pytest.raises(UsageError, match=r"latest\.pt cannot be loaded: memory ran out"):
        found(run)
    assert sorted(os.listdir(run)) == there
    assert found(run).step == 180


def test_an_explicit_older_one_leaves_the_later_ones_behind(run: Path) -> None:
    source = session(run, "rolling_step_000060.pt")
    assert source is not None
    assert [name for name, _ in source.left] == [
        "latest.pt", "rolling_last_backup.pt", "rolling_step_000180.pt", "latest_backup.pt", "rolling_step_000120.pt",
    ]  # fmt: skip
    assert source.sentences()[-1].startswith("abandoned, kept, and not taken by `--resume auto` from now on: latest")
    # It died before it saved anything: what it was told to start from is still where the run is.
    assert found(run).name == "rolling_step_000060.pt"
    session(run, steps=(90,))
    assert found(run).step == 90
    assert found(run).name == "latest.pt"
    # A second branch off the first one, by hand, and back to the first one.
    session(run, "rolling_step_000120.pt", steps=(150,))
    assert found(run).step == 150
    session(run, "rolling_step_000090.pt", steps=(100,))
    assert found(run).step == 100


@pytest.mark.parametrize("lost", [("registry.json",), ("registry.json", "events.jsonl"), ("events.jsonl",)])
def test_the_lineage_is_found_again_without_registry_or_log(lost: tuple[str, ...], run: Path) -> None:
    session(run, "rolling_step_000060.pt")
    session(run, steps=(90,))
    session(run)
    for name in lost:
        (run / name).unlink()
    assert found(run).step == 90
    assert found(run, "rolling_step_000180.pt").step == 180


def test_without_the_registry_the_log_knows_a_choice_that_saved_nothing(run: Path) -> None:
    session(run, "rolling_step_000060.pt")
    session(run)  # finds that one by itself, and saves nothing either
    (run / "registry.json").unlink()
    assert found(run).name == "rolling_step_000060.pt"


def test_branches_that_were_left_are_not_taken_even_when_nothing_else_is_good(run: Path) -> None:
    session(run, "rolling_step_000060.pt")
    flip(run / "rolling_step_000060.pt")
    with pytest.raises(UsageError, match=r"on an abandoned branch: latest.pt.*name it: --resume latest.pt") as error:
        found(run)
    assert "rolling_step_000060.pt: the checksum of its record" in str(error.value)
    assert "ckpt-tui salvage" in str(error.value)


def test_retention_neither_counts_nor_removes_what_was_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = Checkpointer(run, Policy(is_async=False, keep_rolling=3), needed=NEEDED)
    for step in (10, 20, 30, 40):
        checkpoints.save(state(step), {"rolling"})
    checkpoints.close()
    checkpoints = Checkpointer(run, Policy(is_async=False, keep_rolling=3), needed=NEEDED)
    checkpoints.find("rolling_step_000020.pt")
    for step in (25, 45, 55, 65):
        checkpoints.save(state(step), {"rolling"})
    checkpoints.close()
    # 20 is what it was resumed from; 30 and 40 were left, and are below the new ones.
    left = sorted(path.name for path in run.glob("rolling_step_*.pt"))
    assert left == [f"rolling_step_0000{step}.pt" for step in (20, 30, 40, 45, 55, 65)]
    assert found(run).step == 65


def test_a_name_that_the_new_branch_comes_to_keeps_what_was_left_under_another(run: Path) -> None:
    session(run, "rolling_step_000060.pt", steps=(120,))
    # The same step of another branch: both are there, and each can be named.
    assert found(run).step == 120
    left = torch.load(run / "rolling_step_000120_session_1.pt", weights_only=True)
    assert (left["step"], left["lineage"][-1]["session"]) == (120, 1)
    assert torch.load(run / "rolling_step_000120.pt", weights_only=True)["lineage"][-1]["session"] == 2
    session(run, "rolling_step_000060.pt", steps=(120,))
    names = sorted(path.name for path in run.glob("rolling_step_000120*"))
    assert names == [
        "rolling_step_000120.pt", "rolling_step_000120_session_1.pt", "rolling_step_000120_session_2.pt",
    ]  # fmt: skip
    assert session(run, "rolling_step_000120_session_1.pt", steps=(130,)) is not None
    assert found(run).step == 130


def test_another_runs_checkpoint_begins_a_lineage_of_its_own(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    session(other, None, steps=(500,))
    source = session(run, str(other / "latest.pt"))
    assert source is not None
    assert source.lineage is None
    assert [name for name in sorted(os.listdir(other)) if name != "trainer.lock"] == [
        "events.jsonl", "latest.pt", "registry.json", "rolling_last_backup.pt", "rolling_step_000500.pt",
    ]  # fmt: skip
    assert any("is of another run: its history stays there, nothing is copied" in line for line in source.sentences())
    # Everything here is of the branch that was left; nothing is on the new one yet.
    with pytest.raises(UsageError, match="on an abandoned branch"):
        found(run)
    session(run, str(other / "latest.pt"), steps=(510,))
    assert found(run).step == 510


def test_files_of_another_run_with_the_same_session_numbers_are_not_taken_for_ours(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    session(other, None, steps=(500,))
    shutil.copy(other / "rolling_step_000500.pt", run)
    assert found(run).step == 180


def test_checkpoints_without_a_lineage_are_taken_as_before(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for step in (10, 20):
        torch.save({**state(step), "format_version": 1}, tmp_path / "run" / f"rolling_step_{step:06d}.pt")
    assert found(tmp_path / "run").step == 20
    session(tmp_path / "run", "rolling_step_000010.pt")
    assert found(tmp_path / "run").step == 10
    session(tmp_path / "run", steps=(15,))
    assert found(tmp_path / "run").step == 15


def test_what_the_choice_costs_is_said_in_steps_and_seconds(tmp_path: Path) -> None:
    run = tmp_path / "run"
    now = 1000.0
    log = EventWriter(run, clock=lambda: now)
    log.start()
    checkpoints = Checkpointer(run, Policy(is_async=False), log=log, needed=NEEDED)
    for step in range(10, 260, 10):
        now += 7.0
        log.step(step, loss=1.0)
        if step in (180, 240):
            checkpoints.save(state(step), {"rolling"})
    checkpoints.close()
    log.close()
    for name in ("latest.pt", "rolling_last_backup.pt"):
        flip(run / name)
    source = found(run)
    assert source.step == 180
    # 250 was reached: 240 could not be used, and ten steps had not been saved.
    assert (
        source.sentences()[-1] == "resuming from step 180 instead of 240: 70 steps, 49 s of training to be done again"
    )
    (run / "events.jsonl").unlink()
    assert found(run).sentences()[-1] == "resuming from step 180 instead of 240: 60 steps of training to be done again"


def test_what_a_person_gave_up_before_is_not_called_training_to_be_done_again(tmp_path: Path) -> None:
    """Session 1 came to 32, a person went back to 10, and session 2 came to 30, which is where it goes on."""
    lines = [
        RunStart(seq=1, ts=1.0, session=1, step=0, start_step=0),
        *(Step(seq=2 + step, ts=float(step), session=1, step=step) for step in range(1, 33)),
        RunStart(seq=50, ts=100.0, session=2, step=10, start_step=10),
        *(Step(seq=51 + step, ts=100.0 + step, session=2, step=step) for step in range(11, 31)),
    ]
    log = tmp_path / "events.jsonl"
    log.write_bytes(b"".join(encode(line) for line in lines))
    assert trained_since(str(tmp_path), 30) is None
    beyond = trained_since(str(tmp_path), 20)
    assert beyond is not None
    assert beyond.step == 30


def test_a_named_bad_one_is_refused_and_left_alone(run: Path) -> None:
    flip(run / "rolling_step_000120.pt")
    before = sorted(os.listdir(run))
    with pytest.raises(UsageError, match=r"no checkpoint can be used\n  rolling_step_000120.pt: the checksum"):
        session(run, "rolling_step_000120.pt")
    assert sorted(os.listdir(run)) == before


def test_a_session_that_goes_back_leaves_what_it_did_since(run: Path) -> None:
    with Checkpointer(run, Policy(is_async=False), needed=NEEDED, say=lambda line: None) as checkpoints:
        assert checkpoints.find("auto") is not None
        checkpoints.save(state(240), {"rolling"})
        checkpoints.save(state(300), {"rolling"})
        assert checkpoints.go_back(10) is None
        source = checkpoints.go_back(200)
        assert source is not None
        assert source.step == 180
        # It dies now: the steps after the onset of the trouble are not taken again.
    assert found(run).step == 180
    with Checkpointer(run, Policy(is_async=False), needed=NEEDED, say=lambda line: None) as checkpoints:
        assert checkpoints.find("auto") is not None
        checkpoints.save(state(190), {"rolling"})
    assert found(run).step == 190
    assert (run / "rolling_step_000300.pt").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"bytes": {}}, {"inode": [1]}, {"step": -1}, {"session": "1"}, {"session_id": 5}, {"digest": 5}, {"metrics": [1]},
     {"metrics": {"val_loss": "x"}}, {"epoch": {}}, {"path": 5}],
)  # fmt: skip
def test_a_registry_of_somebody_elses_making_is_made_again(wrong: dict[str, Any], run: Path) -> None:
    """It may lack the checksum that tells damage: whatever JSON it holds, no resume is refused and nothing is left."""
    session(run, steps=(100, 200))
    registry = json.loads((run / "registry.json").read_bytes())
    before = [dict(row) for row in registry["checkpoints"]]
    del registry["checksum"]
    for row in registry["checkpoints"]:
        row |= wrong
    (run / "registry.json").write_text(json.dumps(registry))
    assert found(run).step == 200
    made_again = Registry(str(run))
    made_again.sync()
    told = ("path", "step", "epoch", "metrics", "digest", "session", "session_id", "bytes", "inode")
    assert [[row[key] for key in told] for row in made_again.entries.values()] == [
        [row[key] for key in told] for row in before
    ]
