"""Keeps a training alive: starts it, waits for its end, and does what the rules say (`services/supervision.py`).

The supervisor may be killed at any moment: the training goes on, and the next supervisor of the directory takes it over
by its pid and start time, with the counts of the one before. `supervisor.json` says at each change how things stand.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import field, replace

from ckpt_tui import text
from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.services import command_line, journal, supervised_process, taking_over
from ckpt_tui.services.child_environment import training_environment
from ckpt_tui.services.copied_record import is_of_another
from ckpt_tui.services.output_tail import OutputTail
from ckpt_tui.services.owner import Owner, forced_words, read_monitor, unsure_words
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.services.session_follower import SessionFollower
from ckpt_tui.services.start_lock import starting
from ckpt_tui.services.supervised_process import Training
from ckpt_tui.services.supervised_session import LOOK_S, Care, Session
from ckpt_tui.services.supervised_start import Start, find_point, resuming
from ckpt_tui.services.supervision import (
    Action,
    Decision,
    Ended,
    Point,
    Policy,
    decide,
    nothing_to_resume,
    standing_of,
    start_words,
    try_later,
)
from ckpt_tui.services.supervisor_book import Book
from ckpt_tui.services.supervisor_lock import locked
from ckpt_tui.services.supervisor_record import SupervisorState, read_fields
from ckpt_tui.services.supervisor_signals import Signals

MAX_WAITS = 300  # of LOOK_S each, for who changes names in the directory
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "ENOSPC")
_AT_WORK = (SupervisorState.RUNNING, SupervisorState.STOPPING)


@dataclass(frozen=True, slots=True)
class Request:
    """What to keep alive, and how. command: the training's, as a person gave it; as_is: it goes on from its newest
    checkpoint by itself. show_on: a descriptor that gets its output besides the file, -1 for none. watches_stall,
    stall_after_s: None for the run's own rhythm. grace_s: between SIGTERM and SIGKILL for one that has stalled.
    force: what may train on another host does not, as a person knows. settings: what of this a person said, to be
    remembered."""

    directory: str
    command: tuple[str, ...]
    cwd: str
    policy: Policy
    as_is: bool = False
    show_on: int = -1
    watches_stall: bool = False
    stall_after_s: float | None = None
    grace_s: float = 60.0
    force: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)


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


def supervise(
    request: Request, say: Callable[[str], None], on_change: Callable[[Mapping[str, object]], None] | None = None
) -> Outcome:
    """Keep the training of a directory alive until it finishes, is stopped, or is given up.

    say: gets each thing that a person should know, as one line. on_change: gets the record at each change. To be called
    in the main thread.
    Raises CkptError when the directory has a supervisor, or when there is nothing that could be started.
    """
    lock = locked(request.directory)
    try:
        with _Supervising(request, say, on_change) as supervising:
            try:
                return supervising.run()
            except CkptError as error:
                if supervising.book.fields:  # what it said before holds no more
                    supervising.keep(SupervisorState.GAVE_UP, f"{error.title}: {error.message}")
                raise
    finally:
        os.close(lock)


class _Supervising:
    """One supervisor at work."""

    def __init__(
        self,
        request: Request,
        say: Callable[[str], None],
        on_change: Callable[[Mapping[str, object]], None] | None,
    ) -> None:
        self.request = request
        self._say_line = say
        self.directory = request.directory
        self.signals = Signals(self._pass_on)
        self.training: Training | None = None
        self.asked_training: Training | None = None  # the one that a signal was passed on to last
        self.ends: list[str] = []
        self.step: int | None = None
        self.log_name = ""
        self.mark = uuid.uuid4().hex
        self.is_first = True
        self.waits_for = ""
        self.is_empty_told = False
        before = read_fields(self.directory)
        # One that was killed at its work is gone on with; one that came to its end is not.
        self.before = before if _is_continued(before, request) else {}
        if is_of_another(self.directory, before.get("directory"), 0):
            self.before = {}  # what runs with its mark is of the directory that this is a copy of
        self.standing = standing_of(self.before.get("standing"))
        # Whoever else is seen later counts: what a person knows is of now.
        self.ruled_out: tuple[Owner, ...] = ()
        fixed: dict[str, object] = {
            "max_restarts": request.policy.max_restarts, "command": list(request.command), "cwd": request.cwd,
            "restarts_by": request.policy.restarts_by, "settings": dict(request.settings),
        }  # fmt: skip
        self.book = Book(self.directory, fixed, self.say, on_change)

    def __enter__(self) -> _Supervising:
        self.signals.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.signals.__exit__()
        if self.training is not None:
            self.training.close()

    def say(self, line: str) -> None:
        self._say_line(f"{time.strftime('%H:%M:%S')}  {line}")

    def keep(self, state: SupervisorState, told: str, **more: object) -> None:
        training = self.training
        child = training.process.fields("child_") if training is not None else {}
        self.book.keep(state, told, self.standing, **{"log": self.log_name, "mark": self.mark, **child, **more})

    def _pass_on(self, number: int) -> None:
        if self.training is not None:
            self.asked_training = self.training
            self.training.send(number)

    def _pass_on_what_came_before(self) -> None:
        """What was asked while there was no training that could be told, or not yet this one."""
        if self.signals.asked and self.asked_training is not self.training:
            self._pass_on(self.signals.asked[0])

    # The course of things.

    def run(self) -> Outcome:
        decision = self._begin()
        while decision.action is Action.RESTART:
            decision = self._one_session() if self._pause(decision.pause_s) else self._stopped_between()
        states = {
            Action.FINISHED: SupervisorState.FINISHED, Action.STOPPED: SupervisorState.STOPPED,
            Action.GIVE_UP: SupervisorState.GAVE_UP,
        }  # fmt: skip
        return Outcome(
            states[decision.action], decision.told, decision.exit_code, self.standing.restarts, self.step,
            tuple(self.ends), os.path.join(self.directory, self.log_name) if self.log_name else "",
        )  # fmt: skip

    def _begin(self) -> Decision:
        """Take over what runs, judge what ended while nobody looked, or start at once."""
        self._rule_out()
        owner = self._who_trains()
        if owner is not None:
            return self._take_over(owner)
        if self.before.get("state") in _AT_WORK and self.before.get("child_pid"):
            self.log_name = os.path.basename(str(self.before.get("log") or ""))
            ended = taking_over.unseen_end(self.directory, self.before, self.log_name)
            self.step = ended.step
            return replace(self._judge_of_before(ended), pause_s=0.0)  # who starts us now does not want to wait
        next_try_at = self.before.get("next_try_at")
        if not isinstance(next_try_at, float):
            return Decision(Action.RESTART, "")
        self.say(f"goes on after {text.plural(self.standing.restarts, 'restart')}")
        left_s = min(max(next_try_at - time.time(), 0.0), self.request.policy.max_pause_s)
        # Who asks meanwhile is told of this one, and not that the one before is gone.
        told = {name: self.before[name] for name in ("session", "last_exit", "last_exit_at") if name in self.before}
        self.log_name = os.path.basename(str(self.before.get("log") or ""))
        next_at = time.time() + left_s
        self.keep(SupervisorState.WAITING, str(self.before.get("told") or ""), **told, next_try_at=next_at)
        return Decision(Action.RESTART, "", pause_s=left_s)

    def _rule_out(self) -> None:
        """Whom --force is about. Raises CkptError without it where a supervisor elsewhere is to start a training."""
        if self.request.force:
            self.ruled_out = taking_over.unseen(self.directory)
            for owner in self.ruled_out:
                self.say(forced_words(owner))
        elif (other := taking_over.supervisor_elsewhere(self.directory)) is not None:
            raise CkptError("Supervised already", unsure_words(self.directory, other, "supervise"))

    def _who_trains(self) -> Owner | None:
        return taking_over.who_trains(self.directory, self.ruled_out)

    def _pause(self, seconds: float) -> bool:
        """Wait; False when a person asked to stop."""
        deadline = time.monotonic() + seconds
        while not self.signals.asked and (left := deadline - time.monotonic()) > 0:
            self.signals.wait(left)
        return not self.signals.asked

    def _stopped_between(self) -> Decision:
        told = f"stopped by {self.signals.first} while nothing ran"
        return self._conclude(Decision(Action.STOPPED, told, exit_code=128 + self.signals.asked[0]), None, Point())

    def _one_session(self) -> Decision:
        """Start the training, unless one runs already, and stay until its end."""
        owner = self._who_trains()
        if owner is not None:
            return self._take_over(owner)
        try:
            point = self._point()
        except Cancelled:
            return self._stopped_between()
        if not point.name and not point.is_untrained:
            if self._is_asked_for_now:
                raise CkptError(
                    "Nothing to resume from",
                    f"{self.directory}: {point.why_none}",
                    "It is not started over from step 0 over a training that is there: "
                    f"`ckpt-tui list {text.run_word(self.directory)}`, `ckpt-tui salvage`, or another directory.",
                )
            return self._conclude(nothing_to_resume(point), None, point)
        if point.is_full:
            return self._try_later(point)
        start = self._how_to_start(point)
        standing = self.standing
        try:
            # Looking for the checkpoint takes its time: whoever has begun here since was first.
            with starting(self.directory):
                owner = self._who_trains()
                if owner is None and (held := taking_over.held(self.directory)) is not None:
                    raise held
                session = self._start(start, point) if owner is None else None
        except OSError as error:
            self.standing = standing
            if error.errno in NO_ROOM:
                return self._try_later(replace(point, free_bytes=0))
            told = f"cannot start {text.safe_text(start.command[0], 200)}: {error.strerror or error}"
            if self._is_asked_for_now:
                raise CkptError("Cannot start", told, "Is the program still there?") from error
            return self._conclude(Decision(Action.GIVE_UP, told, exit_code=1), None, point)
        except CkptError as error:  # an act on the directory, or another start
            if self._is_asked_for_now:
                raise
            self.standing = standing
            self._say_why_it_waits(error)
            return Decision(Action.RESTART, "", pause_s=LOOK_S)
        if owner is not None or session is None:
            return self._one_session()
        self.is_first = False
        return self._judge(self._look_after(session))

    @property
    def _is_asked_for_now(self) -> bool:
        """Whether a person is waiting for this very start: what keeps it from being is an error, and no end."""
        return self.is_first and not self.standing.restarted_at

    def _point(self, *, needs_room_for_save: bool = False) -> Point:
        """Raises Cancelled when a person asks to stop meanwhile."""
        for num_waits in range(MAX_WAITS):
            try:
                journal.recover(self.directory, lambda deed: log_restored(self.directory, deed))
                break
            except CkptError as error:  # somebody restores or rolls back in this pause
                if num_waits == MAX_WAITS - 1:
                    raise
                self._say_why_it_waits(error)
                if not self._pause(LOOK_S):
                    raise Cancelled from error
        return find_point(
            self.directory, needs_room_for_save=needs_room_for_save, is_cancelled=lambda: bool(self.signals.asked)
        )

    def _say_why_it_waits(self, error: CkptError) -> None:
        words = f"waits: {error.title}: {error.message}"
        if words != self.waits_for:
            self.say(words)
        self.waits_for = words

    def _try_later(self, point: Point) -> Decision:
        self.standing, decision = try_later(self.request.policy, self.standing, point, time.time())
        return self._conclude(decision, None, point)

    def _how_to_start(self, point: Point) -> Start:
        request = self.request
        start = resuming(
            request.command, self.directory, cwd=request.cwd, point=point, is_first=self._is_asked_for_now,
            as_is=request.as_is,
        )  # fmt: skip
        if not start.is_known and point.name and self._is_asked_for_now:
            raise CkptError(
                "How it goes on is not known",
                f"{self.directory} holds {text.safe_text(point.name, 100)}, and nothing tells how"
                f" `{text.safe_text(command_line.quoted(request.command), 300)}` is told to go on from it",
                "Say --as-is if it does so by itself, or write {checkpoint} where the path of the checkpoint belongs.",
            )
        if not start.is_known and self._is_asked_for_now:
            self.say(
                "nothing tells how this command goes on from a checkpoint: after a crash it is started as it is, and"
                " ended if it begins anew (--as-is: it goes on by itself; {checkpoint}: the path belongs here)"
            )
        return start

    def _start(self, start: Start, point: Point) -> Session:
        number = taking_over.next_session(self.directory)
        self.log_name = f"session_{number}.log"
        path = os.path.join(self.directory, self.log_name)
        request = self.request
        follower = SessionFollower(self.directory)
        tail = OutputTail(path, request.show_on)
        self.standing = self.standing.begun_from(point)
        where = start_words(point)

        def record(process: ProcessIdentity) -> None:
            # Durable before it runs. The mark is on record, too: what has it is found whatever happens next.
            told = f"process {process.pid} trains {where}"
            self.keep(SupervisorState.RUNNING, told, session=number, **process.fields("child_"))
            try:
                if self.book.write_error is not None:
                    raise self.book.write_error
                self.book.write_launch(
                    process, session=number, command=start.command, cwd=request.cwd, log=self.log_name,
                    point=point,
                )  # fmt: skip
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise
                raise CkptError(
                    "Nothing was started",
                    f"what runs has to be on record in {self.directory}, which cannot be written: {error.strerror}",
                    "Make supervisor.json and launch.json there writable.",
                ) from error

        self.training = supervised_process.start(
            start.command,
            cwd=request.cwd,
            log_path=path,
            mark=self.mark,
            environment=training_environment(start.command),
            record=record,
        )
        self.say(f"started, process {self.training.pid}, {where}; output in {self.log_name}")
        self._pass_on_what_came_before()
        return self._session(self.training, follower, tail, None if start.is_known or not point.name else point)

    def _session(
        self, training: Training, follower: SessionFollower, tail: OutputTail, must_go_on_from: Point | None = None
    ) -> Session:
        request = self.request
        care = Care(
            watches_stall=request.watches_stall, stall_after_s=request.stall_after_s, grace_s=request.grace_s,
            shows=request.show_on >= 0, must_go_on_from=must_go_on_from,
            was_asked=bool(taking_over.asked_before(self.before)),
        )  # fmt: skip

        def on_stopping() -> None:
            self.keep(SupervisorState.STOPPING, f"{self.signals.first} was passed on: the training saves and ends")

        return Session(
            self.directory, training, follower, tail, self.signals, care, say=self.say, on_stopping=on_stopping
        )

    def _look_after(self, session: Session) -> Ended:
        ended = session.look_after()
        self.training = None
        if ended.step is None and not os.path.exists(os.path.join(self.directory, LOG_NAME)):
            monitor = read_monitor(self.directory)  # of another program, which is not followed
            ended = replace(ended, step=(monitor.state().step or None) if monitor is not None else None)
        self.step = ended.step if ended.step is not None else self.step
        return replace(ended, is_own=command_line.is_own_trainer(self.request.command))

    # A training that others started, or the supervisor before.

    def _take_over(self, owner: Owner) -> Decision:
        """Look after a training that runs already."""
        taken = taking_over.take_over(self.directory, owner, self.before, self.mark)
        if taken is None:  # it was dying when it was seen
            return self._begin() if self.is_first else self._one_session()
        self.training, self.mark, self.log_name = taken.training, taken.training.mark, taken.log_name
        tail = OutputTail(os.path.join(self.directory, self.log_name or "session.log"), self.request.show_on)
        tail.begin = 0
        self.is_first = False
        if self.standing.durable_step is None:
            self.standing = replace(self.standing, durable_step=taking_over.newest_saved_step(self.directory))
        asked = taking_over.asked_before(self.before)
        state = SupervisorState.STOPPING if asked else SupervisorState.RUNNING
        self.keep(state, taken.told, session=taken.follower.session)
        self.say(taken.told)
        self._pass_on_what_came_before()
        ended = self._look_after(self._session(self.training, taken.follower, tail))
        return self._judge_of_before(replace(ended, asked=ended.asked or asked))

    # What is done after an end.

    def _judge_of_before(self, ended: Ended) -> Decision:
        """Of a training that another supervisor started, or nobody: what that one was asked counts once."""
        self.before = {}
        decision = self._judge(ended)
        if decision.action is Action.STOPPED and not self.signals.asked:
            self.say("the same command again starts it")
        return decision

    def _judge(self, ended: Ended) -> Decision:
        """What the rules say of an end."""
        told = "\n".join((*ended.last_lines, ended.reason))
        try:
            point = self._point(needs_room_for_save=any(phrase in told for phrase in _NO_SPACE))
        except Cancelled:  # asked to stop since
            ended, point = replace(ended, asked=ended.asked or self.signals.first), Point()
        if ended.step is None and point.is_untrained and not point.name and not self.is_empty_told:
            self.is_empty_told = True
            self.say(f"nothing was logged or saved in {self.directory}: what trains elsewhere is not looked after")
        self.standing, decision = decide(self.request.policy, self.standing, ended, point)
        return self._conclude(decision, ended, point)

    def _conclude(self, decision: Decision, ended: Ended | None, point: Point) -> Decision:
        """Write down and say what was decided."""
        self.ends.append(decision.told)
        self.book.fields.update(log=self.log_name, mark=self.mark)
        self.book.decided(decision, self.standing, ended, point)
        self.say(f"{'gives up: ' if decision.action is Action.GIVE_UP else ''}{decision.told}")
        return decision


def _is_continued(before: Mapping[str, object], request: Request) -> bool:
    if before.get("command") != list(request.command):
        return False
    return before.get("state") in (*_AT_WORK, SupervisorState.WAITING)
