"""The whole way back, from the shell, on a real training: killed, damaged, restored, resumed with another learning
rate, refused a second time, stopped, rolled back, undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.run_directories import damage
from tests.builders.shell import cli, events, fingerprint, hold_between_saves, last_step, wait_for
from tests.builders.trees import tree_of

pytest.importorskip("torch")

TAKEN = "A training is running here"
TRAIN = {
    "n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "batch_size": 2, "mini_batch_size": 2,
    "max_steps": 1_000_000, "eval_freq": 40, "eval_batches": 1, "checkpoint_freq": 20, "keep_checkpoints": 4,
    "threads": 1, "lr": 1e-3,
}  # fmt: skip


@pytest.fixture
def crashed(tmp_path: Path) -> Iterator[Path]:
    """A run that was killed with SIGKILL after a few saves, and whose latest.pt has flipped bits."""
    directory = tmp_path / "run"
    options = [word for key, value in TRAIN.items() for word in (f"--{key}", str(value))]
    with open(tmp_path / "out.log", "wb") as log:
        trainer = subprocess.Popen(
            [sys.executable, "-m", "trainer", "--out", str(directory), *options], cwd=tmp_path, stdout=log, stderr=log
        )
    wait_for(lambda: last_step(directory, 1) > 90 or trainer.poll() is not None, "90 steps of training")
    assert trainer.poll() is None, (tmp_path / "out.log").read_text()
    try:
        hold_between_saves(trainer.pid, directory)
    finally:
        trainer.kill()
        trainer.wait()
    damage(directory / "latest.pt")
    yield directory
    for name in ("launch.json", "trainer.lock"):
        if (directory / name).exists():
            pid = json.loads((directory / name).read_text())["pid"]
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_killed_damaged_restored_resumed_stopped_rolled_back_undone(crashed: Path) -> None:
    directory = str(crashed)
    start = tree_of(crashed)
    reached = last_step(crashed, 1)

    listed = cli("list", directory, "--check", "full", expect=1)
    assert listed["checkpoints"]["latest"][0]["validity"] == "damaged"
    assert tree_of(crashed) == start

    # Nothing happens unless it is asked for.
    assert cli("restore", directory, "--dry-run")["done"] is False
    assert cli("restore", directory, expect=2)["title"] == "Not confirmed"
    assert tree_of(crashed) == start
    restored = cli("restore", directory, "--yes")
    assert restored["done"] is True
    assert "set_aside/1/latest.pt" in restored["set_aside"]
    assert (crashed / "set_aside/1/latest.pt").read_bytes() == start["latest.pt"]
    # The damage was to bytes that several names share; now every one of them is valid.
    assert cli("list", directory, "--check", "full")["resume_would_take"] is not None
    assert cli("restore", directory, "--yes")["steps"] == []

    plan = cli("resume", directory, "--set", "lr=5e-4", "--dry-run")
    assert [(c["key"], c["b"], c["effect"]) for c in plan["changes"]] == [("lr", 5e-4, "course")]
    assert plan["steps_redone"] == reached - plan["step"]
    assert cli("resume", directory, "--set", "n_embd=32", "--yes", expect=2)["title"] == "Refused"
    resumed = cli("resume", directory, "--set", "lr=5e-4", "--yes")
    wait_for(lambda: last_step(crashed, 2) > plan["step"] + 30, "the resumed training to go on")
    run_start = next(e for e in events(crashed) if e["event"] == "run_start" and e["session"] == 2)
    assert (run_start["pid"], run_start["start_step"]) == (resumed["pid"], plan["step"])
    assert run_start["config"]["lr"] == 5e-4
    assert f"resumed from step {plan['step']}" in (crashed / "session_2.log").read_text()

    # A second one, and acts on its files, are refused while it lives.
    assert "running here already" in cli("resume", directory, "--yes", expect=2)["message"]
    assert cli("restore", directory, "best_model_backup.pt", "--yes", expect=2)["title"] == TAKEN

    stopped = cli("stop", directory, "--yes")
    assert stopped["done"] is True
    assert [e["event"] for e in events(crashed)][-1] == "run_end"
    (emergency,) = crashed.glob("emergency_step_*.pt")
    assert cli("resume", directory, "--dry-run")["step"] == int(emergency.name.split("_")[2]), "nothing was lost"
    seqs = [e["seq"] for e in events(crashed)]
    assert seqs == list(range(1, len(seqs) + 1)), "no line was lost or written twice"

    # Back to an earlier step, which the trainer itself then takes; and everything as it was.
    before = tree_of(crashed, without=["set_aside", "events.jsonl"])
    oldest = min(row["step"] for row in cli("list", directory)["checkpoints"]["rolling"])
    rolled_back = cli("rollback", directory, "--to", str(oldest), "--yes")
    assert rolled_back["resume_would_take"] == "latest.pt"
    assert not emergency.exists()
    alone = crashed.parent / "alone"
    alone.mkdir()
    (alone / "latest.pt").write_bytes(before[f"rolling_step_{oldest:06d}.pt"])
    assert fingerprint(crashed) == fingerprint(alone), "the trainer takes what the viewer said it would"
    cli("undo", directory, "--yes")
    assert tree_of(crashed, without=["set_aside", "events.jsonl"]) == before
    acts = [e["act"] for e in events(crashed) if e["event"] == "checkpoint_restored"]
    assert list(dict.fromkeys(acts)) == ["restore", "rollback", "undo"]


def test_demo_starts_is_joined_stopped_and_resumed(tmp_path: Path) -> None:
    directory = str(tmp_path / "demo")
    started = cli("demo", "--dir", directory, "--max-steps", "1000000", "--no-watch")
    try:
        assert started["what"] == "started"
        again = cli("demo", "--dir", directory, "--no-watch")
        assert (again["what"], again["pid"]) == ("running", started["pid"])
        wait_for(lambda: last_step(tmp_path / "demo", 1) > 3, "the demo to train")
        assert cli("stop", directory, "--yes")["done"] is True
        step = last_step(tmp_path / "demo", 1)
        resumed = cli("demo", "--dir", directory, "--max-steps", "1000000", "--no-watch")
        assert resumed["what"] == "resumed"
        wait_for(lambda: last_step(tmp_path / "demo", 2) > step, "the demo to go on")
    finally:
        cli("stop", directory, "--yes")
    assert len(list((tmp_path / "demo").glob("emergency_step_*.pt"))) == 2
