"""A run directory with real supervisors of a small trainer, for tests; the fixture `kept` ends what they started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event, Supervised
from ckpt_tui.services.supervisor_record import live_supervisor, read_supervisor
from tests.builders.marked import end_marked

ROOT = Path(__file__).parents[2]
TRAINER = (sys.executable, "-m", "tests.builders.small_trainer")
SUPERVISE = (sys.executable, "-m", "ckpt_tui", "supervise")
QUICK = ("--pause", "0.05s", "--max-pause", "0.2s")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def wait_for(condition: Callable[[], object], what: str, patience_s: float = 120.0) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


class Kept:
    """A run directory with supervisors."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[subprocess.Popen[str]] = []

    def supervise(
        self, *options: str, training: tuple[str, ...] = (), ends: str = "ok", **more: str
    ) -> subprocess.Popen[str]:
        flags = [word for name, value in more.items() for word in (f"--{name.replace('_', '-')}", value)]
        command = training or (*TRAINER, str(self.directory), "--ends", ends, *flags)
        process = subprocess.Popen(
            [*SUPERVISE, str(self.directory), *QUICK, *options, "--", *command], cwd=self.directory.parent,
            env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, *options: str, **more: object) -> tuple[int, str, str]:
        process = self.supervise(*options, **more)  # type: ignore[arg-type]
        shown, said = process.communicate(timeout=300)
        return process.returncode, shown, said

    @property
    def events(self) -> list[Event]:
        lines = (self.directory / "events.jsonl").read_bytes().splitlines()
        return [event for line in lines if isinstance(event := decode(line), Event)]

    @property
    def actions(self) -> list[str]:
        return [event.action for event in self.events if isinstance(event, Supervised)]

    def is_at(self, step: int) -> bool:
        log = self.directory / "events.jsonl"
        return log.exists() and any(event.step >= step for event in self.events)

    def wait_until_running(self) -> int:
        def is_up() -> bool:
            supervisor = live_supervisor(str(self.directory))
            return supervisor is not None and supervisor.state == "running" and supervisor.child_pid > 0

        wait_for(is_up, "no training came up")
        supervisor = read_supervisor(str(self.directory))
        assert supervisor is not None
        return supervisor.child_pid

    def assert_sound(self) -> None:
        assert not (self.directory / "twice.txt").exists()
        seqs = [event.seq for event in self.events]
        assert seqs == list(range(1, len(seqs) + 1))

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        record = self.directory / "supervisor.json"
        if record.exists():
            end_marked(json.loads(record.read_text())["mark"])


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    directory = tmp_path / "run"
    directory.mkdir()
    kept = Kept(directory)
    yield kept
    kept.end()
