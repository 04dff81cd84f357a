"""One session of a supervised training: looked after from its start, or from when it was taken over, to its whole end.

What is waited for is not the process that was started but the training: a shell may end and leave it in the
background, a torchrun may be killed and leave its workers.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from ckpt_tui import text
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass
from ckpt_tui.services import supervised_process
from ckpt_tui.services.memory_kills import counted, memory_words
from ckpt_tui.services.output_tail import OutputTail
from ckpt_tui.services.owner import Owner, held_by_another, owners_of
from ckpt_tui.services.processes import send
from ckpt_tui.services.session_follower import SessionFollower
from ckpt_tui.services.stall_watch import StallWatch, Work, evidence, work_of
from ckpt_tui.services.supervised_process import Training
from ckpt_tui.services.supervision import MAX_LAST_LINES, Ended, Point
from ckpt_tui.services.supervisor_signals import Signals
from ckpt_tui.services.system import process_is_alive

LOOK_S = 2.0  # between two looks at the log
SHOW_S = 0.25  # between two looks at the output, where somebody reads it
STOP_PATIENCE_S = 600.0  # that what a stopped training has started gets to save
LEFT_OVER_S = 10.0  # that processes of a training that has ended get to end, too


@dataclass(frozen=True, slots=True)
class Care:
    """How a session is looked after. stall_after_s: None for the run's own rhythm. must_go_on_from: the checkpoint that
    it is to go on from although nobody knows whether it will; None where that is known. was_asked: it was asked to save
    and end before it was taken over."""

    watches_stall: bool = False
    stall_after_s: float | None = None
    grace_s: float = 60.0
    shows: bool = False
    must_go_on_from: Point | None = None
    was_asked: bool = False


class Session:
    """say: tells a person. on_stopping: called at each signal that was passed on."""

    def __init__(
        self,
        directory: str,
        training: Training,
        follower: SessionFollower,
        tail: OutputTail,
        signals: Signals,
        care: Care,
        *,
        say: Callable[[str], None],
        on_stopping: Callable[[], None],
    ) -> None:
        self.directory = directory
        self.training = training
        self.follower = follower
        self.tail = tail
        self.signals = signals
        self.care = care
        self.say = say
        self.on_stopping = on_stopping
        self._memory = counted(training.pid)
        self._num_told = 0
        self._silent_s: float | None = None
        self._anew = ""
        self._last_lines: tuple[str, ...] = ()

    def look_after(self) -> Ended:
        """Until the training has ended, with all that is known of that."""
        training, tail, care = self.training, self.tail, self.care
        stall = StallWatch(care.stall_after_s, time.monotonic()) if care.watches_stall else None
        look_at, has_output = 0.0, False
        look_every_s = LOOK_S if care.stall_after_s is None else min(LOOK_S, max(care.stall_after_s / 8, SHOW_S))
        while True:
            is_quick = care.shows or care.must_go_on_from is not None or training.handle < 0
            self.signals.wait(SHOW_S if is_quick else LOOK_S, training.handle)
            has_output |= tail.pump()
            self._tell_of_signals()
            if training.poll():
                break
            now = time.monotonic()
            if now < look_at:
                continue
            # How it begins has to be known before its first save.
            is_beginning = care.must_go_on_from is not None and self.follower.first_step is None
            look_at = now + (SHOW_S if is_beginning else look_every_s)
            has_news = self.follower.poll()
            if self._begins_anew():
                break
            if stall is not None and not self._is_asked:
                has_sign, has_output = has_news or has_output, False
                self._silent_s = stall.look(now, has_sign=has_sign, work=self._work, rhythm=self.follower.rhythm)
                if self._silent_s is not None:
                    self._end_stalled(self._silent_s)
                    break
        self._tell_of_signals()  # of those that came while it was told of others, too
        exit_code = self._wait_for_the_rest()
        tail.pump(is_last=True)
        self.follower.poll()
        # Of one that has stalled: what it said itself, before we wrote where its processes were.
        last_lines = self._last_lines or tail.last_lines(MAX_LAST_LINES)
        memory = memory_words(exit_code, self._memory, counted(), (training.pid,), "\n".join(last_lines))
        self.close()
        return Ended(
            at=time.time(), exit_code=exit_code, status=self.follower.status, reason=self.follower.reason,
            step=self.follower.step, asked=self.signals.first, silent_s=self._silent_s, memory=memory,
            last_lines=last_lines, anew=self._anew,
        )  # fmt: skip

    @property
    def _is_asked(self) -> bool:
        return self.care.was_asked or bool(self.signals.asked)

    def close(self) -> None:
        self.training.close()
        self.tail.close()

    def _work(self) -> Work:
        return work_of(self.training.members())

    def _tell_of_signals(self) -> bool:
        new = self.signals.asked[self._num_told :]
        for number in new:
            again = "again " if self._num_told else ""
            self.say(f"{number.name} passed on {again}to the training: it saves and ends")
            self._num_told += 1
        if new:
            self.on_stopping()
        return bool(new)

    def _begins_anew(self) -> bool:
        """Whether it has begun over from the beginning over a training that is there; then it is ended at once, before
        it saves over that."""
        point, first = self.care.must_go_on_from, self.follower.first_step
        if point is None or not point.step or first is None or first > point.step // 2:
            return False
        self._anew = (
            f"it began anew at step {first:,}, and did not go on from {text.safe_text(point.name, 100)}"
            f" (step {point.step:,})"
        )
        self.say(f"{self._anew}: ended before it saves over that")
        self._end_now()
        return True

    def _end_stalled(self, silent_s: float) -> None:
        """Write down where it stands, ask it to save and end, and end it."""
        words = f"silent for {text.duration(silent_s)}"
        self.say(f"{words}: it has stalled, and gets SIGTERM, after {text.duration(self.care.grace_s)} SIGKILL")
        members = self.training.members()
        self._last_lines = self.tail.last_lines(MAX_LAST_LINES)
        self._append([f"supervise: {words}, ended. Where its processes were:", *evidence(members)])
        self._end_now()

    def _end_now(self) -> None:
        training = self.training
        training.send(signal.SIGTERM)
        deadline = time.monotonic() + self.care.grace_s
        while not (training.poll() and not training.members()) and (left := deadline - time.monotonic()) > 0:
            self.signals.wait(min(left, SHOW_S), training.handle if not training.has_ended else -1)
        supervised_process.end_all(training.members(), 0.0, lambda pid: pid in training.members())
        while not training.poll():
            self.signals.wait(SHOW_S, training.handle)

    def _append(self, lines: Sequence[str]) -> None:
        """To the file with the training's output, whose lines come from several processes anyway."""
        try:
            with open(self.tail.path, "a", encoding="utf-8") as file:
                file.write("\n".join(lines) + "\n")
        except OSError as error:
            self.say(f"{os.path.basename(self.tail.path)} cannot be written: {error.strerror}")

    def _wait_for_the_rest(self) -> int | None:
        """The exit code, once nothing of it is left. Where the process that was started has ended before the training
        itself, which it only started, nobody can know the exit code: None."""
        training = self.training
        exit_code = training.exit_code
        owner = self._goes_on()
        if owner is not None:
            self.say(f"process {training.pid} has ended, and process {owner.pid}, which trains here, goes on")
        while owner is not None:
            exit_code = None
            self.signals.wait(SHOW_S)
            self.tail.pump()
            if self._tell_of_signals() and not training.mark:
                send(owner.process, self.signals.asked[-1])  # else it got it by the mark
            self.follower.poll()
            owner = self._goes_on()
        left = training.members()
        if not left:
            return exit_code
        members = text.plural(len(left), "process", "processes")
        if self._is_asked:
            self._wait_for_members()  # a shell ends at once, and what it started saves
        elif exit_code == 0:
            pids = ", ".join(map(str, left[:8]))
            self.say(f"{members} that it started {'goes' if len(left) == 1 else 'go'} on, not looked after: {pids}")
        else:
            # What hangs on may hold the GPU's memory, which the next start needs.
            killed = supervised_process.end_all(left, LEFT_OVER_S, lambda pid: pid in training.members())
            killed += supervised_process.end_all(training.members(), 0.0, lambda pid: True)  # what those have started
            how = f", {len(killed)} of them by SIGKILL" if killed else ""
            self.say(f"ended {members} that it left behind{how}")
        return exit_code

    def _goes_on(self) -> Owner | None:
        """A training that outlives the process that was started."""
        owner = next(
            (
                one
                for one in owners_of(self.directory)
                if not one.is_supervisor and not held_by_another(self.directory, one)
            ),
            None,
        )
        process = self.follower.process
        if owner is None and not self.follower.status and process_is_alive(process):
            return Owner(process, LOG_NAME)
        return owner

    def _wait_for_members(self) -> None:
        deadline = time.monotonic() + STOP_PATIENCE_S
        while (left := self.training.members()) and time.monotonic() < deadline:
            self.signals.wait(SHOW_S)  # another signal is passed on by itself
            self._tell_of_signals()
        if left:
            self.say(f"still there, and left alone: {', '.join(map(str, left[:8]))}")
