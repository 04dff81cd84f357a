"""Keeps a training alive: starts it, waits for its end, and does what the rules say (`services/supervision.py`).

The supervisor may be killed at any moment: the training goes on, and the next supervisor of the directory takes it over
by its pid and start time, with the counts of the one before. `supervisor.json` says at each change how things stand.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

from ckpt_tui import text
from ckpt_tui.errors import Cancelled, CkptError, from_os_error
from ckpt_tui.events.schema import LOG_NAME, Supervised
from ckpt_tui.events.writer import EventWriter, process_started
from ckpt_tui.records import dataclass
from ckpt_tui.services import command_line, files, journal, supervised_process
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME, read_record
from ckpt_tui.services.memory_kills import Counted, counted, memory_words
from ckpt_tui.services.owner import Owner, owners_of, run_state
from ckpt_tui.services.processes import send
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.services.session_follower import SessionFollower
from ckpt_tui.services.stall_watch import StallWatch, evidence, work_of
from ckpt_tui.services.supervised_process import OutputTail, Training
from ckpt_tui.services.supervised_start import find_point, resuming
from ckpt_tui.services.supervision import (
    MAX_LAST_LINES,
    Action,
    Decision,
    Ended,
    Point,
    Policy,
    decide,
    exit_words,
    nothing_to_resume,
    standing_of,
    start_words,
    try_later,
)
from ckpt_tui.services.supervisor_record import LOCK_NAME, SupervisorState, read_fields, write_record
from ckpt_tui.services.supervisor_signals import Signals
from ckpt_tui.services.system import process_is_alive

LOOK_S = 2.0  # between two looks at the log
SHOW_S = 0.25  # between two looks at the output, where somebody reads it
STOP_PATIENCE_S = 600.0  # that what a stopped training has started gets to save
LEFT_OVER_S = 10.0  # that processes of a training that has ended get to end, too
MAX_WAITS = 300  # of LOOK_S each, for who changes names in the directory
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "ENOSPC")

_STATES = {
    Action.RESTART: SupervisorState.WAITING, Action.FINISHED: SupervisorState.FINISHED,
    Action.STOPPED: SupervisorState.STOPPED, Action.GIVE_UP: SupervisorState.GAVE_UP,
}  # fmt: skip
_EVENTS = {
    Action.RESTART: "restart", Action.FINISHED: "finished", Action.STOPPED: "stopped", Action.GIVE_UP: "gave_up",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What to keep alive, and how. command: the training's, as a person gave it. show_on: a descriptor that gets its
    output besides the file, -1 for none. watches_stall, stall_after_s: None for the run's own rhythm. grace_s: between
    SIGTERM and SIGKILL for one that has stalled."""

    directory: str
    command: tuple[str, ...]
    cwd: str
    policy: Policy
    show_on: int = -1
    watches_stall: bool = False
    stall_after_s: float | None = None
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it came to its end. told: in a sentence. ends: of each session, in the same words as when it was told."""

    state: SupervisorState
    told: str
    exit_code: int
    restarts: int
    step: int | None
    ends: tuple[str, ...]
    log: str


def supervise(request: Request, say: Callable[[str], None]) -> Outcome:
    """Keep the training of a directory alive until it finishes, is stopped, or is given up.

    say: gets each thing that a person should know, as one line. To be called in the main thread.
    Raises CkptError when the directory has a supervisor, or when there is nothing that could be started.
    """
    lock = _locked(request.directory)
    try:
        with _Supervising(request, say) as supervising:
            try:
                return supervising.run()
            except CkptError as error:
                if supervising.fields:  # what it said before holds no more
                    supervising.keep(SupervisorState.GAVE_UP, f"{error.title}: {error.message}")
                raise
    finally:
        os.close(lock)


def _locked(directory: str) -> int:
    """A descriptor that holds the directory's supervisor lock for as long as it is open."""
    path = os.path.join(directory, LOCK_NAME)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise from_os_error(error, path, "write to") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            fields = read_fields(directory)
            who = f"process {fields.get('pid')} on {text.safe_text(fields.get('host') or 'this host', 60)}"
            raise CkptError(
                "Supervised already",
                f"{who} supervises {directory}",
                "`ckpt-tui supervise DIR --status` tells how it stands, `ckpt-tui stop DIR` ends it and the training.",
            ) from error
        # A file system without locks: what the record says has to do.
        fields = read_fields(directory)
        pid, started, host = fields.get("pid"), fields.get("pid_started"), fields.get("host")
        if isinstance(pid, int) and isinstance(started, float) and process_is_alive(pid, started, str(host)):
            os.close(descriptor)
            raise CkptError(
                "Supervised already", f"process {pid} supervises {directory}", "Stop that one first."
            ) from None
    return descriptor


