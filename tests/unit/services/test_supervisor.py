"""Real supervisors of real processes: how each end is judged, told, restarted or left; stops, stalls, output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.events.schema import RunEnd, RunStart
from ckpt_tui.services import supervisor
from ckpt_tui.services.processes import look_at
from ckpt_tui.services.supervised_process import MARK, marked
from ckpt_tui.services.supervision import Policy
from ckpt_tui.services.supervisor_record import read_fields, read_supervisor
from tests.builders.run_directories import damage
from tests.builders.supervised_runs import ENVIRONMENT, QUICK, SUPERVISE, TRAINER, Kept, wait_for
from tests.builders.supervised_runs import kept as kept

# Ends at the second interrupt.
COUNTS = """
import signal, sys, time
n = []
signal.signal(2, lambda *_: (n.append(1), print("heard", len(n), flush=True)))
print("up", flush=True)
while len(n) < 2:
    time.sleep(0.01)
sys.exit(5)
"""


def test_it_is_restarted_after_each_kind_of_crash_until_it_finishes(kept: Kept) -> None:
    code, shown, said = kept.run(ends="kill@12,error@23,ok")
    assert code == 0
    kept.assert_sound()
    assert kept.actions == ["restart", "restart", "finished"]
    assert [event.start_step for event in kept.events if isinstance(event, RunStart)] == [0, 10, 20]
    assert "killed by SIGKILL at step 12; from rolling_step_000010.pt (step 10), 2 steps" in said
    assert "failed (exit code 1) at step 23: ValueError: bad batch; from rolling_step_000020.pt" in said
    assert "session 1 from 0\ngoes wrong at 12\nsession 2 from 10\n" in shown
    assert "✓ finished after 2 restarts" in shown
    assert (kept.directory / "session_2.log").read_text() == "session 2 from 10\ngoes wrong at 23\n"
    supervisor = read_supervisor(str(kept.directory))
    assert supervisor is not None
    assert (supervisor.state, supervisor.restarts, supervisor.is_in_charge) == ("finished", 2, False)


def test_as_json_stdout_has_an_object_for_each_change_and_the_talk_is_beside_it(kept: Kept) -> None:
    code, shown, said = kept.run("--json", ends="error@3")
    *changes, told = (json.loads(line) for line in shown.splitlines())
    assert {(change["schema"], change["data"]["done"]) for change in changes} == {("ckpt-tui/supervise/1", False)}
    states = [change["data"]["state"] for change in changes]
    assert states == ["running", "waiting", "running", "waiting", "running", "gave up"]
    assert [change["data"]["restarts"] for change in changes] == [0, 0, 1, 1, 2, 2]
    assert all(change["data"]["child_pid"] for change in changes[::2])
    assert (code, told["schema"], told["ok"]) == (1, "ckpt-tui/supervise/1", False)
    data = told["data"]
    assert (data["state"], data["restarts"], data["step"], len(data["ends"])) == ("gave up", 2, 3, 3)
    assert "died at step 3 3 times" in data["told"]
    assert "session 1 from 0" in said
    assert kept.actions == ["restart", "restart", "gave_up"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, "preempted"), (signal.SIGHUP, "interrupted")])
def test_a_stop_is_passed_on_and_what_it_saved_is_not_restarted(
    kept: Kept, number: signal.Signals, status: str
) -> None:
    process = kept.supervise(steps="100000")
    wait_for(lambda: kept.is_at(7), "it did not train")
    process.send_signal(number)
    shown, said = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert f"{number.name} passed on to the training" in said
    assert f"stopped by {number.name}: {status} (exit code {128 + number} ({number.name}))" in said
    assert " after 1 signals" in shown
    assert kept.actions == ["stopped"]
    kept.assert_sound()
    assert list(marked(json.loads((kept.directory / "supervisor.json").read_text())["mark"])) == []


def test_a_stop_that_did_not_come_through_us_is_one_too(kept: Kept) -> None:
    process = kept.supervise(steps="100000")
    pid = kept.wait_until_running()
    wait_for(lambda: kept.is_at(7), "it did not train")
    os.kill(pid, signal.SIGTERM)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "somebody stopped it: preempted" in said


def test_a_second_interrupt_is_passed_on_as_well_and_a_pause_ends_at_once(kept: Kept) -> None:
    process = kept.supervise(training=(sys.executable, "-c", COUNTS))
    log = kept.directory / "session_1.log"
    wait_for(lambda: log.exists() and "up" in log.read_text(), "it did not come up")
    for state in ("running", "stopping"):
        wait_for(
            lambda state=state: json.loads((kept.directory / "supervisor.json").read_text())["state"] == state, state
        )
        wait_for(lambda state=state: state == "running" or "heard 1" in log.read_text(), "it did not hear")  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 5
    assert "SIGINT passed on again" in said
    waiting = kept.supervise("--pause", "1h", "--max-pause", "1h", training=("false",))
    wait_for(lambda: "waiting" in (kept.directory / "supervisor.json").read_text(), "it does not wait")
    waiting.terminate()
    assert waiting.wait(300) == 143  # and not in an hour


def test_an_interrupt_that_ends_it_while_another_one_is_told_is_told_too(kept: Kept) -> None:
    log = kept.directory / "session_1.log"
    request = supervisor.Request(
        str(kept.directory), (sys.executable, "-c", COUNTS), str(kept.directory), Policy(), as_is=True
    )
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "SIGINT passed on to the training" in line:
            pid = int(read_fields(str(kept.directory))["child_pid"])  # type: ignore[call-overload]
            wait_for(lambda: "heard 1" in log.read_text(), "the first one did not come to it")  # else they are one
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: look_at(pid) is None, "the second one did not end it")

    def interrupt() -> None:
        wait_for(lambda: log.exists() and "up" in log.read_text(), "it did not come up")
        os.kill(os.getpid(), signal.SIGINT)

    person = threading.Thread(target=interrupt)
    person.start()
    outcome = supervisor.supervise(request, say)
    person.join()
    assert (outcome.state, outcome.exit_code) == ("stopped", 5)
    assert any("SIGINT passed on again" in line for line in said)


def test_a_supervisor_that_is_stopped_in_a_pause_loses_nothing(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = kept.supervise("--pause", "1h", "--max-pause", "1h", ends="kill@12")
    wait_for(lambda: read_fields(str(kept.directory)).get("state") == "waiting", "it does not wait")
    reaped = threading.Thread(target=waiting.wait)
    reaped.start()
    assert main(["stop", str(kept.directory), "--yes"]) == 0
    reaped.join()
    shown = capsys.readouterr().out
    assert f"The supervisor, process {waiting.pid}, ended in " in shown
    assert "nothing trained.\nA resume takes rolling_step_000010.pt, step 10, and redoes 2 steps" in shown


def test_diverged_is_left_alone(kept: Kept) -> None:
    code, _, said = kept.run(ends="diverged@7")
    assert (code, kept.actions) == (1, ["gave_up"])
    assert "diverged (exit code 1) at step 7: the loss is not finite. The same weights" in said


def test_the_newest_valid_checkpoint_is_taken_and_without_one_nothing_is_started_over(kept: Kept) -> None:
    assert kept.run(ends="ok", steps="12")[0] == 0
    for name in ("rolling_step_000010.pt", "rolling_step_000005.pt"):
        damage(kept.directory / name)
    before = (kept.directory / "events.jsonl").read_bytes()
    code, _, said = kept.run(steps="20")
    assert code == 2
    assert "Nothing to resume from" in said
    assert "rolling_step_000010.pt is damaged; rolling_step_000005.pt is damaged" in said
    assert (kept.directory / "events.jsonl").read_bytes() == before


@pytest.mark.long
def test_a_command_that_begins_anew_over_a_training_is_ended_before_it_saves_over_it(kept: Kept) -> None:
    code, _, said = kept.run(ends="kill@24,anew", step_s="0.05", training=())
    assert code == 1
    assert "it began anew at step 1, and did not go on from rolling_step_000020.pt (step 20)" in said
    assert [event.start_step for event in kept.events if isinstance(event, RunStart)] == [0, 0]
    assert kept.actions == ["restart", "gave_up"]


@pytest.mark.long
def test_over_a_training_that_is_there_a_command_must_say_that_it_goes_on(kept: Kept) -> None:
    assert kept.run(steps="10")[0] == 0
    (kept.directory / "events.jsonl").unlink()  # what told that it goes on from its checkpoints by itself
    code, _, said = kept.run(steps="12")
    assert code == 2
    assert "How it goes on is not known" in said
    assert "Say --as-is" in said
    assert kept.run("--as-is", steps="12")[0] == 0


def test_its_environment_is_that_of_any_training_that_is_started_from_here(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = kept.directory.parent / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").touch()
    (venv / "bin" / "python").write_text("#!/bin/sh\nenv\n")
    (venv / "bin" / "python").chmod(0o755)
    monkeypatch.setenv("VIRTUAL_ENV", "/of/the/viewer")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    request = supervisor.Request(
        str(kept.directory), (str(venv / "bin" / "python"),), str(kept.directory), Policy(), as_is=True
    )
    assert supervisor.supervise(request, lambda line: None).exit_code == 0
    said = dict(line.partition("=")[::2] for line in (kept.directory / "session_1.log").read_text().splitlines())
    assert said["VIRTUAL_ENV"] == str(venv)
    assert said["PATH"].startswith(f"{venv}/bin:")
    assert (said["PYTHONUNBUFFERED"], "COLUMNS" in said, MARK in said) == ("1", False, True)


@pytest.mark.long
def test_a_shell_script_is_signalled_whole_and_waited_for_whole(kept: Kept) -> None:
    script = f"{' '.join(TRAINER)} {kept.directory} --steps 100000 --save-s 0.3; true"
    process = kept.supervise(training=("bash", "-c", script))
    wait_for(lambda: kept.is_at(7), "it did not train")
    process.terminate()
    shown, _ = process.communicate(timeout=300)
    assert "saved" in shown
    assert kept.actions == ["stopped"]
    kept.assert_sound()


@pytest.mark.long
def test_a_training_in_the_background_of_its_shell_is_looked_after_to_its_end(kept: Kept) -> None:
    script = f"{' '.join(TRAINER)} {kept.directory} --ends kill@40,ok --steps 50 --step-s 0.02 & sleep 0.5"
    code, _, said = kept.run(training=("bash", "-c", script))
    assert code == 0
    assert "which trains here, goes on" in said
    assert kept.actions == ["restart", "finished"]
    kept.assert_sound()


def test_what_a_crash_leaves_behind_is_ended_before_the_next_start(kept: Kept) -> None:
    code, _, said = kept.run("--give-up-after", "2", training=("bash", "-c", "setsid sleep 300 & sleep 0.1; exit 3"))
    assert code == 1
    assert said.count("ended 1 process that it left behind") == 2


@pytest.mark.long
def test_a_stall_is_ended_told_and_restarted(kept: Kept) -> None:
    code, _, said = kept.run("--stall-after", "1s", "--stall-grace", "0.2s", ends="hang@12,ok", steps="30")
    assert code == 0
    assert "it has stalled, and gets SIGTERM, after 200 ms SIGKILL" in said
    assert "stalled: silent for " in said
    assert "at step 12; from rolling_step_000010.pt" in said
    [death] = read_fields(str(kept.directory))["standing"]["deaths"]  # type: ignore[index]
    assert death["last_lines"][-1] == "goes wrong at 12"  # its own, and not what is told of its processes
    told = (kept.directory / "session_1.log").read_text()
    assert "Where its processes were:" in told
    assert "State:" in told
    kept.assert_sound()


@pytest.mark.long
def test_nobody_who_reads_its_output_keeps_it_from_starting_again(kept: Kept) -> None:
    kept.supervise(
        "--give-up-after", "1", training=("bash", "-c", "head -c 300000 /dev/zero; exit 3")
    )  # Ctrl+S, or a line that hangs
    wait_for(lambda: read_fields(str(kept.directory)).get("state") == "gave up", "it waits for who reads")


@pytest.mark.parametrize("option", ["--max-restarts=-1", "--give-up-after=-2", "--within=0", "--stall-after=0s"])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main(["supervise", str(tmp_path / "run"), option, "--", "true"]) == 2
    assert f"Usage: {option.split('=')[0]}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_one_that_was_halted_gets_to_save_before_it_is_ended(kept: Kept) -> None:
    process = kept.supervise("--stall-after", "1s", "--stall-grace", "20s", "--give-up-after", "1", steps="100000")
    pid = kept.wait_until_running()
    wait_for(lambda: kept.is_at(7), "it did not train")
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: kept.actions, "it is not ended", 20)
    ended = next(event for event in kept.events if isinstance(event, RunEnd))
    assert ended.status == "preempted"
    process.terminate()
    process.communicate(timeout=300)


def test_a_program_that_is_not_there_is_told_at_once(kept: Kept) -> None:
    code, _, said = kept.run(training=("/nowhere/python", "x"))
    assert code == 2
    assert "Cannot start: /nowhere/python: there is no such program" in said
    assert list(kept.directory.iterdir()) == []
    broken = kept.directory.parent / "broken"
    broken.write_text("#!/nowhere/python\n")
    broken.chmod(0o755)
    code, _, said = kept.run(training=(str(broken),))
    assert code == 2
    assert f"cannot start {broken}: No such file or directory" in " ".join(said.split())
    code, _, said = kept.run(training=("bash", "-c", "no-such-program"))
    assert code == 1
    assert "exit code 127: it would end the same way again" in said
    assert main(["status", str(kept.directory)]) == 1  # although there is no event yet


def test_detached_it_says_that_it_is_at_work_and_is_stopped_like_any_other(kept: Kept) -> None:
    done = subprocess.run(
        [*SUPERVISE, str(kept.directory), "--detach", "--json", "--", "sleep", "300"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    data = json.loads(done.stdout)["data"]
    assert data["state"] == "running"
    assert os.getsid(data["pid"]) == data["pid"]
    assert main(["stop", str(kept.directory), "--yes"]) == 0
    assert look_at(data["child_pid"]) is None


@pytest.mark.long
def test_detached_it_says_that_it_is_at_work_and_outlives_who_started_it(kept: Kept) -> None:
    done = subprocess.run(
        [*SUPERVISE, str(kept.directory), *QUICK, "--detach", "--json", "--", *TRAINER, str(kept.directory), "--ends",
         "kill@28,ok", "--step-s", "0.04"],
        cwd=kept.directory.parent, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    data = json.loads(done.stdout)["data"]
    assert data["state"] == "running"
    assert os.getsid(data["pid"]) == data["pid"]
    wait_for(lambda: (supervisor := read_supervisor(str(kept.directory))) and supervisor.state == "finished", "finish")
    assert "killed by SIGKILL at step 28" in (kept.directory / "supervisor.log").read_text()
    (kept.directory.parent / "json.py").write_text("raise SystemExit('taken for the one of Python')")
    broken = kept.directory.parent / "broken"
    broken.write_text("#!/nowhere/python\n")
    broken.chmod(0o755)
    again = subprocess.run(
        [str(Path(sys.executable).with_name("ckpt-tui")), "supervise", str(kept.directory), "--detach", "--",
         str(broken)],
        cwd=kept.directory.parent, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert again.returncode == 2
    assert "cannot start" in again.stderr
