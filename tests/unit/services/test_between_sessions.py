"""Between the end of a session and the first line of the next one a supervised run has not crashed: it is mended."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ckpt_tui.cli import main
from ckpt_tui.run.state import Phase
from ckpt_tui.services.glance import glance
from ckpt_tui.services.monitor import read_run
from ckpt_tui.services.runs import newly_broken, read_runs
from ckpt_tui.services.supervisor_record import read_supervisor
from tests.builders.supervised_runs import Kept, kept, wait_for

__all__ = ["kept"]
ENDED_S = 30.0  # ago


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose process is gone without a word, half a minute ago."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    then = time.time() - ENDED_S
    directory = tmp_path / "runs" / "gpt"
    directory.mkdir(parents=True)
    lines = [
        {"event": "run_start", "seq": 1, "pid": gone.pid, "pid_started": then - 9.0, "host": socket.gethostname(),
         "total_steps": 100, "run_name": "gpt"},
        *({"event": "step", "seq": 1 + step, "step": step, "loss": 1.0} for step in range(1, 9)),
    ]  # fmt: skip
    whole = [{"v": 1, "ts": then - 9.0 + line["seq"], "session": 1, "step": 0, **line} for line in lines]
    (directory / "events.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in whole))
    return directory


@pytest.fixture
def trainer() -> Iterator[psutil.Process]:
    """A process that was started and has not said a word yet."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield psutil.Process(process.pid)
    process.kill()
    process.communicate()


def supervisor(directory: Path, **fields: object) -> None:
    own = psutil.Process()
    said = {
        "pid": own.pid, "pid_started": own.create_time(), "host": socket.gethostname(), "state": "waiting",
        "restarts": 2, "next_try_at": time.time() + 3600.0, "child_pid_started": 1.0, **fields,
    }  # fmt: skip
    write(directory / "supervisor.json", said)


def launched(directory: Path, process: psutil.Process, ts: float, **fields: object) -> None:
    write(directory / "launch.json", {
        "pid": process.pid, "pid_started": process.create_time(), "host": socket.gethostname(), "ts": ts,
        "directory": str(directory), **fields,
    })  # fmt: skip


def write(path: Path, fields: object) -> None:
    """As the records are written: replaced as a whole."""
    path.with_suffix(".new").write_text(json.dumps(fields))
    path.with_suffix(".new").replace(path)


def phases(directory: Path) -> set[Phase | None]:
    """As `status`, a look at its end, and the list of runs have it."""
    found = {one.phase for one in read_runs(str(directory.parent)).runs}
    return {read_run(str(directory)).phase, glance(str(directory), time.time()).phase, *found}


