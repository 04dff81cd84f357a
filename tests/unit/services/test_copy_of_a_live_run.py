"""A copy of a directory in which somebody trains is no live run, wherever its state is told; a moved one stays one."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.process_identity import process_started
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.services import deed_lock, processes
from ckpt_tui.services import glance as glance_module
from ckpt_tui.services import monitor as monitor_module
from ckpt_tui.services.glance import glance
from ckpt_tui.services.monitor import RunMonitor, read_run
from ckpt_tui.services.owner import owner_of
from ckpt_tui.services.runs import read_runs

TRAINS = """
import sys
from ckpt_tui.events.writer import EventWriter
writer = EventWriter(sys.argv[1])
writer.start(run_name="gpt", total_steps=9000, config={"lr": 0.1})
for step in range(int(sys.argv[2])):
    writer.step(step + 1, loss=1.0)
print("writes", flush=True)
sys.stdin.read()
"""
LIVE = (Phase.RUNNING, Phase.STALLED)  # a slow machine may need more time to look than is usual for a step
Begin = Callable[[Path, int], "subprocess.Popen[str]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts a training that has written its steps, keeps its log open, and waits."""
    started: list[subprocess.Popen[str]] = []

    def start(directory: Path, num_steps: int = 5) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TRAINS, str(directory), str(num_steps)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "writes\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()


def watched(path: str) -> RunState:
    """As the watch tells it at its first look."""
    return RunMonitor(path, newest_first=True).poll()


def test_a_copy_says_where_its_training_goes_on(
    tmp_path: Path, begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    run, copy, link = tmp_path / "run", tmp_path / "copy", tmp_path / "link"
    child = begin(run, 5)
    shutil.copytree(run, copy)
    link.symlink_to(run)
    for path in (run, link, run / "events.jsonl"):
        assert read_run(str(path)).phase in LIVE
    for state in (read_run(str(copy)), glance(str(copy), read_run(str(copy)).now), watched(str(copy))):
        assert (state.phase, state.trains_in) == (Phase.SILENT, str(run))
        assert state.eta is None
    phases = {one.name: one.phase for one in read_runs(str(tmp_path)).runs}
    assert phases["copy"] is Phase.SILENT
    assert phases["run"] in LIVE
    capsys.readouterr()
    assert main(["status", str(copy)]) == 2
    told = capsys.readouterr().out
    assert f"is a copy of {run}, which" in told.replace("\n  ", " ").replace("\n", " ")
    assert "running" not in told
    assert "at risk" not in told
    assert main(["stop", str(copy), "--yes"]) == 2
    assert child.poll() is None

    end(child)
    assert {read_run(str(path)).phase for path in (run, copy)} == {Phase.CRASHED}


def test_a_long_log_of_a_copy_is_told_so_from_its_end(
    tmp_path: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (glance_module, monitor_module):
        monkeypatch.setattr(module, "LONG_LOG_BYTES", 20_000)
    run, copy = tmp_path / "run", tmp_path / "copy"
    begin(run, 400)
    shutil.copytree(run, copy)
    for state in (glance(str(copy), read_run(str(copy)).now), watched(str(copy))):
        assert not state.is_whole
        assert (state.phase, state.trains_in) == (Phase.SILENT, str(run))
    assert watched(str(run)).phase in LIVE


def test_a_run_that_was_moved_while_it_trains_is_running(tmp_path: Path, begin: Begin) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    begin(run, 5)
    run.rename(moved)
    assert read_run(str(moved)).phase in LIVE
    run.mkdir()  # another one begins under the old name
    assert read_run(str(moved)).phase in LIVE


def test_a_run_that_its_process_knows_by_another_path_is_running(tmp_path: Path, begin: Begin) -> None:
    """As that of a container is seen from its host, where the container's path is another directory."""
    run, here = tmp_path / "run", tmp_path / "here"
    begin(run, 5)
    here.mkdir()
    os.link(run / LOG_NAME, here / LOG_NAME)
    (run / LOG_NAME).unlink()
    assert read_run(str(here)).phase in LIVE
    assert owner_of(str(here), read_run(str(here))) is not None


def test_a_copy_by_hard_links_is_a_copy(tmp_path: Path, begin: Begin) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    begin(run, 5)
    shutil.copytree(run, copy, copy_function=os.link)
    assert read_run(str(run)).phase in LIVE
    assert read_run(str(copy)).phase is Phase.SILENT


def test_where_a_process_cannot_be_looked_into_the_log_of_its_directory_tells_a_copy(
    tmp_path: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of another user."""
    monkeypatch.setattr(processes, "_descriptors", lambda entry: [])
    run, moved, copy = tmp_path / "run", tmp_path / "moved", tmp_path / "copy"
    begin(run, 5)
    shutil.copytree(run, copy)
    assert read_run(str(copy)).phase is Phase.SILENT
    run.rename(moved)
    end(begin(run, 1))  # another one under the old name
    assert read_run(str(moved)).phase in LIVE


def test_acts_on_a_copy_are_not_refused_for_what_was_started_in_the_original(tmp_path: Path, begin: Begin) -> None:
    run, copy = tmp_path / "run", tmp_path / "copy"
    begin(run, 5)
    pid = read_run(str(run)).pid
    started = {"pid": pid, "pid_started": process_started(pid), "host": socket.gethostname(), "directory": str(run)}
    (run / "launch.json").write_text(json.dumps(started))
    shutil.copytree(run, copy)
    with pytest.raises(CkptError, match=f"process {pid} was started"), deed_lock.locked(str(run)):
        pass
    with deed_lock.locked(str(copy)):
        pass


def test_a_directory_whose_lock_is_held_is_no_copy(tmp_path: Path, begin: Begin) -> None:
    """A container has a name and paths of its own; its lock is seen from the host."""
    run, here = tmp_path / "run", tmp_path / "here"
    end(begin(run, 5))
    shutil.copytree(run, here)
    log = here / LOG_NAME
    log.write_text(log.read_text().replace(f'"host":"{socket.gethostname()}"', '"host":"box7"'))
    pid = read_run(str(here)).pid
    with open(here / "trainer.lock", "w") as lock:
        json.dump({"pid": pid, "pid_started": time.time(), "host": "box7"}, lock)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(str(here)).phase in LIVE
    assert read_run(str(here)).trains_in == ""
