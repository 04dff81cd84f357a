"""Which processes a stop asks to end, and what a person should know first. Signals nobody.

One training may be several processes: a supervisor, a torchrun, a shell that waits, ranks. The signal goes to the one
that passes it on where a restarter is in charge (a supervisor, a torchrun that has restarts left), else to the one
that trains, never to a shell or an `accelerate launch`, which would die of it and leave the training behind.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Literal

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.services import slurm
from ckpt_tui.services.copied_record import is_of_another
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME, read_record
from ckpt_tui.services.owner import Owner, held_by_another, only_a_number, owners_of, where_words
from ckpt_tui.services.processes import (
    CAUGHT,
    DEFAULT,
    IGNORED,
    Process,
    descendants,
    is_below,
    is_meant,
    look_at,
    restarter_of,
    unwrapped,
    who_writes_in,
)
from ckpt_tui.services.stop_record import asked
from ckpt_tui.services.supervisor_record import RECORD_NAME as SUPERVISOR_FILE_NAME
from ckpt_tui.services.supervisor_record import live_supervisor
from ckpt_tui.services.system import LOCK_NAME, process_is_alive
from ckpt_tui.text import duration, plural, run_word, safe_text

# torchrun kills what it passed a SIGTERM on to after so many seconds (its --shutdown-timeout).
TORCHRUN_PATIENCE_S = 30.0
_ENDING_S = 2.0  # how long a process that can be looked at no more may still hold its lock

Role = Literal["training", "torchrun", "supervisor"]


@dataclass(frozen=True, slots=True)
class Target:
    """A process that gets the signal. told_by: which file names it, or the one that it restarts. asked_at: when it got
    one already: a second one may end it at once, unsaved."""

    process: Process
    role: Role
    told_by: str
    asked_at: float | None = None

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True, slots=True)
class StopPlan:
    """What a stop would do, for a person to read before it is done.

    process: the training, as its lock, its log or its start names it; told_by: which of these.
    targets: who gets SIGTERM; nobody gets a second one: asked_at is when all of them were asked, None when some were
    not. watched: every process that has to end until the training has.
    saves: whether it is known to save when it gets SIGTERM: True (a trainer of ours), False (it does not catch the
    signal and dies of it, or ignores it), None (it catches it; what it does then is not known).
    step, checkpoint, checkpoint_step, at_risk_steps, at_risk_s: what would be lost if it ended unsaved right now.
    log_bytes: how long its log was before it was looked at: of one that was asked before, what it writes from there
    on is news.
    job: the cluster's job that it is part of, "" for none. command: what asks it where we cannot reach it by a signal.
    refusals: why it cannot be done from here. warnings: read these first.
    """

    directory: str
    process: ProcessIdentity
    told_by: str
    targets: tuple[Target, ...] = ()
    watched: tuple[ProcessIdentity, ...] = ()
    asked_at: float | None = None
    saves: bool | None = None
    step: int | None = None
    checkpoint: str = ""
    checkpoint_step: int = 0
    at_risk_steps: int = 0
    at_risk_s: float = 0.0
    log_bytes: int = 0
    job: str = ""
    command: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    hint: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def host(self) -> str:
        return self.process.host


def plan_stop(directory: str) -> StopPlan:
    """Find who trains in `directory`, and how it is asked to save and end. CkptError when nothing runs there."""
    directory = os.path.abspath(directory)
    log_bytes = _log_bytes(directory)
    state = state_now(directory)
    owners = _settled(directory, state, owners_of(directory, state))
    first = owners[0] if owners else _told_to_run_elsewhere(directory, state)
    if first is None:
        queued = in_the_queue(directory)
        if queued is None:
            raise _nothing_runs(directory, state)
        return queued
    plan = StopPlan(directory, first.process, first.told_by, log_bytes=log_bytes)
    if state is not None:
        plan = _with_risk(plan, state)
    here = [owner for owner in owners if owner.pid > 1 and process_is_alive(owner.process)]
    if not here:
        if (held := held_by_another(directory, first)) is not None:
            raise held
        return _elsewhere(plan, state)
    here = [owner for owner in here if is_meant(owner.process, directory)]
    if not here:
        raise only_a_number(directory, first)
    supervisor = live_supervisor(directory)
    targets, watched = _targets(here, supervisor.child if supervisor and supervisor.is_alive else NOBODY)
    if not targets:
        raise _nothing_runs(directory, state)
    targets = [replace(one, asked_at=_asked_at(directory, one, state)) for one in targets]
    times = [one.asked_at for one in targets if one.asked_at is not None]
    plan = replace(
        plan, targets=tuple(targets), watched=tuple(watched),
        asked_at=min(times) if len(times) == len(targets) else None,
    )  # fmt: skip
    trainer = next((owner for owner in here if not owner.is_supervisor), here[0])
    return _in_words(replace(plan, process=trainer.process, told_by=trainer.told_by))


def _log_bytes(directory: str) -> int:
    try:
        return os.stat(os.path.join(directory, LOG_NAME)).st_size
    except OSError:
        return 0


def _settled(directory: str, state: RunState | None, owners: tuple[Owner, ...]) -> tuple[Owner, ...]:
    """The owners once no process of this host is in the midst of its end: it can be gone for who looks at processes
    while its lock is still held."""
    ends = time.monotonic() + _ENDING_S
    while time.monotonic() < ends and any(held_by_another(directory, owner) is not None for owner in owners):
        time.sleep(0.02)
        owners = owners_of(directory, state)
    return owners


def state_now(directory: str) -> RunState | None:
    """What the newest part of the log tells, ours or another program's; None where there is none."""
    try:
        os.listdir(directory)
    except OSError as error:
        # Not to be taken for a directory in which nothing runs.
        raise from_os_error(error, directory) from error
    from ckpt_tui.services.monitor import RunMonitor

    try:
        state = RunMonitor(directory, newest_first=True).poll(budget_s=1.0)
    except CkptError:
        return None  # nothing that can be read: who holds the directory is known without it
    return state if state.num_events else None


