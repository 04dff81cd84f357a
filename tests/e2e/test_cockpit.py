"""The cockpit in a real terminal on real trainings: a list of runs, every screen, every size, a crash.

Looking changes nothing: what lies in the run directories is the same before and after, but for what the trainings
themselves write.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.terminal import Terminal, require_tmux
from tests.e2e.test_story import CKPT_TUI, newest_step, wait_until

SETTINGS = [
    "--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--block_size", "32", "--batch_size", "4",
    "--mini_batch_size", "4", "--max_steps", "200000", "--checkpoint_freq", "100", "--eval_freq", "100",
    "--threads", "1", "--log_freq", "5",
]  # fmt: skip


def train(runs: Path, name: str, *settings: str) -> subprocess.Popen[bytes]:
    """A training that has saved."""
    command = [sys.executable, "-m", "trainer", "--out", name, *SETTINGS, *settings]
    with open(runs.parent / f"{name}.log", "wb") as log:
        process = subprocess.Popen(command, cwd=runs, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    wait_until(lambda: newest_step(runs / name) > 230, what=(runs.parent / f"{name}.log").read_text())
    return process


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """`slow` was killed; `fast` trains."""
    directory = tmp_path / "runs"
    directory.mkdir()
    gone = train(directory, "slow", "--lr", "1e-5", "--seed", "2")
    gone.kill()
    gone.wait()
    process = train(directory, "fast", "--lr", "1e-3", "--seed", "1")
    try:
        yield directory, process
    finally:
        process.kill()
        process.wait()


def test_from_a_list_of_runs_to_a_crash_before_ones_eyes(
    runs: tuple[Path, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    require_tmux()
    directory, training = runs
    left_alone = {path.name: path.stat().st_mtime_ns for path in (directory / "slow").iterdir()}
    terminal = Terminal(tmp_path, 80, 24)
    try:
        terminal.run([str(CKPT_TUI), "watch", "runs"])
        terminal.wait_for("1 running", "1 crashed", "fast", "slow")

        # Beside each other, with the settings in which they differ.
        terminal.press("Space")
        terminal.press("Down")
        terminal.press("Space")
        terminal.press("C")
        terminal.wait_for("settings: 2 of", "lr", "seed")
        terminal.press("Escape")
        terminal.wait_for("1 running", "1 crashed")

        # Into the run that trains, whatever the order of the list is now.
        terminal.press("/")
        terminal.type("fast")
        terminal.wait_gone("slow")
        terminal.press("Enter")
        terminal.press("Enter")
        terminal.wait_for("● running", "at risk", "checkpoints", "valid")

        for columns, rows in ((200, 60), (40, 12), (80, 24)):
            terminal.resize(columns, rows)
            terminal.wait_for("● running", "at risk")

        # Every other screen, and back.
        for key, shown in (("A", "how often to save"), ("e", "what it carries"), ("?", "zoom out"), ("i", "tree")):
            terminal.press(key)
            terminal.wait_for(shown)
            terminal.press("Escape")
            terminal.wait_for("● running", "checkpoints")

        # A picture lies where the person is.
        terminal.press("P")
        wait_until(lambda: any(tmp_path.glob("*.svg")), what="a picture")

        # It dies before one's eyes: the alert, what was lost, what to do.
        training.send_signal(signal.SIGKILL)
        training.wait()
        last_step = newest_step(directory / "fast")
        terminal.wait_for("✖ crashed", "Killed", f"{last_step:,}", "r resume from")
        terminal.press("a")
        terminal.wait_for("The run crashed")
        terminal.press("Escape")
        terminal.wait_for("✖ crashed", "checkpoints")

        terminal.press("q")
        terminal.wait_gone("checkpoints")
        terminal.type("echo back in the shell: $?")
        terminal.press("Enter")
        terminal.wait_for("back in the shell: 0")
        assert "Traceback" not in terminal.screen()
    finally:
        terminal.close()
    assert {path.name: path.stat().st_mtime_ns for path in (directory / "slow").iterdir()} == left_alone

    # Scripts are told the same.
    status = subprocess.run(
        [CKPT_TUI, "status", "--json", directory / "fast"], capture_output=True, text=True, check=False
    )
    assert status.returncode == 1, status.stdout
    data = json.loads(status.stdout)["data"]
    assert data["state"] == "crashed"
    assert data["step"] == last_step
