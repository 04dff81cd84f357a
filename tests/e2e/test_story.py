"""The whole way once, in a real terminal: train, watch, kill, look, restore, resume, watch on, stop, roll back, undo.

A real training is really killed (SIGKILL), a checkpoint is really damaged, and everything after that is done by
keys in the watch, as a person would at night over SSH; files and log say whether it was done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.tui.dialogs.resume import CALM_S
from tests.builders.shell import hold_between_saves
from tests.e2e.terminal import Terminal, require_tmux

CKPT_TUI = Path(sys.executable).with_name("ckpt-tui")

# A few hundred steps a second, so that the story is told in seconds; far more steps than it will take.
TRAIN = [
    sys.executable, "-m", "trainer", "--out", "run", "--n_layer", "1", "--n_head", "2", "--n_embd", "32",
    "--block_size", "32", "--batch_size", "4", "--mini_batch_size", "4", "--max_steps", "200000",
    "--checkpoint_freq", "200", "--eval_freq", "200", "--threads", "1", "--seed", "7",
]  # fmt: skip


def events(run: Path) -> list[dict[str, object]]:
    """The log's whole lines."""
    log = run / "events.jsonl"
    lines = log.read_text("utf-8").split("\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


def newest_step(run: Path) -> int:
    return max((int(str(event["step"])) for event in events(run)), default=0)


def wait_until(condition, timeout_s: float = 300.0, what: str = "") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


def learning_rate(run: Path, session: int) -> object:
    """What a session says that it trains with."""
    start = next(event for event in events(run) if event["event"] == "run_start" and event["session"] == session)
    config = start["config"]
    assert isinstance(config, dict)
    return config["lr"]


def contents(run: Path) -> dict[str, str]:
    """The checkpoints, by the digest of their bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in run.glob("*.pt")}


def step_of(path: Path) -> int:
    done = subprocess.run([CKPT_TUI, "inspect", "--json", path], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["data"]["progress"]["step"])


def start_calmly(terminal: Terminal) -> None:
    """Enter in the resume dialog, as a person who reads it: one in haste starts nothing, and says so."""
    deadline = time.monotonic() + 240
    while "Enter start" in (screen := terminal.screen()):
        assert time.monotonic() < deadline, screen
        time.sleep(2 * CALM_S)
        terminal.press("Enter")
        again_at = time.monotonic() + 20
        while "Enter start" in terminal.screen() and time.monotonic() < again_at:
            time.sleep(0.1)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A training that has saved a few times."""
    run = tmp_path / "run"
    with open(tmp_path / "trainer.log", "wb") as log:
        process = subprocess.Popen(TRAIN, cwd=tmp_path, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: newest_step(run) > 650, what=(tmp_path / "trainer.log").read_text())
        yield process
    finally:
        process.kill()
        process.wait()
        _kill_launched(run)


def _kill_launched(run: Path) -> None:
    """Whatever `resume` started and this test did not stop."""
    launched = run / "launch.json"
    if launched.exists():
        pid = json.loads(launched.read_text())["pid"]
        try:
            if b"trainer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


@pytest.mark.parametrize("size", [(80, 24), pytest.param((120, 40), marks=pytest.mark.long)], ids=["80x24", "120x40"])
def test_train_watch_kill_restore_resume(
    training: subprocess.Popen[bytes], tmp_path: Path, size: tuple[int, int]
) -> None:
    require_tmux()
    run = tmp_path / "run"
    terminal = Terminal(tmp_path, *size, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    try:
        # Watch it live: the step goes up on the screen.
        terminal.run([str(CKPT_TUI), "watch", "run"])
        terminal.wait_for("running", "at risk", "loss", "rolling")

        # Kill it without a word between two saves, and break the file that a resume would like best.
        wait_until(lambda: 60 <= newest_step(run) % 200 <= 120, what="between two saves")
        hold_between_saves(training.pid, run)
        training.send_signal(signal.SIGKILL)
        training.wait()
        last_step = newest_step(run)
        damaged = (run / "latest.pt").read_bytes()
        middle = len(damaged) // 2
        # Not in place: the rolling checkpoint may be a hard link to the same bytes, and one disk fault hits one name.
        broken = (
            damaged[:middle] + bytes(byte ^ 0xFF for byte in damaged[middle : middle + 64]) + damaged[middle + 64 :]
        )
        (run / "latest.pt").unlink()
        (run / "latest.pt").write_bytes(broken)
        screen = terminal.wait_for("crashed", "Lost")
        assert f"{last_step:,}" in screen

        # The shell agrees about the damage.
        validated = subprocess.run(
            [CKPT_TUI, "validate", "--json", run / "latest.pt"], capture_output=True, text=True, check=False
        )
        assert validated.returncode == 1, validated.stdout + validated.stderr
        assert json.loads(validated.stdout)["data"]["results"][0]["verdict"] == "damaged"

        # Put the backup back by key. Nothing is deleted: the damaged bytes are still there.
        terminal.wait_for("b restore")
        terminal.press("b")
        terminal.wait_for("latest.pt", "Set aside in set_aside/1/, not deleted", "Cancel")
        terminal.press("y")
        wait_until(lambda: (run / "latest.pt").read_bytes() != broken, what="restored")
        kept = [path for path in (run / "set_aside").rglob("latest.pt") if path.read_bytes() == broken]
        assert len(kept) == 1

        # Resume by key, detached, with another learning rate; the curve goes on in a second session.
        wait_until(
            lambda: any(event["event"] == "checkpoint_restored" for event in events(run)), what="told in the log"
        )
        terminal.wait_for("u takes it back")
        terminal.press("r")
        terminal.wait_for("--resume", "Enter start")
        before = learning_rate(run, session=1)
        terminal.press("e")
        terminal.wait_for("Enter takes it")
        terminal.type("0.00123")
        terminal.wait_for("--lr 0.00123", "takes another course")  # planned again while it is typed
        terminal.press("Enter")
        terminal.wait_for("-> 0.00123", "Enter start")
        start_calmly(terminal)
        wait_until(
            lambda: any(event["event"] == "run_start" and event["session"] == 2 for event in events(run)),
            what="a second session",
        )
        terminal.wait_for("● running", "Session 2 runs")
        assert before != 0.00123
        assert learning_rate(run, session=2) == 0.00123
        wait_until(lambda: newest_step(run) > last_step + 100, what="the curve goes on")

        # Stop it by key, so that it saves.
        terminal.press("S")
        terminal.wait_for("Stop the training", "Let it run")
        terminal.press("y")
        terminal.wait_for("preempted", "Saved emergency_step_", "; ended in")  # the dialog is gone
        assert events(run)[-1]["event"] == "run_end"
        assert len(list(run.glob("emergency_step_*.pt"))) == 1

        # Roll back to an earlier checkpoint of the list, which says so before the key is pressed, and take it back.
        terminal.press("End", "Up")
        terminal.wait_for("roll back to")
        files = contents(run)
        terminal.press("b")
        screen = terminal.wait_for("Roll back to step", "Given up:", "Cancel")
        found = re.search(r"Roll back to step ([\d,]+)", screen)
        assert found is not None, screen
        step = int(found[1].replace(",", ""))
        # What the key said before, on the last line, which no dialog covers.
        assert re.search(rf"b (roll )?back to {step:,} ", screen.rstrip().rpartition("\n")[2]), screen
        terminal.press("y")
        terminal.wait_for("Rolled back. u takes it back.")
        assert step_of(run / "latest.pt") == step
        assert not [name for name in contents(run) if name.startswith("emergency")]
        told = [event for event in events(run) if event["event"] == "checkpoint_restored"]
        assert (told[-1]["path"], told[-1]["why"], told[-1]["step"]) == ("latest.pt", "rolled back", step)
        terminal.press("u")
        terminal.wait_for("Takes back the rollback", "Cancel")
        terminal.press("y")
        terminal.wait_for("Undone. R does it again.")
        assert contents(run) == files

        # And on once more.
        terminal.press("Home")
        terminal.wait_for("r resume")
        terminal.press("r")
        terminal.wait_for("Resume from", "Enter start")
        start_calmly(terminal)
        wait_until(lambda: any(event["session"] == 3 for event in events(run)), what="a third session")
        terminal.wait_for("running")

        # Help is there, and it quits cleanly while the training goes on.
        terminal.press("?")
        terminal.wait_for("Esc back", "zoom out")
        terminal.press("Escape")
        terminal.wait_gone("Esc back")
        terminal.press("q")
        terminal.wait_gone("sessions")
        terminal.type("echo back in the shell: $?")
        terminal.press("Enter")
        terminal.wait_for("back in the shell: 0")
        assert "Traceback" not in terminal.screen()

        # From the shell: it is fine, and it can be asked to stop.
        status = subprocess.run([CKPT_TUI, "status", "--json", run], capture_output=True, text=True, check=False)
        assert status.returncode == 0, status.stdout
        data = json.loads(status.stdout)["data"]
        assert data["state"] == "running"
        assert data["lost"]["steps"] > 0
        stopped = subprocess.run(
            [CKPT_TUI, "stop", run, "--yes"], capture_output=True, text=True, check=False, timeout=300
        )
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert events(run)[-1]["event"] == "run_end"
    finally:
        terminal.close()