class _Supervising:
    """One supervisor at work."""

    def __init__(self, request: Request, say: Callable[[str], None]) -> None:
        self.request = request
        self._say_line = say
        self.directory = request.directory
        self.policy = request.policy
        self.signals = Signals(self._pass_on)
        self.training: Training | None = None
        self.tail: OutputTail | None = None
        self.ends: list[str] = []
        self.step: int | None = None
        self.log_name = ""
        self.mark = uuid.uuid4().hex
        self.is_first = True
        self._memory = Counted(None)
        self._started_at = time.time()
        self._could_not_write = ""
        before = read_fields(self.directory)
        # One that was killed at its work is gone on with; one that came to its end is not.
        self.before = before if _is_continued(before, request) else {}
        self.standing = standing_of(self.before.get("standing"))
        self.fields: dict[str, object] = {}

    def __enter__(self) -> _Supervising:
        self.signals.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.signals.__exit__()
        if self.training is not None:
            self.training.close()
        if self.tail is not None:
            self.tail.close()

    # What is told, and what is kept.

    def say(self, line: str) -> None:
        self._say_line(f"{time.strftime('%H:%M:%S')}  {line}")

    def keep(self, state: SupervisorState, told: str, **more: object) -> None:
        """Write the record. A disk that takes nothing must not end the supervisor: it is said once."""
        training = self.training
        self.fields = {
            "pid": os.getpid(), "pid_started": process_started(), "host": socket.gethostname(), "state": str(state),
            "since": time.time(), "started_at": self._started_at, "restarts": self.standing.restarts,
            "max_restarts": self.policy.max_restarts, "next_try_at": None, "told": told,
            "last_exit": self.fields.get("last_exit", ""), "last_exit_at": self.fields.get("last_exit_at"),
            "child_pid": training.pid if training else 0,
            "child_pid_started": training.pid_started if training else 0.0,
            "session": self.fields.get("session", 0), "command": list(self.request.command), "cwd": self.request.cwd,
            "log": self.log_name, "restarts_by": self.policy.restarts_by, "mark": self.mark,
            "standing": asdict(self.standing), **more,
        }  # fmt: skip
        try:
            write_record(self.directory, self.fields)
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._could_not_write:
                self.say(f"supervisor.json cannot be written: {reason}")
            self._could_not_write = reason
        else:
            self._could_not_write = ""

    def note(self, decision: Decision, ended: Ended | None, point: Point) -> None:
        """To the run's log, now that nobody trains. A run without one stays without."""
        if not os.path.exists(os.path.join(self.directory, LOG_NAME)) or self._owner(reads_log=False):
            return
        writer = EventWriter(self.directory)
        writer.session = max(writer.session - 1, 1)  # of the session that has ended: no new one begins with this
        is_restart = decision.action is Action.RESTART
        try:
            writer.emit(
                Supervised(
                    step=self.step or 0, action=_EVENTS[decision.action], told=decision.told,
                    restarts=self.standing.restarts, pause_seconds=decision.pause_s if is_restart else None,
                    checkpoint=point.name if is_restart else "",
                    exit_code=ended.exit_code if ended is not None else None,
                )
            )  # fmt: skip
        finally:
            writer.close()

    def _pass_on(self, number: int) -> None:
        if self.training is not None:
            self.training.send(number)

    # The course of things.

    def run(self) -> Outcome:
        decision = self._begin()
        while decision.action is Action.RESTART:
            if not self._pause(decision.pause_s):
                decision = Decision(Action.STOPPED, f"stopped by {self.signals.first} while nothing ran",
                                    exit_code=128 + self.signals.asked[0])  # fmt: skip
                self._conclude(decision, None, Point())
                break
            decision = self._one_session()
        return Outcome(
            _STATES[decision.action], decision.told, decision.exit_code, self.standing.restarts, self.step,
            tuple(self.ends), os.path.join(self.directory, self.log_name) if self.log_name else "",
        )  # fmt: skip

    def _begin(self) -> Decision:
        """Take over what runs, judge what ended while nobody looked, or start at once."""
        owner = self._owner()
        if owner is not None:
            return self._take_over(owner)
        if self.before.get("state") in (SupervisorState.RUNNING, SupervisorState.STOPPING) and self.before.get(
            "child_pid"
        ):
            self.log_name = os.path.basename(str(self.before.get("log") or ""))
            decision = self._judge(self._unseen_end())
            return replace(decision, pause_s=0.0)  # who starts us now does not want to wait
        next_try_at = self.before.get("next_try_at")
        pause_s = 0.0
        if isinstance(next_try_at, float):
            pause_s = min(max(next_try_at - time.time(), 0.0), self.policy.max_pause_s)
            self.say(f"goes on after {text.plural(self.standing.restarts, 'restart')}")
        return Decision(Action.RESTART, "", pause_s=pause_s)

    def _pause(self, seconds: float) -> bool:
        """Wait; False when a person asked to stop."""
        deadline = time.monotonic() + seconds
        while not self.signals.asked and (left := deadline - time.monotonic()) > 0:
            self.signals.wait(left)
        return not self.signals.asked

    def _one_session(self) -> Decision:
        """Start the training, unless one runs already, and stay until its end."""
        owner = self._owner()
        if owner is not None:
            return self._take_over(owner)
        try:
            point = self._point()
        except Cancelled:
            return self._stopped_before()
        if not point.name and not point.is_untrained:
            if self.is_first and not self.standing.restarts:
                raise CkptError(
                    "Nothing to resume from",
                    f"{self.directory}: {point.why_none}",
                    "It is not started over from step 0 over a training that is there: `ckpt-tui list DIR`, "
                    "`ckpt-tui salvage`, or another directory.",
                )
            return self._conclude(nothing_to_resume(point), None, point)
        if point.is_full:
            return self._try_later(point)
        try:
            self._start(point)
        except OSError as error:
            if error.errno in NO_ROOM:
                return self._try_later(replace(point, free_bytes=0))
            told = f"cannot start {text.safe_text(self.request.command[0], 200)}: {error.strerror or error}"
            if self.is_first:
                raise CkptError("Cannot start", told, "Is the program still there?") from error
            return self._conclude(Decision(Action.GIVE_UP, told, exit_code=1), None, point)
        self.is_first = False
        return self._judge(self._look_after())

    def _point(self, *, needs_room_for_save: bool = False) -> Point:
        """Raises Cancelled when a person asks to stop meanwhile."""
        for num_waits in range(MAX_WAITS):
            try:
                journal.recover(self.directory, lambda deed: log_restored(self.directory, deed))
                break
            except CkptError as error:  # somebody restores or rolls back in this pause
                if num_waits == MAX_WAITS - 1:
                    raise
                if not num_waits:
                    self.say(f"waits: {error.title}: {error.message}")
                if not self._pause(LOOK_S):
                    raise Cancelled from error
        return find_point(
            self.directory, needs_room_for_save=needs_room_for_save, is_cancelled=lambda: bool(self.signals.asked)
        )

    def _try_later(self, point: Point) -> Decision:
        self.standing, decision = try_later(self.policy, self.standing, point, time.time())
        return self._conclude(decision, None, point)

    def _stopped_before(self) -> Decision:
        decision = Decision(Action.STOPPED, f"stopped by {self.signals.first} before it was started",
                            exit_code=128 + self.signals.asked[0])  # fmt: skip
        return self._conclude(decision, None, Point())

    def _start(self, point: Point) -> None:
        number = self._session_number()
        self.log_name = f"session_{number}.log"
        path = os.path.join(self.directory, self.log_name)
        command = resuming(
            self.request.command, self.directory, cwd=self.request.cwd,
            is_first=self.is_first and not self.standing.restarts,
        )  # fmt: skip
        self.follower = SessionFollower(self.directory)
        self.tail = OutputTail(path, self.request.show_on)
        self._memory = counted()
        self.standing = self.standing.begun_from(point)
        where = start_words(point)

        def record(pid: int, pid_started: float) -> None:
            # Both durable before it runs. The mark is known before: what has it is found whatever happened here.
            self.fields["session"] = number
            self.keep(
                SupervisorState.RUNNING, f"process {pid} trains {where}", child_pid=pid, child_pid_started=pid_started
            )
            if self._could_not_write:
                raise OSError(errno.ENOSPC, self._could_not_write)
            self._write_launch(pid, pid_started, number, command, point)

        self.training = supervised_process.start(
            command, cwd=self.request.cwd, log_path=path, mark=self.mark, environment=_environment(), record=record
        )
        self.say(f"started, process {self.training.pid}, {where}; output in {self.log_name}")
        if self.signals.asked:  # while it was being started
            self._pass_on(self.signals.asked[0])

    def _write_launch(self, pid: int, pid_started: float, session: int, command: Sequence[str], point: Point) -> None:
        fields = {
            "pid": pid, "pid_started": pid_started, "host": socket.gethostname(), "command": list(command),
            "cwd": self.request.cwd, "log": self.log_name, "session": session, "ts": time.time(),
            "checkpoint": point.name, "step": point.step, "by": "supervise",
        }  # fmt: skip
        files.write_file(os.path.join(self.directory, LAUNCH_FILE_NAME), json.dumps(fields, indent=1).encode() + b"\n")

    def _session_number(self) -> int:
        if os.path.exists(os.path.join(self.directory, LOG_NAME)):
            return SessionFollower(self.directory, ()).session + 1
        there = [
            name[8:-4] for name in os.listdir(self.directory) if name.startswith("session_") and name.endswith(".log")
        ]
        return max((int(number) for number in there if number.isdigit() and len(number) < 9), default=0) + 1

    # A training that runs.

    def _owner(self, *, reads_log: bool = True) -> Owner | None:
        """Who trains here. reads_log: also one that only its log tells of, which takes reading all of that."""
        owners = [owner for owner in owners_of(self.directory) if not owner.is_supervisor]
        if not owners and reads_log:
            owners = [
                owner for owner in owners_of(self.directory, run_state(self.directory)) if not owner.is_supervisor
            ]
        return owners[0] if owners else None

    def _take_over(self, owner: Owner) -> Decision:
        """Look after a training that runs already."""
        if owner.pid <= 0 or process_is_alive(owner.pid, owner.pid_started, owner.host) is not True:
            is_here = not owner.host or owner.host == socket.gethostname()
            where = "elsewhere" if is_here else f"on {text.safe_text(owner.host, 60)}"
            raise CkptError(
                "A training runs here that cannot be looked after",
                f"{owner.told_by} of {self.directory} says that it runs {where}",
                "Run supervise on that host, or stop it there first.",
            )
        pid, pid_started = owner.pid, owner.pid_started
        child_pid, child_started = self.before.get("child_pid"), self.before.get("child_pid_started")
        self.mark = str(self.before.get("mark") or self.mark)
        if isinstance(child_pid, int) and isinstance(child_started, float) and child_pid > 0 and (
            process_is_alive(child_pid, child_started, "")
        ):  # fmt: skip
            pid, pid_started = child_pid, child_started  # the torchrun, or the shell, that it runs under
        self.training = Training(pid, pid_started, is_child=False, mark=self.mark)
        self.follower = SessionFollower(self.directory, {owner.pid, pid})
        self.step = self.follower.step
        launched = _launched_log(self.directory)
        self.log_name = launched or os.path.basename(str(self.before.get("log") or ""))
        self.tail = OutputTail(os.path.join(self.directory, self.log_name or "session.log"), self.request.show_on)
        self.tail.begin = 0
        self._memory = counted(pid)
        self.is_first = False
        if self.standing.durable_step is None:
            newest = (
                max((save.step for save in state.saves), default=-1) if (state := run_state(self.directory)) else -1
            )
            self.standing = replace(self.standing, durable_step=newest)
        self.fields["session"] = self.follower.session
        told = f"took over process {pid}, which trains here already ({owner.told_by} says so)"
        self.keep(SupervisorState.RUNNING, told)
        self.say(told)
        return self._judge(self._look_after())

    def _look_after(self) -> Ended:
        """Until the training has ended, with all that came of it."""
        training, tail = self.training, self.tail
        assert training is not None
        assert tail is not None
        stall = StallWatch(self.request.stall_after_s, time.monotonic()) if self.request.watches_stall else None
        silent_s: float | None = None
        num_told = 0
        shows = self.request.show_on >= 0
        look_at, has_output = 0.0, False
        while True:
            self.signals.wait(SHOW_S if shows or training.handle < 0 else LOOK_S, training.handle)
            has_output |= tail.pump()
            if len(self.signals.asked) > num_told:
                num_told = self._told_to_stop(num_told)
            if training.poll():
                break
            now = time.monotonic()
            if now < look_at:
                continue
            look_at = now + LOOK_S
            has_news = self.follower.poll()
            self.step = self.follower.step if self.follower.step is not None else self.step
            if stall is not None and not self.signals.asked:
                members = training.members()
                silent_s = stall.look(
                    now, has_sign=has_news or has_output, work=work_of(members), rhythm=self.follower.rhythm
                )
                has_output = False
                if silent_s is not None:
                    self._end_stalled(training, silent_s)
                    break
        exit_code = self._wait_for_the_rest(training, tail)
        tail.pump()
        self.follower.poll()
        self.step = self.follower.step if self.follower.step is not None else self.step
        last_lines = tail.last_lines(MAX_LAST_LINES)
        memory = memory_words(exit_code, self._memory, counted(), (training.pid,), "\n".join(last_lines))
        training.close()
        tail.close()
        self.training = None
        return Ended(
            at=time.time(), exit_code=exit_code, status=self.follower.status, reason=self.follower.reason,
            step=self.step, asked=self.signals.first, silent_s=silent_s, memory=memory, last_lines=last_lines,
            is_own=command_line.is_own_trainer(self.request.command),
        )  # fmt: skip

    def _told_to_stop(self, num_told: int) -> int:
        for number in self.signals.asked[num_told:]:
            again = "again " if num_told else ""
            self.say(f"{number.name} passed on {again}to the training: it saves and ends")
            num_told += 1
        self.keep(SupervisorState.STOPPING, f"{self.signals.first} was passed on: the training saves and ends")
        return num_told

    def _end_stalled(self, training: Training, silent_s: float) -> None:
        """Write down where it stands, ask it to save and end, and end it."""
        members = training.members()
        self.say(
            f"silent for {text.duration(silent_s)}: it has stalled, and gets SIGTERM, after"
            f" {text.duration(self.request.grace_s)} SIGKILL"
        )
        self._append(
            [f"supervise: silent for {text.duration(silent_s)}, ended. Where its processes were:", *evidence(members)]
        )
        training.send(signal.SIGTERM)
        deadline = time.monotonic() + self.request.grace_s
        while not (training.poll() and not training.members()) and (left := deadline - time.monotonic()) > 0:
            self.signals.wait(min(left, SHOW_S), training.handle if not training.has_ended else -1)
        supervised_process.end_all(training.members(), 0.0, lambda pid: pid in training.members())
        while not training.poll():
            self.signals.wait(SHOW_S, training.handle)

    def _append(self, lines: Sequence[str]) -> None:
        """To the file with the training's output, whose lines come from several processes anyway."""
        try:
            with open(os.path.join(self.directory, self.log_name), "a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        except OSError as error:
            self.say(f"{self.log_name} cannot be written: {error.strerror}")

    def _wait_for_the_rest(self, training: Training, tail: OutputTail) -> int | None:
        """The exit code, once nothing of it is left. Where the process that was started has ended before the training
        itself, which it only started, nobody can know the exit code: None."""
        exit_code = training.exit_code
        owner = self._goes_on()
        if owner is not None:
            self.say(f"process {training.pid} has ended, and process {owner.pid}, which trains here, goes on")
        num_told = len(self.signals.asked)
        while owner is not None:
            exit_code = None
            self.signals.wait(SHOW_S)
            tail.pump()
            if len(self.signals.asked) > num_told:
                num_told = self._told_to_stop(num_told)
                send(owner.pid, owner.pid_started, self.signals.asked[-1])
            self.follower.poll()
            owner = self._goes_on()
        left = training.members()
        if not left:
            return exit_code
        members = text.plural(len(left), "process", "processes")
        if self.signals.asked:
            self._wait_for_members(training)  # a shell ends at once, and what it started saves
        elif exit_code == 0:
            self.say(f"{members} that it started go on: {', '.join(map(str, left[:8]))}")
        else:
            # What hangs on may hold the GPU's memory, which the next start needs.
            killed = supervised_process.end_all(left, LEFT_OVER_S, lambda pid: pid in training.members())
            how = f", {len(killed)} of them by SIGKILL" if killed else ""
            self.say(f"ended {members} that it left behind{how}")
        return exit_code

    def _goes_on(self) -> Owner | None:
        """A training that outlives the process that was started: a shell that put it in the background, a torchrun
        that was killed."""
        owner = self._owner(reads_log=False)
        said = self.follower.pid, self.follower.pid_started
        if owner is None and said[0] > 0 and not self.follower.status and process_is_alive(*said, self.follower.host):
            return Owner(*said, self.follower.host, LOG_NAME)
        return owner

    def _wait_for_members(self, training: Training) -> None:
        deadline = time.monotonic() + STOP_PATIENCE_S
        while (left := training.members()) and time.monotonic() < deadline:
            self.signals.wait(SHOW_S)  # another signal is passed on by itself
        if left:
            self.say(f"still there, and left alone: {', '.join(map(str, left[:8]))}")

    # What came of it.

    def _unseen_end(self) -> Ended:
        """Of a training that ended while there was no supervisor."""
        follower = SessionFollower(self.directory, ())
        session = self.before.get("session")
        is_of_it = isinstance(session, int) and follower.session >= session and follower.is_started
        last = SessionFollower(self.directory, {follower.pid} if is_of_it else ())
        self.step = last.step if is_of_it else None
        was_stopping = self.before.get("state") == SupervisorState.STOPPING
        tail = OutputTail(os.path.join(self.directory, self.log_name), -1)
        tail.begin = 0
        return Ended(
            at=time.time(), status=last.status if is_of_it else "", reason=last.reason if is_of_it else "",
            step=self.step, asked="a signal before" if was_stopping else "", last_lines=tail.last_lines(MAX_LAST_LINES),
        )  # fmt: skip

    def _judge(self, ended: Ended) -> Decision:
        """What the rules say of an end."""
        told = "\n".join((*ended.last_lines, ended.reason))
        try:
            point = self._point(needs_room_for_save=any(phrase in told for phrase in _NO_SPACE))
        except Cancelled:  # asked to stop since
            ended, point = replace(ended, asked=ended.asked or self.signals.first), Point()
        self.standing, decision = decide(self.policy, self.standing, ended, point)
        return self._conclude(decision, ended, point)

    def _conclude(self, decision: Decision, ended: Ended | None, point: Point) -> Decision:
        """Write and say what was decided."""
        self.ends.append(decision.told)
        self.note(decision, ended, point)
        more: dict[str, object] = {}
        if ended is not None:
            more = {"last_exit": exit_words(ended.exit_code), "last_exit_at": ended.at}
        if decision.action is Action.RESTART:
            more["next_try_at"] = time.time() + decision.pause_s
        self.keep(_STATES[decision.action], decision.told, **more)
        self.say(f"{'gives up: ' if decision.action is Action.GIVE_UP else ''}{decision.told}")
        return decision


def _is_continued(before: Mapping[str, object], request: Request) -> bool:
    if before.get("command") != list(request.command):
        return False
    return before.get("state") in (SupervisorState.RUNNING, SupervisorState.WAITING, SupervisorState.STOPPING)


def _environment() -> dict[str, str]:
    # Into a file Python writes in blocks: the last lines before a crash, which are those that count, would be lost.
    return {"PYTHONUNBUFFERED": "1", **os.environ}


def _launched_log(directory: str) -> str:
    record = read_record(directory)
    return record.log if record is not None else ""
