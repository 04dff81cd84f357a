"""A clock that was set, by an hour, moves every start in Unix seconds: nobody is dead for that, and nobody another.

Real processes; what they have recorded is shifted, which is how a record looks once the clock was set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.run.state import Phase
from ckpt_tui.services import deed_lock, system
from ckpt_tui.services.launch import refuse_second
from ckpt_tui.services.monitor import read_run
from ckpt_tui.services.owner import owner_of, owners_of, run_state
from ckpt_tui.services.stop_plan import plan_stop
from ckpt_tui.services.stop_record import asked, note_asked
from ckpt_tui.services.stopping import stop
from ckpt_tui.services.supervisor_record import live_supervisor, write_record
from ckpt_tui.services.system import LOCK_NAME
from tests.builders.event_logs import LogText
from tests.builders.stand_ins import DIES, SAVES, StandIn

pytestmark = pytest.mark.skipif(
    not (Path("/proc/sys/kernel/random/boot_id").exists() and Path("/proc/locks").exists()),
    reason="this system does not tell",
)
AN_HOUR = 3600.0
GONE = 2**22 + 1
LIVE = (Phase.RUNNING, Phase.STALLED)
Change = Callable[[dict[str, Any]], dict[str, Any]]


def set_clock(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "pid_started": fields["pid_started"] + AN_HOUR}


def as_before(fields: dict[str, Any]) -> dict[str, Any]:
    """By a version that recorded no birth, and before the clock was set."""
    return {name: value for name, value in set_clock(fields).items() if name != "pid_birth"}


def rewrite(path: Path, change: Change) -> None:
    """The first line, which names the process; in place, as the lock is the file's."""
    first, end, rest = path.read_text().partition("\n")
    text = json.dumps(change(json.loads(first))) + end + rest
    with path.open("r+") as file:
        file.write(text)
        file.truncate()


@pytest.fixture(params=[set_clock, as_before])
def change(request: pytest.FixtureRequest) -> Change:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[StandIn]:
    one = StandIn(SAVES, tmp_path / "run")
    yield one
    one.end()