def test_in_the_pause_it_is_restarting_everywhere(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert phases(run) == {Phase.CRASHED}
    assert main(["status", str(run)]) == 1
    supervisor(run)
    assert phases(run) == {Phase.RESTARTING}
    assert main(["status", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["data"]
    assert (told["state"], told["reason"]) == ("restarting", "the process is gone without a word")
    assert (told["next_start"]["attempt"], told["next_start"]["by"]) == (3, "supervise")
    assert 3000 < told["next_start"]["in_s"] <= 3600
    assert told["next_start"]["words"].startswith("attempt 3, in ")
    assert told["sessions"][-1]["phase"] == "crashed", "the session did end so"
    assert told["lost"]["steps"] == 8
    assert main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert "Restarting: attempt 3, in " in said
    assert "; the process is gone without a word (last line: step 8" in said
    assert "Lost 8 steps" in said
    assert "at risk" not in said


def test_the_list_of_runs_has_the_same_object(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor(run)
    assert main(["status", str(run.parent), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["states"] == {"restarting": 1}
    assert data["runs"][0]["next_start"]["words"].startswith("attempt 3, in ")
    assert main(["status", str(run.parent)]) == 0
    assert "restarting, attempt 3, in " in capsys.readouterr().out
    (one,) = read_runs(str(run.parent)).runs
    assert one.is_live
    assert one.next_start == read_run(str(run)).next_start
    supervisor(run, state="gave up")
    (after,) = read_runs(str(run.parent)).runs
    assert newly_broken({one.path: one}, [after]) == [after], "what it could not mend is news"


@pytest.mark.parametrize(("which", "code"), [("any,error,warning,crash", 0), ("restart", 1)])
def test_a_crash_that_is_mended_alerts_who_asks_for_it_by_name(run: Path, which: str, code: int) -> None:
    supervisor(run)
    assert main(["status", str(run), "--fail-on", which]) == code
    assert main(["status", str(run.parent), "--fail-on", which]) == code
    assert main(["watch", str(run), "--plain", "--once", "--exit-on", which]) == code
    supervisor(run, state="gave up")
    assert main(["status", str(run), "--fail-on", which]) == 1, "nobody mends it any more"


def test_after_its_start_it_is_starting_until_its_first_line(
    run: Path, trainer: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor(run, state="running", child_pid=trainer.pid, restarts=3)
    launched(run, trainer, time.time() - 5.0, by="supervise")
    assert phases(run) == {Phase.STARTING}
    assert main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert f"Starting: attempt 3, process {trainer.pid} was started " in said
    with (run / "events.jsonl").open("a") as log:
        for line in (
            {"event": "run_start", "seq": 10, "pid": trainer.pid, "pid_started": trainer.create_time(),
             "host": socket.gethostname(), "total_steps": 100},
            {"event": "step", "seq": 11, "step": 1, "loss": 1.0},
        ):  # fmt: skip
            log.write(f"{json.dumps({'v': 1, 'ts': time.time(), 'session': 2, 'step': 0, **line})}\n")
    assert phases(run) == {Phase.RUNNING}


def test_one_that_a_person_started_is_starting_too_and_stalled_when_it_never_says_a_word(
    run: Path, trainer: psutil.Process
) -> None:
    launched(run, trainer, time.time() - 5.0, by="resume")
    assert phases(run) == {Phase.STARTING}
    log = run / "events.jsonl"
    told = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(f"{json.dumps({**line, 'ts': line['ts'] - 3600.0})}\n" for line in told))
    launched(run, trainer, time.time() - 1800.0, by="resume")
    state = read_run(str(run))
    assert state.phase is Phase.STALLED
    assert state.reason.startswith(f"process {trainer.pid} was started 3")
    assert state.reason.endswith(" ago and has written nothing")
    launched(run, trainer, time.time() - 2 * 3600.0, by="resume")
    assert phases(run) == {Phase.CRASHED}, "it was that start which crashed: what it left behind trains no more"


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({"state": "running", "child_pid": 1}, Phase.RESTARTING),  # it looks at how the training ended
        ({"state": "running", "child_pid": 1, "restarts_by": "torchrun"}, Phase.CRASHED),
        ({"state": "stopping"}, Phase.CRASHED),
        ({"state": "gave up"}, Phase.CRASHED),
        ({"state": "waiting", "pid_started": 1.0}, Phase.CRASHED),  # it is gone itself
        ({"state": "waiting", "host": "elsewhere", "next_try_at": 0.0}, Phase.CRASHED),
        ({"state": "waiting", "host": "elsewhere"}, Phase.RESTARTING),
        ({"state": "flying"}, Phase.CRASHED),
    ],
)  # fmt: skip
def test_only_a_live_supervisor_that_will_start_it_again_counts(
    run: Path, fields: dict[str, object], phase: Phase
) -> None:
    supervisor(run, **fields)
    assert read_run(str(run)).phase is phase


def test_torchrun_that_lives_under_a_supervisor_starts_its_workers_again(run: Path, trainer: psutil.Process) -> None:
    supervisor(run, state="running", child_pid=trainer.pid, restarts_by="torchrun")
    launched(run, trainer, time.time() - 3600.0, by="supervise")
    assert read_run(str(run)).phase is Phase.RESTARTING


def test_in_the_watch_no_second_of_it_ticks(run: Path) -> None:
    from dataclasses import replace

    from ckpt_tui.tui.widgets.header import header_lines

    supervisor(run)
    state = read_run(str(run))
    told = {
        tuple("".join(text for text, _ in line) for line in header_lines(replace(state, now=state.now + second), 80))
        for second in range(30)
    }
    assert len(told) == 1
    lines = "\n".join(told.pop())
    assert "Restarting: attempt 3, at " in lines
    assert "Lost 8 steps" in lines
    assert "at risk" not in lines


def test_of_a_real_supervisor(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    from ckpt_tui.tui.widgets.header import header_lines

    directory = str(kept.directory)
    kept.supervise("--pause", "1h", "--max-pause", "2h", ends="kill@12")

    def waits() -> bool:
        found = read_supervisor(directory)
        return found is not None and found.state == "waiting"

    wait_for(waits, "it did not come to its pause")
    state = read_run(directory)
    assert (state.phase, state.step) == (Phase.RESTARTING, 12)
    assert isinstance(state.next_start and state.next_start.due_at, float)
    assert main(["watch", directory, "--plain", "--once"]) == 0
    said = capsys.readouterr().out
    assert "Restarting: attempt 1, in " in said
    assert "; killed by SIGKILL (last line: step 12" in said
    # The cause is told before the time of the last line is.
    (_, told, *_) = ["".join(part for part, _ in line) for line in header_lines(state, 72)]
    assert told.startswith(" Restarting: attempt 1, at ")
    assert told.endswith("; killed by SIGKILL.")
    kept.started[0].kill()
    kept.started[0].wait()
    assert read_run(directory).phase is Phase.CRASHED


def test_on_40_cells_the_attempt_and_its_time_are_told(run: Path) -> None:
    from ckpt_tui.tui.widgets.header import header_lines

    supervisor(run)
    lines = ["".join(text for text, _ in line) for line in header_lines(read_run(str(run)), 40, most=7)]
    assert lines[1].startswith(" Restarting: attempt 3, at "), lines
    assert "Lost 8 steps" in lines[2], lines
    assert all(line.strip() for line in lines), lines


def test_a_number_that_comes_again_as_in_a_container_is_another_process(run: Path, trainer: psutil.Process) -> None:
    supervisor(run, state="running", child_pid=trainer.pid, restarts=3)
    launched(run, trainer, time.time() - 5.0, by="supervise")
    log = run / "events.jsonl"
    first, rest = log.read_text().split("\n", 1)
    log.write_text(f"{json.dumps({**json.loads(first), 'pid': trainer.pid})}\n{rest}")
    assert phases(run) == {Phase.STARTING}


def test_one_that_was_started_after_the_clock_was_set_back_is_starting(run: Path, trainer: psutil.Process) -> None:
    launched(run, trainer, time.time() - 240.0, by="resume", session=1)
    assert phases(run) == {Phase.CRASHED}, "that was the session which crashed: what it left behind trains no more"
    launched(run, trainer, time.time() - 240.0, by="resume", session=2)
    assert phases(run) == {Phase.STARTING}


def test_before_the_first_event_it_waits_for_what_is_told(
    run: Path, trainer: psutil.Process, capsys: pytest.CaptureFixture[str]
) -> None:
    from ckpt_tui.tui.run_rows import coming_parts
    from ckpt_tui.tui.widgets.header import header_lines

    (run / "events.jsonl").write_text("")
    supervisor(run)
    state = read_run(str(run))
    assert (state.phase, state.next_start and state.next_start.attempt) == (Phase.WAITING, 3)
    assert main(["status", str(run)]) == 0
    assert "no event yet; attempt 3, in " in " ".join(capsys.readouterr().out.split())
    assert main(["status", str(run.parent)]) == 0
    assert "waiting, attempt 3, in " in capsys.readouterr().out
    assert "No events yet: attempt 3, at " in header_lines(state, 80)[1][1][0]
    (one,) = read_runs(str(run.parent)).runs
    assert "gpt: waiting, attempt 3, at " in coming_parts(one, time.time(), unicode=True)[0][0]
    supervisor(run, state="running", child_pid=trainer.pid, restarts=3)
    launched(run, trainer, time.time() - 5.0, by="supervise")
    assert main(["status", str(run)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"no event yet; attempt 3, process {trainer.pid} was started " in said


@pytest.mark.parametrize(("late_s", "words"), [(-20.0, "in 20 s"), (5.0, "now"), (3600.0, "due 1h 00m ago")])
def test_a_start_that_is_late_is_told_as_late(late_s: float, words: str) -> None:
    from ckpt_tui.run.next_start import next_start_words
    from ckpt_tui.run.state import NextStart

    assert next_start_words(NextStart(due_at=9000.0 - late_s, attempt=2), 9000.0) == f"attempt 2, {words}"