def _nothing_runs(directory: str, state: RunState | None) -> CkptError:
    if state is not None and state.pid <= 0 and state.phase in (Phase.RUNNING, Phase.STALLED):
        writers = [f"{one.pid} ({safe_text(' '.join(one.words), 80)})" for one in who_writes_in(directory)[:4]]
        who = f"; open for writing there: process {', '.join(writers)}" if writers else ""
        return CkptError(
            "Not known which process it is",
            f"the log in {directory} goes on, but does not say which process writes it{who}",
            "End it with `kill -TERM PID`; whether it saves then is not known."
            if writers
            else "Find it (`ps -ef`) and end it with `kill -TERM PID`; whether it saves then is not known.",
        )
    return CkptError(
        "Not running",
        f"no training is running in {directory}",
        f"`ckpt-tui status {run_word(directory)}` tells how it ended.",
    )


def _targets(here: list[Owner], child: ProcessIdentity) -> tuple[list[Target], list[ProcessIdentity]]:
    """Who gets the signal, and who has to end. Processes of one training get one signal. child: of its supervisor."""
    targets: list[Target] = []
    watched: dict[int, ProcessIdentity] = {}
    covered: set[int] = set()
    for owner in sorted(here, key=lambda one: not one.is_supervisor):
        if owner.pid in covered or any(is_below(owner.pid, target.pid) for target in targets):
            watched.setdefault(owner.pid, owner.process)
            continue
        if owner.told_by == LAUNCH_FILE_NAME and any(is_below(target.pid, owner.pid) for target in targets):
            watched.setdefault(owner.pid, owner.process)  # the launcher of one that is asked already
            continue
        watched[owner.pid] = owner.process
        workers = unwrapped(owner.pid) if owner.told_by == LAUNCH_FILE_NAME else [owner.pid]
        for worker in workers:
            restarter = None if owner.is_supervisor else restarter_of(worker)
            role: Role = "supervisor" if owner.is_supervisor else "torchrun" if restarter else "training"
            process = look_at(restarter or worker)
            if process is not None and process.pid not in covered:
                targets.append(Target(process, role, owner.told_by))
                watched[process.pid] = process.identity
                covered.update({worker, process.pid})
        if owner.is_supervisor and process_is_alive(child):
            watched[child.pid] = child
            covered.update({child.pid, *(below.pid for below in descendants(child.pid))})
    return targets, list(watched.values())