def test_a_training_that_holds_its_lock_lives_and_is_found_and_stopped(
    tmp_path: Path, trainer: StandIn, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for name in (LOCK_NAME, LOG_NAME):
        rewrite(run / name, change)
    main(["status", str(run), "--json"])
    told = json.loads(capsys.readouterr().out)["data"]
    assert told["state"] in LIVE
    assert told["sessions"][0].keys() >= {"pid", "pid_started", "host"}
    with pytest.raises(CkptError, match="A training is running here already"):
        refuse_second(str(run))
    with pytest.raises(CkptError, match="A training is running here"), deed_lock.locked(str(run)):
        pass
    plan = plan_stop(str(run))
    assert [(target.pid, target.role) for target in plan.targets] == [(trainer.pid, "training")]
    assert {one.pid for one in plan.watched} == {trainer.pid}
    stopped = stop(str(run), 300, plan=plan)
    assert (stopped.has_ended, stopped.status) == (True, "preempted"), "it was waited for until it had saved"


def test_somebodys_loop_without_a_lock_gets_no_second_training(tmp_path: Path) -> None:
    loop = StandIn(DIES, tmp_path / "run")
    try:
        run = tmp_path / "run"
        rewrite(run / LOG_NAME, set_clock)
        assert read_run(str(run)).phase in LIVE
        with pytest.raises(CkptError, match=f"process {loop.pid} is training"):
            refuse_second(str(run))
        assert [target.pid for target in plan_stop(str(run)).targets] == [loop.pid]
    finally:
        loop.end()
    assert read_run(str(run)).phase is Phase.CRASHED
    refuse_second(str(run))


def test_one_in_a_container_that_has_our_name_is_neither_dead_nor_whoever_has_its_number_here(tmp_path: Path) -> None:
    loop = StandIn(DIES, tmp_path / "run")
    try:
        run = tmp_path / "run"
        boot, _, ticks = loop.identity.birth.split("/")
        rewrite(run / LOG_NAME, lambda fields: {**fields, "pid_birth": f"{boot}/4026539999-1/{ticks}"})
        assert read_run(str(run)).phase in LIVE
        with pytest.raises(CkptError, match=rf"process {loop.pid} in another container, events\.jsonl says so"):
            refuse_second(str(run))
        refuse_second(str(run), force=True)  # a person may know that it has ended
        plan = plan_stop(str(run))
        assert (plan.targets, plan.watched) == ((), ())
        assert "in another container" in plan.refusals[0]
        assert plan.hint.endswith("inside that container")
    finally:
        loop.end()


@pytest.mark.parametrize("number_is_anothers", [False, True])
def test_one_that_was_started_from_here_is_known_by_its_record(tmp_path: Path, number_is_anothers: bool) -> None:
    it = ProcessIdentity.of()
    if number_is_anothers:  # and the clock says that it is this one
        it = replace(it, birth=f"{it.birth.rpartition('/')[0]}/1")
    else:
        it = replace(it, pid_started=it.pid_started - AN_HOUR)
    (tmp_path / "launch.json").write_text(json.dumps({**it.fields(), "log": "x", "command": []}))
    owner = owner_of(str(tmp_path))
    assert (owner.pid if owner is not None else None) == (None if number_is_anothers else os.getpid())


def test_a_supervisor_and_its_training_are_known_by_their_record(tmp_path: Path) -> None:
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    both = [subprocess.Popen(waits, stdin=subprocess.PIPE) for _ in range(2)]
    told = [ProcessIdentity.of(one.pid) for one in both]
    told = [replace(one, pid_started=one.pid_started + AN_HOUR) for one in told]
    write_record(str(tmp_path), {**told[0].fields(), **told[1].fields("child_"), "state": "running"})
    supervisor = live_supervisor(str(tmp_path))
    assert supervisor is not None
    assert (supervisor.is_alive, supervisor.child) == (True, told[1])
    assert [owner.pid for owner in owners_of(str(tmp_path))] == [told[0].pid]
    assert {one.pid for one in plan_stop(str(tmp_path)).watched} == {one.pid for one in both}
    for one in both:
        one.communicate()


def test_who_was_asked_to_stop_is_not_asked_again(tmp_path: Path) -> None:
    me = ProcessIdentity.of()
    note_asked(str(tmp_path), me, is_sent=True)
    assert asked(str(tmp_path), replace(me, pid_started=me.pid_started + AN_HOUR)) is not None
    assert asked(str(tmp_path), replace(me, birth=f"{me.birth}0")) is None, "a later process with its number"


# -- a lock that is held ----------------------------------------------------------------------------------------------

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[int]:
    """By another process; gives its number."""
    path.touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            yield holder.pid
        finally:
            holder.kill()


def gone(**told: object) -> dict[str, object]:
    """A process that the kernel knows to be dead."""
    me = ProcessIdentity.of()
    return {**replace(me, pid=GONE, birth=f"{me.birth.rpartition('/')[0]}/77").fields(), **told}


def log_of(directory: Path, process: dict[str, object], at: float = 1000.0) -> None:
    log = LogText(at)
    log.add("run_start", **process)
    log.add("step", 1, ts=at + 1.0, loss=2.0)
    directory.mkdir(exist_ok=True)
    (directory / LOG_NAME).write_bytes(log.text)


@pytest.mark.parametrize("of_log", ["exact", "old", "other boot", "elsewhere", "container", "nobody"])
@pytest.mark.parametrize("of_lock", ["same", "empty", "garbage", "nobody", "holder", "holder, old", "elsewhere"])
def test_a_run_whose_lock_is_held_is_never_called_crashed(tmp_path: Path, of_log: str, of_lock: str) -> None:
    me = ProcessIdentity.of()
    boot, spaces, ticks = me.birth.split("/")
    process = {
        "exact": gone(), "old": gone(pid_birth=""), "other boot": gone(pid_birth=f"{'0' * 36}/{spaces}/{ticks}"),
        "elsewhere": gone(host="node3", pid_birth=f"{'1' * 36}/{spaces}/{ticks}"),
        "container": gone(pid_birth=f"{boot}/4026539999-1/{ticks}"), "nobody": {},
    }[of_log]  # fmt: skip
    run = tmp_path / "run"
    log_of(run, process)
    path = run / LOCK_NAME
    with held(path) as pid:
        holder = ProcessIdentity.of(pid).fields()
        content = {
            "same": json.dumps(process), "empty": "", "garbage": "[" * 9999, "nobody": json.dumps(gone(pid=GONE + 1)),
            "holder": json.dumps(set_clock(holder)), "holder, old": json.dumps(as_before(holder)),
            "elsewhere": json.dumps({"pid": 9, "pid_started": 1.0, "host": "node7"}),
        }[of_lock]  # fmt: skip
        path.write_text(content)
        state = read_run(str(run))
        # The session before has ended where another process holds the lock: that is the next one.
        is_next = of_lock in ("holder", "holder, old", "elsewhere") and of_log in ("exact", "old", "other boot")
        assert state.phase in ((Phase.STARTING,) if is_next else LIVE), state.reason
        if of_lock.startswith("holder"):
            with pytest.raises(CkptError, match=f"process {pid} is training"):
                refuse_second(str(run), force=True)
    assert read_run(str(run)).phase is Phase.CRASHED


@pytest.mark.parametrize("of_lock", ["same", "another", "none"])
def test_a_trainer_in_a_container_has_ended_when_it_let_its_lock_go(tmp_path: Path, of_lock: str) -> None:
    """Its process cannot be seen, and it spoke just now: without the lock nobody could tell."""
    boot, _, ticks = ProcessIdentity.of().birth.split("/")
    there = gone(pid_birth=f"{boot}/4026539999-1/{ticks}")
    run = tmp_path / "run"
    log_of(run, there, at=time.time())
    assert read_run(str(run)).phase in LIVE
    if of_lock != "none":
        with held(run / LOCK_NAME):
            content = there if of_lock == "same" else {**there, "pid_birth": f"{boot}/4026539999-1/{ticks}0"}
            (run / LOCK_NAME).write_text(json.dumps(content))
            assert read_run(str(run)).phase in LIVE
    assert (read_run(str(run)).phase is Phase.CRASHED) is (of_lock == "same")


def test_an_act_that_holds_the_lock_of_a_crashed_run_gives_it_no_life(tmp_path: Path) -> None:
    run = tmp_path / "run"
    log_of(run, gone())
    (run / LOCK_NAME).write_text(json.dumps(gone()))
    with deed_lock.locked(str(run)):
        assert read_run(str(run)).phase is Phase.CRASHED
    with held(run / LOCK_NAME):
        assert read_run(str(run)).phase in LIVE


def test_who_is_known_to_be_dead_is_asked_for_without_a_touch_of_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crashed run is watched, and started again: who looks must not hold what the start takes."""
    log_of(tmp_path, gone())
    (tmp_path / LOCK_NAME).write_text(json.dumps(gone()))

    def flock(descriptor: int, how: int) -> None:
        raise AssertionError("the lock was touched")

    monkeypatch.setattr("fcntl.flock", flock)
    assert read_run(str(tmp_path)).phase is Phase.CRASHED


def test_a_session_that_has_told_nothing_yet_is_starting_and_then_stalled(tmp_path: Path) -> None:
    run = tmp_path / "run"
    log_of(run, gone())
    with held(run / LOCK_NAME) as pid:
        (run / LOCK_NAME).write_text(json.dumps(ProcessIdentity.of(pid).fields()))
        state = run_state(str(run))
        assert state is not None
        assert state.phase is Phase.STARTING
        assert state.next_start is not None
        assert (state.next_start.pid, state.next_start.holds_lock) == (pid, True)
        os.utime(run / LOCK_NAME, (1002.0, 1002.0))
        state = read_run(str(run))
        assert (state.phase, f"process {pid} was started" in state.reason) == (Phase.STALLED, True)
        # Whatever the clock said when the session before spoke last.
        os.utime(run / LOCK_NAME, (5.0, 5.0))
        assert read_run(str(run)).phase is Phase.STALLED


def test_a_held_lock_of_another_machine_with_our_name_is_a_training(
    tmp_path: Path, trainer: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes that were made of one image: /proc/locks tells nothing of what the other one holds."""

    def elsewhere(fields: dict[str, Any]) -> dict[str, Any]:
        birth = str(fields["pid_birth"]).partition("/")[2]
        return {**fields, "pid": GONE, "pid_birth": f"00000000-0000-4000-8000-000000000000/{birth}"}

    run = tmp_path / "run"
    rewrite(run / LOG_NAME, elsewhere)
    rewrite(run / LOCK_NAME, elsewhere)
    monkeypatch.setattr(system, "_locks", list)
    assert read_run(str(run)).phase in LIVE
    trainer.end()
    assert read_run(str(run)).phase is Phase.CRASHED
