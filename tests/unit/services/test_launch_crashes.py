"""Exactly one training, and one that is known: starts at once, and a viewer killed at every point of a start."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.services import journal
from ckpt_tui.services.launch import running, start
from tests.builders.crashing import CHANGING, file_operations, killed_at
from tests.builders.run_directories import run_directory

REPO = Path(__file__).parents[3]
SLEEPS = "import time\nprint('up', flush=True)\ntime.sleep(1_000)\n"


class Marked:
    """Processes of one test, found by a word in their command lines whatever became of who started them."""

    def __init__(self) -> None:
        self.word = f"marked-{uuid.uuid4().hex}"

    def command(self) -> list[str]:
        return [sys.executable, "-c", SLEEPS, self.word]

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if self.is_one(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def is_one(self, words: list[str]) -> bool:
        return self.word in words and "time.sleep" in " ".join(words)

    def is_settled(self, directory: Path) -> bool:
        """No process that has yet to become a training, or to end, is left over from a start in `directory`: none that
        writes to its log, while it becomes another program also without a command line."""
        for process in psutil.process_iter():
            try:
                output = Path(f"/proc/{process.pid}/fd/1").readlink()
                if output.is_relative_to(directory) and not self.is_one(process.cmdline()):
                    return False
            except (psutil.Error, OSError):
                continue
        return True

    def end(self) -> None:
        """Kill them all and wait until each is gone: one that is dying has no command line left and still counts."""
        ended = self.alive()
        for process in ended:
            with contextlib.suppress(psutil.NoSuchProcess):  # a signal was on its way to it
                process.kill()
        wait_for(lambda: all(map(is_gone, ended)), "it did not end")


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def marked() -> Iterator[Marked]:
    one = Marked()
    yield one
    one.end()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.mark.parametrize("when", ["before", "after"])
def test_viewer_killed_at_every_file_operation_leaves_no_training_that_nobody_knows_of(
    tmp_path: Path, marked: Marked, when: str
) -> None:
    calls_of = (*CHANGING, "pipe2", "close", "set_blocking")

    def begin(directory: Path) -> None:
        start(str(directory), marked.command(), cwd=str(tmp_path), wait_s=0.0)

    counted = tmp_path / "counted"
    counted.mkdir()
    operations = file_operations(lambda: begin(counted), calls_of=calls_of)
    wait_for(lambda: marked.is_settled(counted), "it did not become the training")
    marked.end()
    assert {"open", "write", "pipe2", "close"} <= set(operations), operations
    num_running = 0
    for number in range(1, len(operations) + 1):
        directory = tmp_path / f"killed-{number}"
        directory.mkdir()
        killed_at(number, lambda directory=directory: begin(directory), when=when, calls_of=calls_of)  # type: ignore[misc]
        wait_for(lambda directory=directory: marked.is_settled(directory), "the child neither began nor ended")  # type: ignore[misc]
        alive = marked.alive()
        owner = running(str(directory))
        assert [process.pid for process in alive] == ([owner.pid] if owner is not None else []), operations[number - 1]
        if owner is not None:
            num_running += 1
            with pytest.raises(CkptError, match="running here already"):
                begin(directory)
            marked.end()
        begin(directory)  # nothing that is left behind keeps the next one away
        wait_for(lambda directory=directory: marked.is_settled(directory), "it did not become the training")  # type: ignore[misc]
        assert len(marked.alive()) == 1
        marked.end()
    assert 0 < num_running < len(operations), "of both: starts that went through and starts that never were"


RACE = """
import os, sys, time
from ckpt_tui.errors import CkptError
from ckpt_tui.services import launch, start_lock
start_lock.PATIENCE_S = 300.0  # a start takes long on a busy machine
import psutil  # loaded before the gate opens
directory, gate, *command = sys.argv[1:]
print("ready", flush=True)
while not os.path.exists(gate):
    time.sleep(0.0005)
try:
    print("started", launch.start(directory, command, cwd=directory, wait_s=0.0).pid, flush=True)
