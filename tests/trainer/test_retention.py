from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ckpt_tui.services.catalog import read_catalog
from trainer.__main__ import main
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.names import Name, read_name
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.retention import judged, removable
from trainer.retention_report import verdicts_of


def _names(*texts: str) -> list[Name]:
    found = [read_name(text) for text in texts]
    random.Random(1).shuffle(found)
    assert all(found)
    return [name for name in found if name is not None]


def test_the_oldest_by_number_go_and_each_kind_is_a_pool_of_its_own() -> None:
    names = _names(
        "rolling_step_000900.pt", "rolling_step_1000000.pt", "rolling_step_999000.pt", "latest.pt", "best_model.pt",
        "emergency_step_000005_20260101_000000.pt", "emergency_step_000005_20260101_000001.pt", "epoch_00001.pt",
        "rolling_last_backup.pt",
    )  # fmt: skip
    assert removable(judged(names, Policy(keep_rolling=2, keep_emergency=1), step=1_000_000)) == [
        ("rolling_step_000900.pt", "--keep_checkpoints 2"),
        ("emergency_step_000005_20260101_000000.pt", "--keep_emergency_checkpoints 1"),
    ]


def test_what_the_session_was_resumed_from_stays() -> None:
    names = _names(*(f"rolling_step_{step:06d}.pt" for step in range(1, 7)))
    removed = removable(
        judged(names, Policy(keep_rolling=2, keep_emergency=1), step=6, protected={"rolling_step_000003.pt"})
    )
    assert [name for name, _ in removed] == [f"rolling_step_{step:06d}.pt" for step in (1, 2, 4)]


def test_a_branch_that_was_left_does_not_push_out_the_new_saves() -> None:
    names = _names("rolling_step_000900.pt", "rolling_step_000800.pt", "rolling_step_000250.pt")
    assert removable(judged(names, Policy(keep_rolling=1, keep_emergency=1), step=250)) == []


def test_other_peoples_files_are_not_ours() -> None:
    for name in (
        "rolling_step_1.pt",
        "checkpoint-500",
        "latest.pt.bak",
        ".tmp-latest.pt-1-2",
        "rolling_step_000001.pth",
    ):
        assert read_name(name) is None


def test_each_reason_to_stay_keeps_one_beyond_the_last() -> None:
    names = _names(*(f"rolling_step_{step:06d}.pt" for step in range(10, 110, 10)))
    policy = Policy(keep_rolling=2, keep_every=40, keep_best=2)
    scores = {name.name: abs((name.step or 0) - 30.5) for name in names} | {"rolling_step_000010.pt": math.nan}
    verdicts = {
        verdict.name.step: (verdict.goes, verdict.rule)
        for verdict in judged(names, policy, step=100, pinned={"rolling_step_000060.pt"}, scores=scores)
    }
    last = "--keep_checkpoints 2"
    assert verdicts == {
        10: (True, last), 20: (True, last), 30: (False, "--keep_best 2"), 40: (False, "--keep_every 40"),
        50: (True, last), 60: (False, "pinned by rolling_step_000060.pt.keep"), 70: (True, last),
        80: (False, "--keep_every 40"), 90: (False, last), 100: (False, last),
    }  # fmt: skip
    most = Policy(keep_rolling=1, keep_best=1, monitor_mode="max")
    gone = [name for name, _ in removable(judged(names, most, step=100, scores=scores))]
    assert gone == [f"rolling_step_{step:06d}.pt" for step in range(10, 100, 10)]  # the last one is the best
    assert len(removable(judged(names, most, step=100, scores=dict.fromkeys(scores, 1.0)))) == 9


