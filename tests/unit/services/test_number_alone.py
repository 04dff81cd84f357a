"""A number alone is nobody: pids come again, and in containers the same few are everybody's. Real processes."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.run.state import Phase
from ckpt_tui.services.monitor import read_run
from ckpt_tui.services.owner import owners_of
from ckpt_tui.services.stop_plan import plan_stop
from ckpt_tui.services.supervisor_record import recorded_child
from tests.builders.stand_ins import wait_for

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not tell who writes")


@pytest.fixture
def stranger() -> Iterator[psutil.Process]:
    """A person's own process, in another directory."""
    process = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
    try:
        it = psutil.Process(process.pid)
        wait_for(lambda: "600" in it.cmdline(), "it did not come to be a sleep")
        yield it
    finally:
        process.kill()
        process.wait()


def log_of(directory: Path, pid: int, pid_started: str) -> Path:
    """A log that goes on, as an older writer or another program's began it."""
    directory.mkdir(exist_ok=True)
    now = time.time()
    start = (
        f'{{"v": 1, "event": "run_start", "seq": 1, "ts": {now - 9}, "session": 1, "step": 0, "total_steps": 100,'
        f' "pid": {pid}, "pid_started": {pid_started}, "host": "{socket.gethostname()}"}}\n'
    )
    steps = (
        {"v": 1, "event": "step", "seq": 1 + step, "ts": now - 9 + step, "session": 1, "step": step, "loss": 1.0}
        for step in range(1, 9)
    )
    path = directory / "events.jsonl"
    path.write_text(start + "".join(f"{json.dumps(line)}\n" for line in steps))
    return path


@pytest.mark.parametrize("pid_started", ["0", "null", "NaN", "Infinity", "-5", '"x"'])
def test_it_is_asked_to_end_only_where_it_is_seen_to_write(
    tmp_path: Path, stranger: psutil.Process, pid_started: str
) -> None:
    log = log_of(tmp_path / "run", stranger.pid, pid_started)
    assert read_run(str(log.parent)).phase is Phase.RUNNING, "it may be the training: it is not called dead"
    with pytest.raises(CkptError, match="Not known which process it is") as told:
        plan_stop(str(log.parent))
    assert "sleep 600" in told.value.message
    assert main(["stop", str(log.parent), "--yes"]) == 2
    assert stranger.status() != psutil.STATUS_ZOMBIE


def test_one_that_writes_there_is_it(tmp_path: Path) -> None:
    log = log_of(tmp_path / "run", 1, "0")
    with log.open("a") as file:
        writer = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=file)
        try:
            log_of(tmp_path / "run", writer.pid, "0")
            assert [target.pid for target in plan_stop(str(log.parent)).targets] == [writer.pid]
        finally:
            writer.kill()
            writer.wait()


def test_a_supervisor_neither_looks_after_it_nor_starts_another_beside_it(
    tmp_path: Path, stranger: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, ran = tmp_path / "run", tmp_path / "ran"
    log_of(directory, stranger.pid, "0")
    assert main(["supervise", str(directory), "--as-is", "--dry-run", "--", "touch", str(ran)]) == 1
    assert "has no file open for writing there" in " ".join(capsys.readouterr().out.split())
    assert main(["supervise", str(directory), "--as-is", "--quiet", "--", "touch", str(ran)]) == 2
    assert f"names process {stranger.pid} and not when that started" in " ".join(capsys.readouterr().err.split())
    assert not ran.exists()
    assert stranger.is_running()


def test_no_child_is_recorded_by_its_number_alone(stranger: psutil.Process) -> None:
    by_number = {"child_pid": stranger.pid}
    for fields in (by_number, {**by_number, "child_pid_started": 0.0}, {**by_number, "child_pid_birth": "x"}):
        assert recorded_child(fields) is NOBODY
    known = ProcessIdentity.of(stranger.pid)
    assert recorded_child(known.fields("child_")) == known


def test_two_processes_of_one_number_on_two_hosts_are_two(
    tmp_path: Path, stranger: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in two containers: what --force rules out is the one there, and never the one that trains here."""
    elsewhere = {"pid": stranger.pid, "pid_started": 1.0, "host": "node3", "state": "waiting",
                 "next_try_at": time.time() + 3600.0}  # fmt: skip
    here = {**ProcessIdentity.of(stranger.pid).fields(), "command": ["sleep"], "log": "", "ts": time.time()}
    (tmp_path / "supervisor.json").write_text(json.dumps(elsewhere))
    (tmp_path / "launch.json").write_text(json.dumps(here))
    assert [owner.told_by for owner in owners_of(str(tmp_path))] == ["supervisor.json", "launch.json"]
    ran = tmp_path / "ran"
    words = ["supervise", str(tmp_path), "--force", "--dry-run", "--json", "--as-is", "--", "touch", str(ran)]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["data"]["takes_over"] == stranger.pid
