"""Signals as the process gets them: what asks to stop, what does not, and what ends it at once."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.held import Hold
from tests.trainer.conftest import REPO, Trainer
from trainer.signals import REPEAT_SECONDS

# Without torch: what the handlers do is all that is looked at. "leaves" is not printed when a signal ends the process.
SCRIPT = f"""
import os, signal, sys, time
sys.path.insert(0, {str(REPO)!r})
from trainer.signals import Signals
signals = Signals()
for word in sys.argv[1:]:
    if word == "wait":
        time.sleep({REPEAT_SECONDS} + 0.1)
    else:
        os.kill(os.getpid(), getattr(signal, word))
print("leaves", signals.stop.name if signals.stop else None, signals.take_save_request())
"""


def outcome(*words: str, is_nohup: bool = False) -> tuple[int, str]:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, timeout=300, check=False,
        preexec_fn=ignore if is_nohup else None,
    )  # fmt: skip
    assert not done.stderr
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_what_asks_to_stop_does_not_end_the_process(name: str) -> None:
    assert outcome(name) == (0, f"leaves {name} False")


def test_sigusr1_asks_for_a_save_alone() -> None:
    assert outcome("SIGUSR1") == (0, "leaves None True")


def test_the_second_request_ends_it_at_once() -> None:
    assert outcome("SIGINT", "wait", "SIGINT") == (128 + signal.SIGINT, "")
    assert outcome("SIGTERM", "wait", "SIGINT") == (128 + signal.SIGINT, "")
    assert outcome("SIGHUP", "wait", "SIGTERM") == (128 + signal.SIGTERM, "")


def test_a_signal_that_is_passed_on_is_no_second_request() -> None:
    # Ctrl+C under torchrun, and a terminal that closes.
    assert outcome("SIGINT", "SIGTERM") == (0, "leaves SIGINT False")
    assert outcome("SIGHUP", "wait", "SIGHUP") == (0, "leaves SIGHUP False")


def test_with_nohup_a_closed_terminal_asks_for_nothing() -> None:
    assert outcome("SIGHUP", is_nohup=True) == (0, "leaves None False")
    assert outcome("SIGHUP", "SIGTERM", is_nohup=True) == (0, "leaves SIGTERM False")


def test_a_closed_connection_saves_and_stops(trainer: Trainer, straight: tuple[Path, str], tmp_path: Path) -> None:
    # While torch is being loaded: the loop finds it when it begins.
    hold = Hold(tmp_path, "import torch")
    process = subprocess.Popen(
        trainer.command(tmp_path / "run"), cwd=REPO, env=hold.environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        hold.wait()
        process.send_signal(signal.SIGHUP)
        hold.go_on()
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGHUP, output
    assert "SIGHUP: stopped at step 0" in output


def test_a_session_that_ends_before_it_took_a_step_leaves_nothing_new_behind(
    trainer: Trainer, straight: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(straight[0], tmp_path / "copy")
    before = sorted(path.name for path in (tmp_path / "copy").glob("*.pt"))
    options = ("--resume", "auto", "--max_steps", "300")
    stopped = trainer.run_until(Hold(tmp_path, "run_start 0"), signal.SIGTERM, tmp_path / "copy", *options)
    assert stopped.code == 128 + signal.SIGTERM, stopped.output
    assert "SIGTERM: stopped at step 200, which was saved before" in stopped.output
    assert sorted(path.name for path in (tmp_path / "copy").glob("*.pt")) == before