def test_the_best_by_any_metric_of_an_evaluation_stay(tmp_path: Path) -> None:
    policy = Policy(monitor="accuracy", monitor_mode="max", keep_rolling=1, keep_best=1, is_async=False)
    with Checkpointer(tmp_path, policy) as checkpoints:
        for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.4), (4, 0.3)):
            state = {"step": step, "val_loss": 1.0, "val_metrics": {"accuracy": torch.tensor(accuracy), "note": "x"}}
            checkpoints.save(state, {"rolling"})
    (tmp_path / "registry.json").unlink()  # the files tell it, too
    with Checkpointer(tmp_path, policy) as checkpoints:
        checkpoints.find("auto")
        checkpoints.save({"step": 5, "val_metrics": {"accuracy": 0.2}}, {"rolling"})
        checkpoints.save({"step": 6, "val_metrics": {"accuracy": 0.1}}, {"rolling"})
    # Step 4 is what the last session was resumed from.
    assert sorted(path.name for path in tmp_path.glob("rolling_step_*")) == [
        f"rolling_step_{step:06d}.pt" for step in (2, 4, 6)
    ]


def test_on_a_full_disk_fewer_stay_where_that_was_asked_for() -> None:
    names = _names(*(f"rolling_step_{step:06d}.pt" for step in range(1, 6)))
    assert removable(judged(names, Policy(keep_rolling=5), step=5, is_full=True)) == []
    asked = Policy(keep_rolling=5, keep_rolling_when_full=3)
    assert removable(judged(names, asked, step=5)) == []
    assert [rule for _, rule in removable(judged(names, asked, step=5, is_full=True))] == [
        "--keep_checkpoints_when_full 3"
    ] * 2


def test_the_report_says_what_the_next_save_removes_and_why_the_rest_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Checkpointer(tmp_path, Policy(keep_rolling=3, keep_every=20)) as checkpoints:
        for step in (10, 20, 30, 40):
            checkpoints.save({"step": step, "model": {"w": torch.ones(500_000)}}, {"rolling"})
    (tmp_path / "rolling_step_000030.pt.keep").touch()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(["retention", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in told] == [
        "stays rolling_step_000020.pt --keep_every 20",
        "stays rolling_step_000030.pt --keep_checkpoints 3",
        "stays rolling_step_000040.pt --keep_checkpoints 3",
        "stays latest.pt replaced, never removed",
        "stays latest_backup.pt replaced, never removed",
        "stays rolling_last_backup.pt replaced, never removed",
        "the next save removes 0 checkpoints, which frees 0 B",
    ]
    assert main(["retention", str(tmp_path), "--keep_checkpoints", "1", "--keep_every", "0", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    rules = {row["path"]: (row["goes"], row["rule"]) for row in data["checkpoints"]}
    assert rules["rolling_step_000020.pt"] == (True, "--keep_checkpoints 1")
    assert rules["rolling_step_000030.pt"] == (False, "pinned by rolling_step_000030.pt.keep")
    assert rules["rolling_step_000040.pt"] == (True, "--keep_checkpoints 1")  # by name; latest.pt has its bytes
    assert data["freed_bytes"] == (tmp_path / "rolling_step_000020.pt").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert main(["retention", str(tmp_path), "--keep_checkpoints", "0"]) == 2
    assert main(["retention", str(tmp_path / "none")]) == 2


def test_the_viewer_marks_the_ones_that_the_report_calls_going(tmp_path: Path) -> None:
    policy = Policy(keep_rolling=9, keep_every=40, keep_best=1)
    settings = {"keep_checkpoints": 2, "keep_emergency_checkpoints": 9, "keep_every": 40, "keep_best": 1}
    with Checkpointer(tmp_path, policy) as checkpoints:
        for step in range(10, 90, 10):
            state = {"step": step, "model": {"w": torch.ones(9)}, "args": settings, "val_loss": abs(step - 31.0)}
            checkpoints.save(state, {"rolling"})
    (tmp_path / "rolling_step_000050.pt.keep").touch()
    registry = Registry(str(tmp_path))
    registry.sync()
    going = {one.name.name for one in verdicts_of(registry, replace(policy, keep_rolling=2)) if one.goes}
    assert going == {f"rolling_step_{step:06d}.pt" for step in (10, 20, 60, 70)}
    assert {entry.name for entry in read_catalog(str(tmp_path)).entries if entry.removed_next} == going
