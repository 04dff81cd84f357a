"""What a person does in a shell, for tests: commands with `--json`, and looks at a run that is being written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cli(*arguments: str, expect: int = 0) -> Any:
    """Run a command with --json; its `data`, or its first error when it is expected to fail."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_tui", *arguments[:at], "--json", *arguments[at:]],
        cwd="/", capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    envelope = json.loads(done.stdout)
    return envelope["data"] if not envelope["errors"] else envelope["errors"][0]


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(0.005)


def events(directory: Path) -> list[dict[str, Any]]:
    """The whole lines of the log."""
    path = directory / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def last_step(directory: Path, session: int) -> int:
    return max((e["step"] for e in events(directory) if e["event"] == "step" and e["session"] == session), default=0)


def hold_between_saves(pid: int, directory: Path) -> None:
    """Stop the training (SIGSTOP) where no save is at work, which a thread does.

    Between a save's rename and its backup a file that is damaged has no copy yet, and nothing is to be restored from.
    """

    def stands_between_saves() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: process_state(pid) == "T", "the training to stand still")
        saved = {str(event["path"]) for event in events(directory) if event["event"] == "checkpoint_saved"}
        rolling = {path.name for path in directory.glob("rolling_step_*")}
        if rolling and rolling <= saved and not list(directory.glob(".tmp-*")):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_for(stands_between_saves, "a moment without a save")


def process_state(pid: int) -> str:
    """In the letters of /proc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def fingerprint(directory: Path) -> str:
    """Of the state that the trainer itself would resume from."""
    command = [sys.executable, "-m", "trainer", "hash", str(directory)]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300, check=True).stdout
