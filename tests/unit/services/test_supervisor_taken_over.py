"""Real supervisors that are killed, meet one another, or find a training that others began: never two at a time."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Collection

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import RunStart
from ckpt_tui.process_identity import process_started
from ckpt_tui.services import start_lock, supervisor, taking_over
from ckpt_tui.services.owner import Owner
from ckpt_tui.services.processes import look_at
from ckpt_tui.services.supervision import Point, Policy
from ckpt_tui.services.supervisor_record import live_supervisor, read_fields, read_supervisor, write_record
from tests.builders.supervised_runs import ENVIRONMENT, SUPERVISE, Kept, wait_for
from tests.builders.supervised_runs import kept as kept


def test_without_a_command_it_goes_on_as_before_with_what_was_asked_for_then(
    kept: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--pause", "1h", "--max-pause", "2h", "--as-is", "--give-up-after", "7", "--stall-after", "auto")
    first = kept.supervise(*asked, ends="kill@12")
    wait_for(lambda: read_fields(str(kept.directory)).get("state") == "waiting", "it does not wait")
    first.kill()
    first.wait()
    assert main(["supervise", str(kept.directory), "--dry-run", "--max-restarts", "0"]) == 0
    said = capsys.readouterr().err
    assert "As supervised before: " in said
    options = "--pause=1h --max-pause=2h --max-restarts=0 --give-up-after=7 --stall-after=auto --as-is"
    assert f", with {options}" in said.replace("\n", " ").replace("  ", " ")
    second = subprocess.Popen(
        [*SUPERVISE, str(kept.directory)], env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    kept.started.append(second)
    wait_for(lambda: second.poll() is not None or live_supervisor(str(kept.directory)) is not None, "it is not there")
    second.terminate()
    assert second.wait(300) == 143, second.communicate()
    settings = {"pause": "1h", "max_pause": "2h", "as_is": True, "give_up_after": 7, "stall_after": "auto"}
    assert read_fields(str(kept.directory))["settings"] == settings


def test_a_supervisor_that_is_killed_leaves_the_training_and_the_next_one_takes_it_over(kept: Kept) -> None:
    goes_on = kept.directory / "goes_on"
    options = {"ends": "kill@3,ok", "waits_for": str(goes_on)}
    first = kept.supervise(**options)
    wait_for(
        lambda: kept.actions == ["restart"] and kept.is_at(20) if (kept.directory / "events.jsonl").exists() else 0,
        "restart",
    )
    pid = kept.wait_until_running()
    first.kill()
    first.wait()
    assert look_at(pid) is not None
    supervisor = read_supervisor(str(kept.directory))
    assert supervisor is not None
    assert supervisor.is_alive is False
    second = kept.supervise(**options)
    wait_for(lambda: read_fields(str(kept.directory))["pid"] == second.pid, "it did not take over")
    goes_on.touch()
    _, said = second.communicate(timeout=300)
    assert second.returncode == 0
    assert f"took over process {pid}" in said
    assert kept.actions == ["restart", "finished"]
    kept.assert_sound()
    assert [event.start_step for event in kept.events if isinstance(event, RunStart)] == [0, 0]
    supervisor = read_supervisor(str(kept.directory))
    assert supervisor is not None
    assert (supervisor.state, supervisor.restarts) == ("finished", 1)


@pytest.mark.long
@pytest.mark.parametrize(
    ("ends", "words"), [("kill@60", "gone without a word at step 60; from"), ("ok", "finished at step")]
)
def test_what_ended_while_nobody_looked_is_judged_by_its_log(kept: Kept, ends: str, words: str) -> None:
    options = {"ends": f"{ends},ok", "steps": "80", "step_s": "0.01"}
    first = kept.supervise(**options)
    wait_for(lambda: kept.is_at(10), "it did not train")
    pid = kept.wait_until_running()
    first.kill()
    first.wait()
    wait_for(lambda: look_at(pid) is None, "the training did not end")
    code, _, said = kept.run(**options)
    assert code == 0
    assert words in said
    assert kept.is_at(80)
    kept.assert_sound()


def kill_at_random(kept: Kept, num_kills: int, seed: int) -> None:
    chance = random.Random(seed)
    options = {"ends": ",".join(["kill@7", "kill@14", "kill@23"] * 20 + ["ok"]), "steps": "60", "step_s": "0.003"}
    for _ in range(num_kills):
        process = kept.supervise("--as-is", "--max-restarts", "0", "--give-up-after", "0", **options)
        try:
            process.wait(chance.uniform(0.0, 1.2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    code, _, said = kept.run("--as-is", "--max-restarts", "0", "--give-up-after", "0", **{**options, "ends": "ok"})
    assert code == 0, said
    kept.assert_sound()
    assert kept.is_at(60)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_many_random_moments(kept: Kept, seed: int) -> None:
    kill_at_random(kept, 12, seed)


def test_a_second_supervisor_is_refused_by_name(kept: Kept) -> None:
    first = kept.supervise(steps="100000")
    kept.wait_until_running()
    code, _, said = kept.run()
    assert code == 2
    assert f"Supervised already: process {first.pid} on {socket.gethostname()}" in said
    first.terminate()
    first.communicate(timeout=300)


def test_who_begins_while_the_checkpoint_is_looked_for_is_taken_over(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = []

    def find(directory: str, **how: object) -> Point:
        other = subprocess.Popen(["sleep", "300"])
        others.append(other)
        begun = {"pid": other.pid, "pid_started": process_started(other.pid), "host": socket.gethostname()}
        (kept.directory / "launch.json").write_text(json.dumps(begun))
        return Point(is_untrained=True)

    monkeypatch.setattr(supervisor, "find_point", find)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "took over" in line:
            others[0].kill()

    request = supervisor.Request(
        str(kept.directory), ("touch", "ran"), str(kept.directory), Policy(same_step_limit=1), as_is=True
    )
    outcome = supervisor.supervise(request, say)
    assert outcome.state == "gave up"
    assert f"took over process {others[0].pid}" in said[0]
    assert not (kept.directory / "ran").exists()
    for other in others:
        other.kill()
        other.wait()


def test_a_signal_that_comes_while_it_is_found_reaches_what_is_taken_over(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = subprocess.Popen(["sleep", "300"])
    begun = {"pid": other.pid, "pid_started": process_started(other.pid), "host": socket.gethostname()}
    (kept.directory / "launch.json").write_text(json.dumps(begun))
    find = taking_over.who_trains

    def find_asked(directory: str, ruled_out: Collection[Owner] = ()) -> Owner | None:
        os.kill(os.getpid(), signal.SIGTERM)
        return find(directory, ruled_out)

    monkeypatch.setattr(taking_over, "who_trains", find_asked)
    too_late = threading.Timer(300, other.kill)
    too_late.start()
    request = supervisor.Request(str(kept.directory), ("false",), str(kept.directory), Policy(), as_is=True)
    said: list[str] = []
    try:
        outcome = supervisor.supervise(request, said.append)
    finally:
        too_late.cancel()
        other.kill()
    assert other.wait() == -signal.SIGTERM, said
    assert outcome.state == "stopped"


def test_what_a_copy_tells_of_its_original_is_not_gone_on_with(kept: Kept) -> None:
    fields = {
        "pid": 2**22 - 1, "pid_started": 1.0, "host": socket.gethostname(), "command": ["true"], "state": "running",
        "child_pid": 2**22 - 2, "child_pid_started": 1.0, "mark": "m", "session": 1, "standing": {},
    }  # fmt: skip
    copy = kept.directory.parent / "copy"
    write_record(str(kept.directory), fields)
    shutil.copytree(kept.directory, copy)
    for directory, is_own in ((copy, False), (kept.directory, True)):
        request = supervisor.Request(str(directory), ("true",), str(directory), Policy(pause_s=0), as_is=True)
        outcome = supervisor.supervise(request, lambda line: None)
        assert (outcome.state, len(outcome.ends)) == ("finished", 1 + is_own)


def test_a_record_that_cannot_be_written_is_told_as_that_and_waited_for(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)
    record = kept.directory / "launch.json"
    record.mkdir()
    request = supervisor.Request(
        str(kept.directory), ("bash", "-c", "touch ran; exit 1"), str(kept.directory),
        Policy(pause_s=0, same_step_limit=0, max_restarts=1), as_is=True,
    )  # fmt: skip
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "restart 1 of 1" in line:
            record.unlink()
            record.mkdir()
        elif "waits: Nothing was started" in line:
            record.rmdir()

    with pytest.raises(CkptError, match="cannot be written: Is a directory"):
        supervisor.supervise(request, say)
    assert not (kept.directory / "ran").exists()
    record.rmdir()
    assert supervisor.supervise(request, say).restarts == 1
    assert sum("waits: Nothing was started" in line for line in said) == 1
    assert not any("disk is full" in line for line in said)


def waits_of_a_restart(kept: Kept, held: int) -> tuple[supervisor.Request, list[str]]:
    """What a supervisor says it waits for while `held`, a descriptor, is locked from its first restart on until then;
    and what it was asked."""
    request = supervisor.Request(
        str(kept.directory), ("bash", "-c", "touch ran; exit 1"), str(kept.directory),
        Policy(pause_s=0, same_step_limit=0, max_restarts=1), as_is=True,
    )  # fmt: skip
    waits: list[str] = []

    def say(line: str) -> None:
        if "restart 1 of 1" in line:
            fcntl.flock(held, fcntl.LOCK_EX)
        elif "waits: " in line:
            waits.append(line.split("waits: ")[1].partition(":")[0])
            fcntl.flock(held, fcntl.LOCK_UN)

    assert supervisor.supervise(request, say).restarts == 1
    return request, waits


def test_a_start_waits_for_whoever_holds_the_directory(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_lock, "PATIENCE_S", 0.01)
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)
    descriptor = os.open(kept.directory, os.O_RDONLY)
    request, waits = waits_of_a_restart(kept, descriptor)
    assert waits == ["Somebody is at work here"]
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(CkptError, match="another process holds the lock"):
        supervisor.supervise(request, waits.append)  # a person waits for this one
    os.close(descriptor)


def test_what_trains_elsewhere_is_told_and_what_goes_on_is_named(kept: Kept) -> None:
    code, _, said = kept.run(training=("bash", "-c", "setsid sleep 300 & exit 0"))
    assert code == 0
    assert "1 process that it started goes on, not looked after: " in said
    assert f"nothing was logged or saved in {kept.directory}: what trains elsewhere is not looked after" in said


def test_a_stop_that_outlived_its_supervisor_is_told_once(kept: Kept) -> None:
    training = ("bash", "-c", "trap '' TERM; echo up; sleep 300 & wait; wait")
    first = kept.supervise(training=training)
    log = kept.directory / "session_1.log"
    wait_for(lambda: log.exists() and "up" in log.read_text(), "it did not come up")
    pid = kept.wait_until_running()
    first.terminate()
    wait_for(lambda: read_fields(str(kept.directory))["state"] == "stopping", "it does not stop")
    first.kill()
    first.wait()
    os.killpg(pid, signal.SIGKILL)
    code, _, said = kept.run(training=training)
    assert code == 1
    assert "stopped by a signal before" in said
    assert "the same command again starts it" in said


def test_a_stop_goes_on_when_its_supervisor_is_killed_and_the_next_one_takes_over(kept: Kept) -> None:
    ends = kept.directory / "ends"
    training = ("bash", "-c", f"trap '' TERM; echo up; until [ -e {ends} ]; do sleep 0.05; done; exit 3")
    first = kept.supervise(training=training)
    log = kept.directory / "session_1.log"
    wait_for(lambda: log.exists() and "up" in log.read_text(), "it did not come up")
    kept.wait_until_running()
    first.terminate()
    wait_for(lambda: read_fields(str(kept.directory))["state"] == "stopping", "it does not stop")
    first.kill()
    first.wait()
    second = kept.supervise(training=training)
    wait_for(lambda: read_fields(str(kept.directory))["pid"] == second.pid, "it did not take over")
    assert read_fields(str(kept.directory))["state"] == "stopping"
    ends.touch()
    _, said = second.communicate(timeout=300)
    assert "trains here already (launch.json says so), and was asked to save and end" in said
    assert "stopped by a signal before" in said
    assert "the same command again starts it" in said
    assert not (kept.directory / "session_2.log").exists()


def test_a_start_waits_for_an_act_that_holds_the_lock_of_a_training_that_has_ended(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LOOK_S", 0.01)
    lock = kept.directory / "trainer.lock"
    lock.write_text(json.dumps({"pid": 2**22 + 1, "pid_started": 1.0, "host": socket.gethostname()}))
    with open(lock) as held:
        _, waits = waits_of_a_restart(kept, held.fileno())
    assert waits == ["Somebody else is at work here"]
