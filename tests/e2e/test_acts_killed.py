"""The real commands, killed at random moments while they move large files: nothing is lost, and all is whole."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckpt_tui.services import journal
from tests.builders.run_directories import FakeTensor, damage, let_age, torch_zip, training_state, write_log

NUM_VALUES = 2_000_000  # 8 MB a file: a copy of one takes a while
ACTS = (["restore"], ["rollback", "--to", "200"], ["rollback", "--to", "300"], ["undo"], ["undo"], ["undo", "--redo"])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crashed run with a damaged latest.pt, and large files."""
    directory = tmp_path_factory.mktemp("original") / "run"
    directory.mkdir()
    for step in (200, 300, 400):
        state = training_state(step)
        state["ema"] = {"weight": FakeTensor([float(step)] * NUM_VALUES, (NUM_VALUES,))}
        (directory / f"rolling_step_{step:06d}.pt").write_bytes(torch_zip(state))
    shutil.copy(directory / "rolling_step_000400.pt", directory / "latest.pt")
    shutil.copy(directory / "rolling_step_000300.pt", directory / "latest_backup.pt")
    write_log(directory, last_step=437, saves=[(step, f"rolling_step_{step:06d}.pt") for step in (200, 300, 400)])
    damage(directory / "latest.pt")
    let_age(directory / "latest.pt")
    return directory


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checkpoints(directory: Path) -> dict[str, str]:
    return {path.name: _digest(path) for path in directory.glob("*.pt")}


def _act(directory: Path, words: list[str], kill_after_s: float | None = None) -> bool:
    """Run the command; whether it was killed, so long after the folder of a new deed is there."""
    command = [sys.executable, "-m", "ckpt_tui", words[0], str(directory), *words[1:], "--yes"]
    folders = set(_folders(directory))
    process = subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while kill_after_s is not None and process.poll() is None:
        if set(_folders(directory)) - folders:
            time.sleep(kill_after_s)
            process.kill()
            break
        time.sleep(0.001)
    said, _ = process.communicate(timeout=300)
    if process.returncode == -signal.SIGKILL:
        return True
    # 2: there is no such thing any more, as a step that lies aside; it says so.
    assert process.returncode == 0 or (process.returncode == 2 and "error: " in said), said
    assert "Traceback" not in said, said
    return False


def _folders(directory: Path) -> list[str]:
    try:
        return os.listdir(directory / "set_aside")
    except FileNotFoundError:
        return []


@pytest.mark.parametrize(
    ("num_kills", "seed"), [(4, 1), *(pytest.param(25, seed, marks=pytest.mark.long) for seed in range(2, 8))]
)
def test_killed_again_and_again_nothing_is_lost(original: Path, tmp_path: Path, num_kills: int, seed: int) -> None:
    directory = tmp_path / "run"
    shutil.copytree(original, directory)
    before = _checkpoints(directory)
    contents = set(before.values())
    rng = random.Random(seed)
    num_acts = killed = interrupted = 0
    while killed < num_kills or interrupted < num_kills // 4:
        assert killed < 10 * num_kills, "too few died in the midst of a deed"
        words = rng.choice(ACTS)
        num_acts += 1
        if not _act(directory, words, rng.uniform(0.0, 0.12)):
            continue
        killed += 1
        interrupted += bool(journal.unfinished(str(directory)))
        now = _checkpoints(directory)
        assert set(now.values()) <= contents, f"a name of half a file after {words}"
        assert "latest.pt" in now, f"a moment without a latest after {words}"
        everywhere = {_digest(path) for path in directory.rglob("*.pt") if "incoming" not in path.parts}
        assert everywhere >= contents, f"lost by {words}"
    # The next command finishes or cancels the last one, and undo goes back to the beginning.
    for _ in range(3 * num_acts):
        if "There is nothing" in subprocess.run(
            [sys.executable, "-m", "ckpt_tui", "undo", str(directory), "--yes"],
            cwd="/", capture_output=True, text=True, timeout=300, check=True,
        ).stdout:  # fmt: skip
            break
    assert _checkpoints(directory) == before
    assert journal.unfinished(str(directory)) == []
    assert not list((directory / "set_aside").glob("*/incoming"))
    log = (directory / "events.jsonl").read_bytes()
    assert log.startswith((original / "events.jsonl").read_bytes())
    assert b"checkpoint_restored" in log