except CkptError as error:
    print("refused", error.title, flush=True)
"""


def test_of_starts_at_the_same_moment_one_goes_through(tmp_path: Path, marked: Marked) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    gate = tmp_path / "gate"
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(directory), str(gate), *marked.command()], cwd=REPO, text=True,
            stdout=subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
    gate.touch()
    said = [starter.communicate(timeout=300)[0].split(maxsplit=1) for starter in starters]
    assert sorted(words[0] for words in said) == ["refused"] * 3 + ["started"], said
    assert {words[1] for words in said if words[0] == "refused"} == {"A training is running here already\n"}
    [pid] = [int(words[1]) for words in said if words[0] == "started"]
    wait_for(lambda: marked.is_settled(directory), "it did not become the training")
    assert [process.pid for process in marked.alive()] == [pid]
    assert json.loads((directory / "launch.json").read_text())["pid"] == pid


def test_nothing_is_started_while_files_change_hands(tmp_path: Path, marked: Marked) -> None:
    directory = run_directory(tmp_path / "run")
    with journal.locked(str(directory)), pytest.raises(CkptError, match="Another viewer is at work"):
        start(str(directory), marked.command(), cwd=str(tmp_path))
    assert marked.alive() == []


def test_files_do_not_change_hands_once_a_training_was_started(tmp_path: Path, marked: Marked) -> None:
    directory = run_directory(tmp_path / "run")
    start(str(directory), marked.command(), cwd=str(tmp_path), wait_s=0.0)
    with pytest.raises(CkptError, match="A training is running here"), journal.locked(str(directory)):
        pass
    with journal.locked(str(directory), force=True):
        pass
    assert not (directory / "set_aside").exists()


def test_start_over_an_unfinished_deed_is_refused(tmp_path: Path, marked: Marked) -> None:
    directory = run_directory(tmp_path / "run")
    (directory / "set_aside" / "1").mkdir(parents=True)
    assert len(journal.unfinished(str(directory))) == 1
    with pytest.raises(CkptError, match="not finished"):
        start(str(directory), marked.command(), cwd=str(tmp_path))
    assert marked.alive() == []
    assert not (directory / "launch.json").exists()


def test_record_that_cannot_be_written_starts_nothing(tmp_path: Path, marked: Marked) -> None:
    (tmp_path / "launch.json").mkdir()
    with pytest.raises(CkptError) as caught:
        start(str(tmp_path), marked.command(), cwd=str(tmp_path))
    assert "launch.json" in caught.value.message
    assert marked.alive() == []
    assert not [name for name in os.listdir(tmp_path) if "tmp-" in name]


@pytest.mark.parametrize("what", ["directory", "fifo"])
def test_output_that_is_no_file_is_refused(tmp_path: Path, marked: Marked, what: str) -> None:
    path = tmp_path / "session_1.log"
    path.mkdir() if what == "directory" else os.mkfifo(path)
    with pytest.raises(CkptError):
        start(str(tmp_path), marked.command(), cwd=str(tmp_path))
    assert marked.alive() == []


def test_directory_to_run_in_that_is_gone_is_told(tmp_path: Path, marked: Marked) -> None:
    with pytest.raises(CkptError, match="cannot be entered"):
        start(str(tmp_path), marked.command(), cwd=str(tmp_path / "gone"))
    assert marked.alive() == []
    assert "cannot be entered" in (tmp_path / "session_1.log").read_text()


def test_record_of_a_dead_one_with_a_number_that_came_again_keeps_nobody_away(tmp_path: Path, marked: Marked) -> None:
    dead = {"pid": os.getpid(), "pid_started": 12345.0, "host": os.uname().nodename, "log": "x", "command": []}
    (tmp_path / "launch.json").write_text(json.dumps(dead))
    launched = start(str(tmp_path), marked.command(), cwd=str(tmp_path), wait_s=0.0)
    os.kill(launched.pid, signal.SIGKILL)
