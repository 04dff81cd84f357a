"""Ask a training to save and end, wait for it, and tell what came of it: what was saved, or what was lost.

Ending the wait never takes the request back: a training that was asked goes on saving and ends, watched or not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import (
    LOG_NAME,
    CheckpointFailed,
    CheckpointSaved,
    ErrorRaised,
    Event,
    RunEnd,
    SignalReceived,
)
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.services import slurm
from ckpt_tui.services.owner import Owner, owner_of
from ckpt_tui.services.processes import descendants, look_at, send
from ckpt_tui.services.stop_plan import StopPlan, plan_stop, state_now, why_it_cannot_hear
from ckpt_tui.services.stop_record import asked, forget, note_asked
from ckpt_tui.services.supervisor_record import RECORD_NAME as SUPERVISOR_FILE_NAME
from ckpt_tui.services.system import process_is_alive
from ckpt_tui.sources.jsonl import JsonlSource
from ckpt_tui.text import duration, plural, run_word, safe_text

_POLL_S = 0.03
_TELL_EVERY_S = 1.0
_ASK_CLUSTER_EVERY_S = 2.0
KILL_PATIENCE_S = 30.0  # much memory takes long to give back
UNSURE_S = 15.0  # a trainer of ours tells of a signal at the end of its step

OnProgress = Callable[["StopProgress"], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class StopProgress:
    """How far a stop has come. stage: asked, seen (its log tells of the signal), saved, not saved, ending, ended, or
    killed. sentence: what the log said of it, for a person. seconds: since it was asked."""

    stage: str
    seconds: float
    sentence: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """What came of a stop.

    has_ended: whether every process of the training was gone within the time given. is_cancelled: nobody waited to
    the end; it was asked, and goes on ending. was_killed: by SIGKILL.
    step: how far the training came. saved: the checkpoint that it wrote after it was asked, "" when none is known of;
    saved_step: its step. lost_steps, lost_s: what a resume has to train again, None where nobody can know.
    status, reason: of its `run_end`, "" when it wrote none. sentences: all of this for a person; hint: what to do next.
    """

    pid: int
    has_ended: bool
    seconds: float
    is_cancelled: bool = False
    was_killed: bool = False
    step: int | None = None
    saved: str = ""
    saved_step: int | None = None
    lost_steps: int | None = None
    lost_s: float | None = None
    checkpoint: str = ""
    checkpoint_step: int = 0
    status: str = ""
    reason: str = ""
    sentences: tuple[str, ...] = ()
    hint: str = ""


def running(directory: str) -> Owner | None:
    """The live training of a directory, by its lock, its supervisor, its start or its log. CkptError when the directory
    cannot be looked into."""
    return owner_of(directory, state_now(directory))


def stop(
    directory: str,
    timeout_s: float = 60.0,
    *,
    plan: StopPlan | None = None,
    on_progress: OnProgress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Stopped:
    """Ask the training of `directory` to save and end (SIGTERM), and wait for it.

    plan: what a person has read, from `plan_stop`; made anew without one. on_progress is called at each change, and
    once a second. is_cancelled: asked often; True ends the waiting, not the stop. Raises CkptError when none is
    running, or when none can be asked from here. The signal goes to the very processes of the plan, never to others
    that have their numbers since.
    """
    if plan is None:
        plan = plan_stop(directory)
    if plan.refusals:
        raise CkptError("Cannot be stopped from here", " ".join(plan.refusals), plan.hint)
    wait = _Wait(plan, on_progress, is_cancelled)
    if plan.command:
        _ask_once(plan, wait, plan.process, plan.asked_at, lambda: slurm.ask(plan.command))
    for target in plan.targets:
        process = target.process.identity
        _ask_once(plan, wait, process, target.asked_at, partial(_send, process, signal.SIGTERM))
    for target in plan.targets:
        for process in [target.process.identity, *descendants(target.pid)]:
            _continue_if_stopped(process)
    wait.tell("asked", "Asked to save and end." if plan.asked_at is None else "Waiting: it was asked before.")
    return wait.until_ended(timeout_s)


def _ask_once(
    plan: StopPlan, wait: _Wait, process: ProcessIdentity, was_asked_at: float | None, ask: Callable[[], object]
) -> None:
    """Never twice. Of a stop that died as it was about to ask, the log tells whether it had; it is waited for that."""
    noted = asked(plan.directory, process)  # somebody may have, since the plan was made

    def ask_and_note() -> None:
        note_asked(plan.directory, process, is_sent=False)
        try:
            ask()
        except CkptError:
            forget(plan.directory)
            raise
        note_asked(plan.directory, process, is_sent=True)

    if noted is not None and not noted.is_sent:
        wait.unsure.append(ask_and_note)
    elif noted is None and was_asked_at is None:
        ask_and_note()


def kill(
    directory: str,
    *,
    plan: StopPlan | None = None,
    on_progress: OnProgress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Stopped:
    """End the training of `directory` at once and unsaved (SIGKILL), with all of its processes. `plan` as of `stop`."""
    if plan is None:
        plan = plan_stop(directory)
    if plan.refusals:
        raise CkptError("Cannot be killed from here", " ".join(plan.refusals), plan.hint)
    # All of it, and who would start it again first.
    first = [target.process.identity for target in plan.targets]
    below = [child for one in plan.watched for child in descendants(one.pid)]
    plan = replace(plan, watched=tuple({one.pid: one for one in (*first, *plan.watched, *below)}.values()))
    wait = _Wait(plan, on_progress, is_cancelled)
    if plan.job and not plan.targets:
        slurm.ask(("scancel", "--signal=KILL", "--full", plan.job))
    for process in plan.watched:
        _send(process, signal.SIGKILL)
    wait.tell("killed", "Killed (SIGKILL).")
    return replace(wait.until_ended(KILL_PATIENCE_S), was_killed=True)


def _send(process: ProcessIdentity, number: signal.Signals) -> None:
    try:
        send(process, number)
    except PermissionError as error:
        raise CkptError(
            "No permission", f"process {process.pid} belongs to another user", "Run as the user who started it."
        ) from error


def _continue_if_stopped(process: ProcessIdentity) -> None:
    import psutil

    try:
        if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
            send(process, signal.SIGCONT)
    except (psutil.Error, PermissionError):
        return


class _Wait:
    """Follows the log and the processes of a training that was asked to end."""

    def __init__(self, plan: StopPlan, on_progress: OnProgress | None, is_cancelled: IsCancelled | None) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled
        self._began = time.monotonic()
        self._told = StopProgress("asked", 0.0, "")
        self._step, self._status, self._reason = plan.step, "", ""
        self._saved: CheckpointSaved | None = None
        self.unsure: list[Callable[[], None]] = []  # asks that are repeated when nothing tells that they came
        self._is_listed, self._ask_cluster_at = True, self._began + _ASK_CLUSTER_EVERY_S / 2
        path = os.path.join(plan.directory, LOG_NAME)
        self._log = JsonlSource(path)
        with contextlib.suppress(OSError):  # read from its start, once there is one
            # One that was asked before may have saved since the plan was made.
            self._log.skip_to(min(os.stat(path).st_size, plan.log_bytes if plan.asked_at is not None else sys.maxsize))

    def tell(self, stage: str, sentence: str) -> None:
        self._told = StopProgress(stage, time.monotonic() - self._began, sentence, self._step)
        if self._on_progress is not None:
            self._on_progress(self._told)

    def until_ended(self, timeout_s: float) -> Stopped:
        next_word = self._began + _TELL_EVERY_S
        while True:
            is_alive = self._is_alive()
            self._read_news()  # after the look: what it wrote last is not missed
            now = time.monotonic()
            if not is_alive:
                forget(self._plan.directory)
                self.tell("ended", "Ended.")
                return self._outcome(has_ended=True)
            if self.unsure and (self._told.stage != "asked" or now - self._began > UNSURE_S):
                asks, self.unsure = self.unsure, []
                if self._told.stage == "asked":
                    for ask in asks:
                        ask()
                    self.tell("asked", "Asked again: nothing tells that the stop before this one had asked.")
            if self._is_cancelled is not None and self._is_cancelled():
                return replace(self._outcome(has_ended=False), is_cancelled=True)
            if now - self._began > timeout_s:
                return self._outcome(has_ended=False)
            if now >= next_word:
                next_word = now + _TELL_EVERY_S
                self.tell(self._told.stage, self._told.sentence)
            time.sleep(_POLL_S)

    def _is_alive(self) -> bool:
        plan = self._plan
        if plan.targets or not plan.job:
            return any(process_is_alive(one) for one in plan.watched)
        # Of a job only its log and the cluster tell; the cluster is not asked more often than a person would.
        now = time.monotonic()
        if now >= self._ask_cluster_at:
            self._ask_cluster_at = now + _ASK_CLUSTER_EVERY_S
            self._is_listed = slurm.job_state(plan.job) != ""
        return self._is_listed and not self._status

    def _read_news(self) -> None:
        for event in self._log.poll().events:
            if isinstance(event, Event):
                self._take(event)

    def _take(self, event: Event) -> None:
        self._step = max(self._step or 0, event.step)
        if isinstance(event, SignalReceived):
            self.tell("seen", f"It has seen {safe_text(event.signal, 20)} at step {event.step:,}: "
                              f"{safe_text(event.action, 200)}.")  # fmt: skip
        elif isinstance(event, CheckpointSaved):
            if self._saved is None or event.step >= self._saved.step:
                self._saved = event
            self.tell("saved", f"Saved {safe_text(event.path, 200)}, step {event.step:,}.")
        elif isinstance(event, CheckpointFailed):
            self.tell("not saved", f"{safe_text(event.path, 200)} could not be saved: {safe_text(event.error, 200)}.")
        elif isinstance(event, ErrorRaised):
            self.tell("error", f"{safe_text(event.type, 60)}: {safe_text(event.message, 200)}.")
        elif isinstance(event, RunEnd):
            self._status, self._reason = event.status, event.reason
            self.tell("ending", f"It tells its end: {safe_text(event.status, 40)}.")

    def _outcome(self, *, has_ended: bool) -> Stopped:
        plan = self._plan
        stopped = Stopped(
            pid=plan.pid, has_ended=has_ended, seconds=time.monotonic() - self._began, step=self._step,
            saved=self._saved.path if self._saved else "", saved_step=self._saved.step if self._saved else None,
            status=self._status, reason=self._reason,
        )  # fmt: skip
        alive = [process for one in plan.watched if not has_ended and (process := look_at(one.pid)) is not None]
        whys = [why for process in alive if (why := why_it_cannot_hear(process))]  # before files are read: of now
        if plan.command[:1] == ("scancel",) and len(plan.command) == 2:  # it never began
            done = "is taken out of the cluster's queue" if has_ended else "is still in the cluster's queue"
            return replace(stopped, lost_steps=0, lost_s=0.0, sentences=(f"Job {plan.job} {done}.",))
        stopped = _with_losses(stopped, plan.directory)
        only_supervisor = plan.told_by == SUPERVISOR_FILE_NAME and all(one.role == "supervisor" for one in plan.targets)
        if has_ended and only_supervisor and not stopped.saved and not stopped.status:
            return _between_two_sessions(stopped)
        return _in_words(stopped, plan, whys)


def _with_losses(stopped: Stopped, directory: str) -> Stopped:
    """What a resume has to train again, by what the log and the files tell now."""
    from ckpt_tui.services.catalog import read_catalog
    from ckpt_tui.services.damage import found_checkpoints
    from ckpt_tui.services.monitor import RunMonitor

    try:
        if state_now(directory) is None:
            return stopped
        monitor = RunMonitor(directory, newest_first=True)
        monitor.found_checkpoints = found_checkpoints(read_catalog(directory).entries)
        state = monitor.poll(budget_s=1.0)
    except (CkptError, OSError):
        return stopped
    stopped = replace(stopped, step=max(state.step, stopped.step or 0))
    risk = state.at_risk
    if risk is None:
        return stopped
    return replace(
        stopped, lost_steps=risk.steps, lost_s=risk.seconds, checkpoint=risk.checkpoint or "",
        checkpoint_step=risk.checkpoint_step,
    )  # fmt: skip


def _between_two_sessions(stopped: Stopped) -> Stopped:
    """Of a supervisor that was waiting: what is to be trained again was lost before, by the crash."""
    sentences = [f"The supervisor, process {stopped.pid}, ended in {duration(stopped.seconds)}: nothing trained."]
    if stopped.checkpoint:
        redone = f", and redoes {_steps_words(stopped)}" if stopped.lost_steps else ""
        taken = f"{safe_text(stopped.checkpoint, 200)}, step {stopped.checkpoint_step:,}"
        sentences.append(f"A resume takes {taken}{redone}.")
    return replace(stopped, lost_steps=0, lost_s=0.0, sentences=tuple(sentences))


def _in_words(stopped: Stopped, plan: StopPlan, whys: list[str]) -> Stopped:
    took = duration(stopped.seconds)
    who = f"Process {stopped.pid}" if stopped.pid else f"Job {plan.job}" if plan.job else "It"
    if not stopped.has_ended:
        sentences = [f"{who} was asked to stop and is still at work after {took}: it goes on being asked."]
        if stopped.saved:
            sentences.append(f"It has saved {safe_text(stopped.saved, 200)} (step {stopped.saved_step or 0:,}).")
        elif stopped.lost_steps:
            sentences.append(f"Not saved yet: {_steps_words(stopped)}.")
        sentences += whys
        stop = f"ckpt-tui stop {run_word(plan.directory)}"
        hint = f"Wait for it (`{stop} --timeout S`), look at its output, or end it unsaved: `{stop} --kill`."
        return replace(stopped, sentences=tuple(sentences), hint=hint)
    if stopped.saved and stopped.saved_step == stopped.step:
        sentences = [
            f"{who} saved {safe_text(stopped.saved, 200)} (step {stopped.saved_step or 0:,}) and ended in {took}.",
            "Nothing is lost.",
        ]
    elif stopped.lost_steps == 0:
        at = f" at step {stopped.step:,}" if stopped.step is not None else ""
        sentences = [
            f"{who} ended{at} in {took}.",
            f"Nothing is lost: {safe_text(stopped.checkpoint, 200)} holds that step.",
        ]
    elif stopped.lost_steps is not None:
        lost = _steps_words(stopped)
        since = f"a resume takes {safe_text(stopped.checkpoint, 200)}, step {stopped.checkpoint_step:,}"
        sentences = [
            f"{who} ended in {took} without saving step {stopped.step or 0:,}.",
            f"Lost: {lost}; {since if stopped.checkpoint else 'there is no checkpoint'}.",
        ]
    else:
        sentences = [f"{who} ended in {took}; whether it saved is not known: it has no log."]
    if stopped.status:
        reason = f" ({safe_text(stopped.reason, 200)})" if stopped.reason else ""
        sentences.append(f"Its log says: {safe_text(stopped.status, 40)}{reason}.")
    elif stopped.lost_steps is not None:
        sentences.append("Its log does not tell its end.")
    return replace(stopped, sentences=tuple(sentences))


def _steps_words(stopped: Stopped) -> str:
    seconds = f" ({duration(stopped.lost_s)})" if (stopped.lost_s or 0.0) >= 0.05 else ""
    return f"{plural(stopped.lost_steps or 0, 'step')}{seconds}"
