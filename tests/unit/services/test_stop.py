"""A stop asks the right process, once, tells what was saved or lost, and never hits another one. Real processes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import psutil
import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.services import stop_plan, stopping
from ckpt_tui.services.owner import owner_of, owners_of, run_state
from ckpt_tui.services.processes import is_wrapper, look_at, send
from ckpt_tui.services.stop_plan import plan_stop
from ckpt_tui.services.stop_record import asked, note_asked
from ckpt_tui.services.stopping import StopProgress, kill, stop
from ckpt_tui.services.supervisor_record import write_record
from tests.builders.crashing import CHANGING, file_operations, killed_at
from tests.builders.stand_ins import CATCHES, DIES, IGNORES, REPO, SAVES, StandIn, wait_for

Begin = Callable[..., StandIn]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    begun: list[StandIn] = []

    def begin(code: str, *arguments: str, name: str = "run", before: tuple[str, ...] = ()) -> StandIn:
        one = StandIn(code, tmp_path / name, *arguments, before=before)
        begun.append(one)
        # As the shell that started it: who has ended is no zombie.
        threading.Thread(target=one.process.wait, daemon=True).start()
        return one

    yield begin
    for one in begun:
        one.end()


def test_what_was_saved_is_told_as_it_happens_and_afterwards(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(SAVES)
    directory = str(tmp_path / "run")
    plan = plan_stop(directory)
    assert (plan.pid, plan.told_by, plan.saves, plan.asked_at) == (trainer.pid, "trainer.lock", True, None)
    assert (plan.step, plan.checkpoint, plan.checkpoint_step, plan.at_risk_steps) == (7, "rolling_step_000004.pt", 4, 3)
    assert [(t.pid, t.role, t.process.on_sigterm) for t in plan.targets] == [(trainer.pid, "training", "caught")]
    told: list[StopProgress] = []
    stopped = stop(directory, 300, plan=plan, on_progress=told.append)
    stages = [stage for stage, _ in groupby(one.stage for one in told)]  # each is told again once a second
    assert stages == ["asked", "seen", "saved", "ending", "ended"]
    assert {one.sentence for one in told if one.stage == "seen"} == {"It has seen SIGTERM at step 7: saves and stops."}
    assert (stopped.has_ended, stopped.saved, stopped.saved_step) == (
        True, "emergency_step_000007_20260101_101010.pt", 7,
    )  # fmt: skip
    assert (stopped.step, stopped.lost_steps, stopped.status) == (7, 0, "preempted")
    assert stopped.sentences[1] == "Nothing is lost."
    assert not (tmp_path / "run" / "stop.json").exists()
    with pytest.raises(CkptError, match="Not running"):
        plan_stop(directory)


def test_one_that_does_not_catch_the_signal_loses_steps_and_that_is_said_before_and_after(
    tmp_path: Path, begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = begin(DIES)
    directory = str(tmp_path / "run")
    plan = plan_stop(directory)
    assert (plan.pid, plan.told_by, plan.saves) == (trainer.pid, "events.jsonl", False)
    [warning] = plan.warnings
    assert warning.startswith("It does not catch SIGTERM: it ends at once, unsaved: 3 steps")
    assert main(["stop", directory, "--yes", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["done"], data["saved"], data["lost"]["steps"]) == (True, None, 3)
    assert data["resume_would_take"] == "rolling_step_000004.pt"
    assert "without saving step 7" in data["sentences"][0]


def test_one_that_catches_it_and_is_not_ours_may_save_or_not(tmp_path: Path, begin: Begin) -> None:
    begin(CATCHES)
    plan = plan_stop(str(tmp_path / "run"))
    assert plan.saves is None
    [warning] = plan.warnings
    assert warning.startswith("Whether it saves when it gets SIGTERM is not known. Unsaved, 3 steps")
    stopped = stop(str(tmp_path / "run"), 300)
    assert (stopped.has_ended, stopped.lost_steps, stopped.saved) == (True, 3, "")


def test_one_that_ignores_it_is_still_at_work_and_killed_only_after_a_second_yes(
    tmp_path: Path, begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = begin(IGNORES)
    directory = str(tmp_path / "run")
    plan = plan_stop(directory)
    assert (plan.saves, plan.warnings) == (False, ("It ignores SIGTERM: it will not end by it.",))
    assert main(["stop", directory, "--yes", "--timeout", "0.05"]) == 1
    said = capsys.readouterr().out
    assert "still at work" in said
    assert "--kill" in said
    assert trainer.process.poll() is None
    assert main(["stop", directory, "--timeout", "0.05", "--kill"]) == 2, "nobody to ask a second time"
    assert "Add --yes" in capsys.readouterr().err
    assert trainer.process.poll() is None
    assert main(["stop", directory, "--timeout", "0.05", "--kill", "--yes", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["done"], data["killed"], data["lost"]["steps"]) == (True, True, 3)
    wait_for(lambda: trainer.process.poll() == -signal.SIGKILL, "it was not killed")


def test_asked_again_it_gets_no_second_signal(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(SAVES, str(tmp_path / "may_save"))
    directory = str(tmp_path / "run")
    first = stop(directory, 0.05)
    assert not first.has_ended
    assert "goes on being asked" in first.sentences[0]
    noted = asked(directory, trainer.identity)
    assert noted is not None
    assert (noted.is_sent, noted.at) == (True, pytest.approx(time.time(), abs=300))
    plan = plan_stop(directory)
    assert plan.asked_at is not None
    assert "was asked to save and end" in plan.sentences[0]
    (tmp_path / "may_save").touch()
    # As when a person reads the plan for long: what it saved meanwhile is told all the same.
    wait_for(lambda: trainer.process.poll() == 143, "it did not end")
    assert stop(directory, 300, plan=plan).saved_step == 7
    assert trainer.has_said("signals 1")


def test_signal_of_somebody_else_is_not_sent_again(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(SAVES, str(tmp_path / "may_save"))
    directory = str(tmp_path / "run")
    os.kill(trainer.pid, signal.SIGTERM)
    wait_for(lambda: plan_stop(directory).asked_at is not None, "its log does not tell")
    plan = plan_stop(directory)
    (tmp_path / "may_save").touch()
    assert stop(directory, 300, plan=plan).saved_step == 7
    assert trainer.has_said("signals 1")


def test_waiting_that_is_given_up_leaves_it_ending(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(SAVES, str(tmp_path / "may_save"))
    told: list[str] = []
    stopped = stop(
        str(tmp_path / "run"), 300, on_progress=lambda one: told.append(one.stage), is_cancelled=lambda: "seen" in told
    )
    assert (stopped.has_ended, stopped.is_cancelled) == (False, True)
    (tmp_path / "may_save").touch()
    wait_for(lambda: trainer.process.poll() == 143, "it did not end by itself")
    assert trainer.has_said("signals 1")


def test_interrupt_while_waiting_is_told_and_it_stops_all_the_same(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(SAVES, str(tmp_path / "may_save"))
    waiting = subprocess.Popen(
        [sys.executable, "-m", "ckpt_tui", "stop", str(tmp_path / "run"), "--yes"], cwd=REPO, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert waiting.stderr is not None
    assert "Asked to save and end." in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=300)
    assert waiting.returncode == 130
    assert "It still stops" in said
    (tmp_path / "may_save").touch()
    wait_for(lambda: trainer.process.poll() == 143, "it did not end")


def test_one_that_is_stopped_is_continued_so_that_it_can_save(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(SAVES)
    os.kill(trainer.pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(trainer.pid).status() == psutil.STATUS_STOPPED, "not stopped")
    plan = plan_stop(str(tmp_path / "run"))
    assert "it is continued" in plan.warnings[0]
    assert stop(str(tmp_path / "run"), 300).saved_step == 7


# A parent in vfork waits in the kernel until its child has gone on: as one whose disk or GPU does not answer.
STUCK = """
#include <signal.h>
#include <unistd.h>
static void stop(int number) { _exit(0); }
int main(void) {
    signal(SIGTERM, stop);
    if (vfork() == 0) { while (access("%s", F_OK)) usleep(5000); _exit(0); }
    pause();
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_one_that_is_stuck_in_the_kernel_is_told_as_such_and_waited_for(tmp_path: Path) -> None:
    (tmp_path / "stuck.c").write_text(STUCK % (tmp_path / "goes_on"))
    subprocess.run(["cc", "-w", "-o", tmp_path / "stuck", tmp_path / "stuck.c"], check=True)
    stuck = subprocess.Popen([tmp_path / "stuck"])
    threading.Thread(target=stuck.wait, daemon=True).start()
    started = psutil.Process(stuck.pid).create_time()
    fields = {"pid": stuck.pid, "pid_started": started, "host": os.uname().nodename, "log": "x", "command": []}
    (tmp_path / "launch.json").write_text(json.dumps(fields))
    wait_for(lambda: psutil.Process(stuck.pid).status() == psutil.STATUS_DISK_SLEEP, "not stuck")
    plan = plan_stop(str(tmp_path))
    assert "waits in the kernel" in plan.warnings[0]
    stopped = stop(str(tmp_path), 0.1, plan=plan)
    assert not stopped.has_ended
    assert any("waits in the kernel" in sentence for sentence in stopped.sentences)
    (tmp_path / "goes_on").touch()
    assert stop(str(tmp_path), 300, plan=plan).has_ended  # it may be gone before it can be found once more


def test_shell_that_waits_for_it_is_not_what_gets_the_signal(tmp_path: Path, begin: Begin) -> None:
    code = SAVES.replace("DirectoryLock(sys.argv[1])", "None")  # only the start names it
    shell = begin(code, before=("sh", "-c", '"$@"; echo after', "sh"))
    shell.record_launch(tmp_path / "run")
    (tmp_path / "run" / "events.jsonl").rename(tmp_path / "log")  # and no log does
    plan = plan_stop(str(tmp_path / "run"))
    [child] = psutil.Process(shell.pid).children()
    assert plan.pid == shell.pid
    assert [target.pid for target in plan.targets] == [child.pid]
    assert stop(str(tmp_path / "run"), 300).has_ended
    assert shell.has_said("after"), "the shell went on to its end"


def test_two_trainings_in_one_directory_are_both_asked(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(SAVES)
    other = begin(DIES.replace("EventWriter(directory)", "EventWriter(directory + '/..')"))
    other.record_launch(tmp_path / "run")
    plan = plan_stop(str(tmp_path / "run"))
    assert {(t.pid, t.told_by) for t in plan.targets} == {(trainer.pid, "trainer.lock"), (other.pid, "launch.json")}
    assert all("says) gets SIGTERM" in sentence for sentence in plan.sentences[:2])
    assert stop(str(tmp_path / "run"), 300).has_ended
    wait_for(lambda: other.process.poll() is not None and trainer.process.poll() is not None, "one is left")


def test_zombie_counts_as_ended(tmp_path: Path) -> None:
    trainer = StandIn(DIES, tmp_path / "run")
    trainer.record_launch(tmp_path / "run")
    trainer.process.kill()
    wait_for(lambda: psutil.Process(trainer.pid).status() == psutil.STATUS_ZOMBIE, "no zombie")
    with pytest.raises(CkptError, match="Not running"):
        plan_stop(str(tmp_path / "run"))
    assert look_at(trainer.pid) is None
    trainer.end()


def test_number_that_came_again_after_the_plan_is_left_alone(tmp_path: Path, begin: Begin) -> None:
    trainer = begin(DIES)
    earlier = replace(trainer.identity, pid_started=trainer.identity.pid_started - 100, birth="")
    assert not send(earlier, signal.SIGKILL)
    assert trainer.process.poll() is None
    plan = plan_stop(str(tmp_path / "run"))
    trainer.process.kill()
    wait_for(lambda: look_at(trainer.pid) is None, "it did not end")
    assert stop(str(tmp_path / "run"), 300, plan=plan).has_ended, "it ended meanwhile"


def test_one_on_another_host_is_refused_with_what_to_do(tmp_path: Path, begin: Begin) -> None:
    # Its lock, where the mount passes locks on: held, and the name in it is of another machine.
    begin(SAVES)
    lock = tmp_path / "run" / "trainer.lock"
    lock.write_text(json.dumps({"pid": 77, "pid_started": 1.0, "host": "node\x1b[31m-3"}))
    plan = plan_stop(str(tmp_path / "run"))
    # Its log names a process of this host: a witness that is as good, and one that we reach.
    assert [target.told_by for target in plan.targets] == ["events.jsonl"]
    (tmp_path / "run" / "events.jsonl").unlink()
    plan = plan_stop(str(tmp_path / "run"))
    assert plan.targets == ()
    assert "\x1b" not in plan.refusals[0] + plan.hint
    assert "ckpt-tui stop" in plan.hint
    with pytest.raises(CkptError, match="Cannot be stopped from here"):
        stop(str(tmp_path / "run"), plan=plan)
    with pytest.raises(CkptError, match="Cannot be killed from here"):
        kill(str(tmp_path / "run"), plan=plan)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
def test_one_of_another_user_is_refused() -> None:
    shared = Path(tempfile.mkdtemp())
    shared.chmod(0o755)
    trainer = StandIn(DIES, shared / "run")
    told, tells = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                os.write(tells, "|".join(plan_stop(str(shared / "run")).refusals).encode())
                send(trainer.identity, signal.SIGTERM)
            except PermissionError:
                os.write(tells, b"|not permitted")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(told, 1000).decode() == f"Process {trainer.pid} belongs to root.|not permitted"
        assert trainer.process.poll() is None
    finally:
        os.close(told)
        os.close(tells)
        trainer.end()
        shutil.rmtree(shared)


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        (("bash", "train.sh"), True),
        (("/usr/bin/env", "python", "x.py"), True),
        (("python", "/venv/bin/accelerate", "launch", "x.py"), True),
        (("python", "-m", "accelerate.commands.launch", "x.py"), True),
        (("uv", "run", "x.py"), True),
        (("python", "x.py"), False),
        (("python", "-m", "trainer", "bash"), False),
        (("torchrun", "x.py"), False),
        ((), False),
    ],
)  # fmt: skip
def test_wrappers_are_known_by_their_command_lines(words: tuple[str, ...], is_one: bool) -> None:
    assert is_wrapper(words) is is_one