def _asked_at(directory: str, target: Target, state: RunState | None) -> float | None:
    """By a stop of ours, or by whoever sent the signal that its log tells of."""
    told = _told_of_a_signal(state) if state is not None and target.pid == state.pid else None
    noted = asked(directory, target.process.identity)
    return noted.at if told is None and noted is not None else told


def _told_of_a_signal(state: RunState | None) -> float | None:
    """When the session that runs was asked to end, as its log tells. SIGUSR1 only asks for a save."""
    said = [one for one in state.markers if one.kind == "signal" and one.session == state.session] if state else []
    return next((marker.ts for marker in reversed(said) if "SIGUSR" not in marker.label), None)


def _with_risk(plan: StopPlan, state: RunState) -> StopPlan:
    risk = state.at_risk
    return replace(
        plan,
        step=state.step,
        checkpoint=(risk.checkpoint or "") if risk is not None else "",
        checkpoint_step=risk.checkpoint_step if risk is not None else 0,
        at_risk_steps=risk.steps if risk is not None else 0,
        at_risk_s=risk.seconds if risk is not None else 0.0,
    )


def _told_to_run_elsewhere(directory: str, state: RunState | None) -> Owner | None:
    """Its log goes on, and names a process of another host, of which nobody can know from here."""
    if state is None or state.phase not in (Phase.RUNNING, Phase.STALLED) or not state.host:
        return None
    if is_of_another(directory, state.launcher.get("directory"), 0, state.host):
        return None
    is_elsewhere = state.pid > 0 and process_is_alive(state.process) is None
    return Owner(state.process, LOG_NAME) if is_elsewhere else None


def in_the_queue(directory: str) -> StopPlan | None:
    """A job that was submitted from here and that tells nothing yet: it waits, or has just begun."""
    record = read_record(directory)
    if record is None or is_of_another(directory, record.directory, 0):
        return None  # a job of the directory that this is a copy of
    if not record.job or not (where := slurm.job_state(record.job)):
        return None
    plan = StopPlan(directory, ProcessIdentity(host=record.host), LAUNCH_FILE_NAME, job=record.job)
    words = f"Job {record.job} is {safe_text(where.lower(), 30)} in the cluster's queue"
    if where != "PENDING":
        return _through_job(plan, slurm.Job(record.job), f"{words}: it has told nothing yet.")
    return replace(
        plan, command=("scancel", record.job), saves=True,
        sentences=(f"{words}: it is taken out of it. It has not trained anything yet.",),
    )  # fmt: skip


def _elsewhere(plan: StopPlan, state: RunState | None) -> StopPlan:
    """It runs where no signal of ours reaches it."""
    host = safe_text(plan.host, 100)
    job = slurm.recorded_job(state.launcher) if state is not None and state.host == plan.host else None
    if plan.pid > 0 and host:
        words = f"It runs as process {plan.pid} {where_words(plan.process) or f'on {host}'}, {plan.told_by} says"
        hint = f"`ssh {host} ckpt-tui stop {safe_text(plan.directory, 500)}`"
        if plan.process.is_in_another_container:
            hint = f"`ckpt-tui stop {safe_text(plan.directory, 500)}` inside that container"
        if job is not None:
            plan = replace(plan, job=job.number, asked_at=_asked_there(plan, state))
            if slurm.is_here():
                return _through_job(plan, job, f"{words}, in job {job.number}.")
            hint = f"`{' '.join(job.signal_command('TERM'))}` where jobs are submitted, or {hint}"
        refusal = f"{words}: no signal from here reaches it."
    else:
        refusal = f"{plan.told_by} is held, and does not say by which process."
        lock = run_word(os.path.join(plan.directory, LOCK_NAME))
        hint = f"`fuser -v {lock}` on the host where it runs names it; `kill -TERM PID` asks it to save and end."
    return replace(plan, refusals=(refusal,), hint=hint)


def _asked_there(plan: StopPlan, state: RunState | None) -> float | None:
    noted = asked(plan.directory, plan.process)
    return noted.at if noted is not None else _told_of_a_signal(state)


def _through_job(plan: StopPlan, job: slurm.Job, words: str) -> StopPlan:
    saves = True if plan.told_by == LOCK_NAME else None
    sentences = [words]
    command = job.signal_command("TERM")
    if plan.asked_at is not None:
        sentences.append("It was asked to save and end already: it is waited for.")
    else:
        sentences.append(f"`{' '.join(command)}` sends it SIGTERM.")
    warnings = [] if saves else ["Whether it saves then is not known from here."]
    return replace(
        plan, job=job.number, command=command, saves=saves, sentences=tuple(sentences), warnings=tuple(warnings)
    )


