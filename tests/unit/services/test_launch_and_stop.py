"""A training that is started outlives who started it, is never started twice, and is stopped by pid and start time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ckpt_tui.checkpoints.validate import Validation
from ckpt_tui.errors import CkptError
from ckpt_tui.services.launch import Launched, launch, launched_log, restarter_of, running, start, stop
from ckpt_tui.services.resume import ResumePlan
from ckpt_tui.services.system import process_is_alive

# Stands in for a trainer: says that it is up, saves for a moment when asked to stop.
LIVES = """
import signal, sys, time
def stop(number, frame):
    print("saving", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print("up", sys.stdin.read() == "", flush=True)
while True:
    time.sleep(0.01)
"""
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n"

# Stands in for torchrun: what ended is started anew, but for a signal of its own, which is passed on.
RESTARTS = """
import os, signal, subprocess, sys
asked = []
def stop(number, frame):
    asked.append(number)
    os.kill(child.pid, number)
signal.signal(signal.SIGTERM, stop)
for number in range(3):
    given = {"TORCHELASTIC_MAX_RESTARTS": "2", "TORCHELASTIC_RESTART_COUNT": str(number)}
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], "trainer"], env={**os.environ, **given})
    open("child.pid", "w").write(str(child.pid))
    child.wait()
    if asked:
        break
"""


def printed(log_path: str | Path) -> str:
    """What the training wrote, without the lines that say when what was started."""
    lines = Path(log_path).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("--- "))


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[str], Launched]]:
    started: list[Launched] = []

    def begin(code: str) -> Launched:
        launched = start(str(tmp_path), [sys.executable, "-c", code], cwd=str(tmp_path), session=2, wait_s=0.05)
        started.append(launched)
        wait_for(lambda: "up" in printed(launched.log_path), "the process did not come up")
        return launched

    yield begin
    for launched in started:
        try:
            if process_is_alive(launched.process):
                os.kill(launched.pid, signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue


def test_started_detached_with_its_output_in_a_file(tmp_path: Path, begin: Callable[[str], Launched]) -> None:
    launched = begin(LIVES)
    assert launched.log_path == str(tmp_path / "session_2.log")
    assert printed(launched.log_path) == "up True\n", "stdin is empty"
    assert os.getsid(launched.pid) == launched.pid, "its own session: a hang-up does not reach it"
    assert os.getsid(launched.pid) != os.getsid(0)
    record = json.loads((tmp_path / "launch.json").read_text())
    assert record["pid"] == launched.pid
    assert record["pid_started"] == pytest.approx(psutil.Process(launched.pid).create_time())
    assert (record["command"][1:2], record["log"]) == (["-c"], "session_2.log")
    assert launched_log(str(tmp_path)) == launched.log_path


def test_second_one_is_refused_while_the_first_lives(tmp_path: Path, begin: Callable[[str], Launched]) -> None:
    launched = begin(LIVES)
    with pytest.raises(CkptError, match="running here already") as caught:
        begin(LIVES)
    assert str(launched.pid) in caught.value.message
    assert stop(str(tmp_path), timeout_s=300).has_ended
    begin(LIVES)
    both = "up True\nsaving\nup True\n"
    wait_for(lambda: printed(launched.log_path) == both, "output is appended")
    headers = [line for line in Path(launched.log_path).read_text().splitlines() if line.startswith("--- ")]
    assert [f"ckpt-tui starts, in {tmp_path}: {sys.executable} -c" in line for line in headers] == [True, True]


def test_stop_waits_for_a_clean_end(tmp_path: Path, begin: Callable[[str], Launched]) -> None:
    launched = begin(LIVES)
    stopped = stop(str(tmp_path), timeout_s=300)
    assert (stopped.pid, stopped.has_ended) == (launched.pid, True)
    assert Path(launched.log_path).read_text().endswith("saving\n")
    assert running(str(tmp_path)) is None
    with pytest.raises(CkptError, match="Not running"):
        stop(str(tmp_path))


def test_stop_ends_what_torchrun_would_start_again(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("w") as file:
        torchrun = subprocess.Popen(
            [sys.executable, "-c", RESTARTS, "torch.distributed.run", LIVES], cwd=tmp_path, stdout=file,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        wait_for(lambda: "up" in output.read_text(), "the training did not come up")
        told = tmp_path / "child.pid"
        wait_for(lambda: told.exists() and told.read_text() != "", "its pid was not told")
        pid = int(told.read_text())
        rank = {"pid": pid, "pid_started": psutil.Process(pid).create_time(), "host": os.uname().nodename}
        (tmp_path / "launch.json").write_text(json.dumps({**rank, "log": "x", "command": []}))
        assert restarter_of(pid) == torchrun.pid
        assert restarter_of(torchrun.pid) is None
        waiter = threading.Thread(target=torchrun.wait)  # as the shell that started it: no zombie is left
        waiter.start()
        assert stop(str(tmp_path), timeout_s=300).has_ended
        waiter.join()
    finally:
        torchrun.kill()
    assert output.read_text() == "up True\nsaving\n", "started once"


def test_stop_gives_up_waiting_and_says_so(tmp_path: Path, begin: Callable[[str], Launched]) -> None:
    begin(DEAF)
    stopped = stop(str(tmp_path), timeout_s=0.1)
    assert not stopped.has_ended


def test_pid_that_came_again_is_never_signalled(tmp_path: Path) -> None:
    me = {"pid": os.getpid(), "pid_started": 12345.0, "host": os.uname().nodename, "log": "x", "command": []}
    (tmp_path / "launch.json").write_text(json.dumps(me))
    assert running(str(tmp_path)) is None
    with pytest.raises(CkptError, match="Not running"):
        stop(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "x"}', '{"pid": 1}', "[" * 100_000])
def test_launch_record_of_nonsense_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "launch.json").write_text(content)
    assert running(str(tmp_path)) is None


def test_death_at_once_is_told_with_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "session_1.log").write_text("an older line\n")
    code = "import sys; print('torch is\\x1b[31m missing'); sys.exit(3)"
    with pytest.raises(CkptError, match="ended at once") as caught:
        start(str(tmp_path), [sys.executable, "-c", code], cwd=str(tmp_path), wait_s=300)
    assert "exit code 3" in caught.value.message
    assert "torch is\\x1b[31m missing" in caught.value.message
    assert "an older line" not in caught.value.message
    assert running(str(tmp_path)) is None


def test_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="Cannot start"):
        start(str(tmp_path), ["/nowhere/python"], cwd=str(tmp_path))


def test_plan_with_a_refusal_is_not_started(tmp_path: Path) -> None:
    validation = Validation("x", "valid", {}, (), 0, 0.0, "torch-zip", 1, 0)
    plan = ResumePlan(
        directory=str(tmp_path), checkpoint_name="x", checkpoint_path="x", step=1, validation=validation,
        command=(sys.executable, "-c", "pass"), command_line="", cwd=str(tmp_path),
        refusals=("n_layer is impossible.",),
    )  # fmt: skip
    with pytest.raises(CkptError, match="n_layer is impossible"):
        launch(plan)
    assert list(tmp_path.iterdir()) == []