SUPERVISES = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
print("up", flush=True)
while not asked:
    time.sleep(0.005)
time.sleep(0.1)
"""


def test_supervisor_that_waits_for_its_next_start_is_what_is_asked(tmp_path: Path, begin: Begin) -> None:
    supervisor = begin(SUPERVISES)
    fields = {
        **supervisor.identity.fields(), "state": "waiting",
        "next_try_at": time.time() + 100, "child_pid": 0,
    }  # fmt: skip
    (tmp_path / "run" / "supervisor.json").write_text(json.dumps(fields))
    plan = plan_stop(str(tmp_path / "run"))
    assert [(target.pid, target.role) for target in plan.targets] == [(supervisor.pid, "supervisor")]
    assert plan.sentences[-1] == "Nothing trains at the moment: it waits for the time of its next start."
    assert stop(str(tmp_path / "run"), 300).has_ended


FOREIGN = """
import sys, time
file = open(sys.argv[1] + "/metrics.csv", "w", buffering=1)
file.write("step,train_loss\\n")
for step in range(1, 5):
    file.write(f"{step},1.0\\n")
print("up", flush=True)
time.sleep(100)
"""


def test_loop_of_somebody_else_that_names_no_process(tmp_path: Path, begin: Begin) -> None:
    loop = begin(FOREIGN)
    with pytest.raises(CkptError, match="Not known which process") as caught:
        plan_stop(str(tmp_path / "run"))
    assert f"process {loop.pid} (" in caught.value.message
    assert "whether it saves then is not known" in caught.value.hint
    # Started from here it is known, and that it does not save is seen.
    loop.record_launch(tmp_path / "run")
    plan = plan_stop(str(tmp_path / "run"))
    assert (plan.pid, plan.saves, plan.step) == (loop.pid, False, 4)
    stopped = stop(str(tmp_path / "run"), 300)
    assert stopped.has_ended
    assert stopped.sentences[1] == "Lost: 4 steps; there is no checkpoint."


def test_one_that_ends_just_now_is_not_running_and_is_not_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process lets its lock go some moments after it can be looked at for the last time."""
    lock = tmp_path / "trainer.lock"
    lock.write_text(json.dumps({"pid": 2**22 + 1, "pid_started": 1.0, "host": socket.gethostname()}))
    descriptor = os.open(lock, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    monkeypatch.setattr(stop_plan, "_ENDING_S", 0.05)
    with pytest.raises(CkptError, match="Somebody else is at work here"):
        plan_stop(str(tmp_path))
    monkeypatch.setattr(stop_plan, "_ENDING_S", 300.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(descriptor, fcntl.LOCK_UN))
    with pytest.raises(CkptError, match="Not running"):
        plan_stop(str(tmp_path))
    os.close(descriptor)


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
def test_stop_that_is_killed_at_every_file_operation_is_repeated_and_signals_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(stopping, "UNSURE_S", 0.1)
    calls_of = (*CHANGING, "pidfd_open", "close")

    def begun(name: str) -> StandIn:
        one = StandIn(SAVES, tmp_path / name)
        threading.Thread(target=one.process.wait, daemon=True).start()
        return one

    first = begun("counted")
    operations = file_operations(lambda: stop(str(tmp_path / "counted"), 0.0), calls_of=calls_of)
    assert {"replace", "fsync", "pidfd_open"} <= set(operations)
    first.end()
    # From the first change on, to the end of the second note.
    begin, end = operations.index("write"), len(operations) - operations[::-1].index("replace") + 3
    num_signalled = 0
    for number in range(begin, end + 1):
        trainer = begun(f"killed-{number}")
        directory = str(tmp_path / f"killed-{number}")
        killed_at(number, lambda directory=directory: stop(directory, 0.0), when=when, calls_of=calls_of)  # type: ignore[misc]
        noted = asked(directory, trainer.identity)
        num_signalled += noted is not None and noted.is_sent
        try:
            stopped = stop(directory, 300)
            assert (stopped.has_ended, stopped.lost_steps) == (True, 0), (number, operations[number - 1], stopped)
        except CkptError as error:
            if error.title != "Not running":  # it was asked by the one that was killed, and has ended
                raise
        assert trainer.has_said("signals 1"), (number, operations[number - 1])
        trainer.end()
    assert num_signalled < end - begin


def test_note_of_a_stop_is_of_one_process_on_one_host(tmp_path: Path) -> None:
    there = ProcessIdentity(77, 1.0, "node-7")
    note_asked(str(tmp_path), there, is_sent=False)
    noted = asked(str(tmp_path), there)
    assert noted is not None
    assert not noted.is_sent
    assert asked(str(tmp_path), ProcessIdentity(77, 1.0)) is None, "of this host"
    assert asked(str(tmp_path), replace(there, pid_started=100.0)) is None, "of a later process with its number"
    for broken in (b"", b"[]", b'{"asked": 3}', b'{"asked": [3]}', b'{"asked": [{"pid": 77}]}'):
        (tmp_path / "stop.json").write_bytes(broken)
        assert asked(str(tmp_path), there) is None


def test_a_copy_of_a_live_run_has_no_training_and_one_that_was_moved_keeps_it(tmp_path: Path, begin: Begin) -> None:
    """What log, launch.json and supervisor.json of a copy name trains in the original: no stop of the copy ends it."""
    trainer = begin(DIES)
    run, copy, moved = (tmp_path / name for name in ("run", "copy", "moved"))
    record = {"pid": trainer.pid, "pid_started": psutil.Process(trainer.pid).create_time(), "host": os.uname().nodename}
    write_record(str(run), {**record, "state": "running"})
    (run / "launch.json").write_text(json.dumps({**record, "directory": str(run), "job": "7"}))
    shutil.copytree(run, copy)
    assert {owner.told_by for owner in owners_of(str(run), run_state(str(run)))} == {"supervisor.json"}
    assert owners_of(str(copy), run_state(str(copy))) == ()
    with pytest.raises(CkptError, match="Not running"):
        plan_stop(str(copy))
    for name in ("supervisor.json", "launch.json"):
        (run / name).unlink()
        assert owner_of(str(run), run_state(str(run))) is not None
    run.rename(moved)
    run.mkdir()  # somebody begins another one under the old name
    assert plan_stop(str(moved)).pid == trainer.pid
    assert trainer.process.poll() is None