def _in_words(plan: StopPlan) -> StopPlan:
    sentences, warnings = [], []
    trainer = next((t for t in plan.targets if t.role == "training"), None)
    saves: bool | None = None
    for target in plan.targets:
        if target.asked_at is not None:
            ago = duration(max(time.time() - target.asked_at, 0.0))
            sentences.append(f"Process {target.pid} was asked to save and end {ago} ago: it is waited for.")
            continue
        sentences.append(_signal_words(target, len(plan.targets)))
        warnings += _state_warnings(target)
        if not target.process.is_mine:
            user = safe_text(target.process.user, 60)
            plan = replace(
                plan, refusals=(*plan.refusals, f"Process {target.pid} belongs to {user}."),
                hint="Run as the user who started it.",
            )  # fmt: skip
    if plan.targets and all(one.role == "supervisor" for one in plan.targets) and plan.told_by == SUPERVISOR_FILE_NAME:
        sentences.append("Nothing trains at the moment: it waits for the time of its next start.")
        return replace(plan, sentences=tuple(sentences), warnings=tuple(warnings))
    worker = look_at(plan.pid)
    on_sigterm = worker.on_sigterm if worker is not None else trainer.process.on_sigterm if trainer else ""
    risk = _risk_words(plan)
    if plan.told_by == LOCK_NAME and on_sigterm in (CAUGHT, ""):
        saves = True
        sentences.append("It is a trainer of ours: it saves an emergency checkpoint and ends.")
    elif on_sigterm == DEFAULT:
        saves = False
        warnings.append(f"It does not catch SIGTERM: it ends at once, unsaved{': ' + risk if risk else ''}.")
    elif on_sigterm == IGNORED:
        saves = False
        warnings.append("It ignores SIGTERM: it will not end by it.")
    else:
        warnings.append(f"Whether it saves when it gets SIGTERM is not known{'. Unsaved, ' + risk if risk else ''}.")
    if plan.checkpoint:
        left = f"; {risk} without a save" if risk and saves else ""
        sentences.append(
            f"It is at step {plan.step or 0:,}, its newest valid checkpoint is {safe_text(plan.checkpoint, 200)}, "
            f"step {plan.checkpoint_step:,}{left}."
        )
    if any(t.role == "torchrun" for t in plan.targets):
        warnings.append(
            f"torchrun kills its processes {TORCHRUN_PATIENCE_S:.0f} s later (its --shutdown-timeout), saved or not."
        )
    return replace(plan, saves=saves, sentences=tuple(sentences), warnings=tuple(warnings))


def _signal_words(target: Target, num_targets: int) -> str:
    who = {"training": "the training", "torchrun": "torchrun", "supervisor": "the supervisor"}[target.role]
    by = f", {target.told_by} says" if num_targets > 1 else ""
    passed_on = {"training": "", "torchrun": ", which passes it on", "supervisor": ", which passes it on and ends, too"}
    return f"Process {target.pid} ({who}{by}) gets SIGTERM{passed_on[target.role]}."


def _state_warnings(target: Target) -> list[str]:
    if target.process.is_stopped:
        return [f"Process {target.pid} is stopped (SIGSTOP or Ctrl+Z): it is continued, or the signal would wait."]
    why = why_it_cannot_hear(target.process)
    return [why] if why else []


def why_it_cannot_hear(process: Process) -> str:
    """Why no signal reaches a process as it is now, and SIGCONT does not help; "" where one does."""
    if process.is_traced:
        return f"Process {process.pid} is held by a debugger: the signal waits until that lets it go on."
    if process.is_stuck:
        return f"Process {process.pid} waits in the kernel (for a disk, a mount or a GPU): the signal waits for that."
    return ""


def _risk_words(plan: StopPlan) -> str:
    if not plan.at_risk_steps:
        return ""
    seconds = f" ({duration(plan.at_risk_s)})" if plan.at_risk_s >= 0.05 else ""
    return f"{plural(plan.at_risk_steps, 'step')}{seconds} would be lost"
