"""The events of `events.jsonl`: one frozen type per event. The contract that trainer and viewer share.

Every line is one JSON object with the six fields of `Event` under their JSON names (`v`, `event`, `seq`, `ts`,
`session`, `step`) and the fields of its type beside them. Fields that a type does not name are kept in `extra`
(in `metrics` for `step` and `eval`, where every numeric field is a metric). An event that is not in
`EVENT_TYPES` becomes an `Unknown`, a line that is not an event a `BadLine`; neither is an error.

`step` is the number of optimizer steps completed: `step=500` means batches 0..499 are in the weights.

Numbers that are not finite are written as the strings "NaN", "Infinity" and "-Infinity", so that every line is
strict JSON for every reader; bare NaN and Infinity, as Python's json writes them, are read too.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from ckpt_tui.process_identity import ProcessIdentity

SCHEMA_VERSION = 1
LOG_NAME = "events.jsonl"

# The fields of every line, under their names in JSON.
COMMON_FIELDS = ("v", "event", "seq", "ts", "session", "step")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event carries.

    seq: rises by one through the whole log, over sessions; a gap means lost lines.
    ts: Unix seconds. session: numbered from 1. step: optimizer steps completed when it happened.
    extra: the fields of the line that its type does not name, as they were.
    """

    name: ClassVar[str] = ""

    seq: int = 0
    ts: float = 0.0
    session: int = 0
    step: int = 0
    extra: dict[str, Any] = {}


class RunStart(Event, frozen=True, kw_only=True):
    """A session begins.

    argv: the command that starts the same training again: the launcher's where one started this process.
    launcher: how it was started (events/launcher.py), for a resume; {} where nobody could tell:
      name: python, torchrun, accelerate, deepspeed, uv, conda, or sbatch for a job of Slurm;
      argv, cwd: the launcher's own command line and directory, where there is one;
      directory: where this log was written, which tells a directory that was moved, or the copy of one;
      environment: a few variables, by name, that a start goes by; never any other;
      job: of Slurm: {"id", "script": its text as it was submitted, "argv": what the script was given}.
    """

    name: ClassVar[str] = "run_start"

    run_name: str = ""
    config: dict[str, Any] = {}
    argv: list[str] = []
    cwd: str = ""
    pid: int = 0
    pid_started: float = 0.0  # when that process started, Unix seconds: tells it from a later one with its pid
    pid_birth: str = ""  # the same by the kernel's own count, whatever the clock says (process_identity.py)
    host: str = ""
    world_size: int = 1
    versions: dict[str, str] = {}
    total_steps: int = 0
    steps_per_epoch: int = 0
    start_step: int = 0
    # {"path": relative, "digest": "algorithm:hex", "step", "wanted": auto, latest, best or what was named}
    resumed_from: dict[str, Any] | None = None
    rejected: list[dict[str, Any]] = []  # newer checkpoints that could not be used: {"path", "why", "damage"}
    lineage: list[dict[str, Any]] = []  # the sessions that led here (events/lineage.py)
    launcher: dict[str, Any] = {}

    @property
    def process(self) -> ProcessIdentity:
        # A log may hold NaN, to which no start is unlike, or Infinity.
        started = self.pid_started if 0 < self.pid_started < float("inf") else 0.0
        return ProcessIdentity(self.pid, started, self.host, self.pid_birth)


class Step(Event, frozen=True, kw_only=True, gc=False):
    """One optimizer step, or the newest of several. `metrics` holds every further field of the line:
    loss, lr, grad_norm, tokens_per_s (or samples_per_s), step_seconds, and any other."""

    name: ClassVar[str] = "step"

    epoch: float | None = None
    metrics: dict[str, Any] = {}


class Eval(Event, frozen=True, kw_only=True):
    """One evaluation. `metrics` holds val_loss and every other metric; `seconds` is what it took."""

    name: ClassVar[str] = "eval"

    epoch: float | None = None
    seconds: float | None = None
    metrics: dict[str, Any] = {}


class EpochEnd(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "epoch_end"

    epoch: float | None = None
    train_loss: float | None = None  # mean over the epoch
    val_loss: float | None = None


class CheckpointSaved(Event, frozen=True, kw_only=True):
    """A checkpoint became durable under `path`, and with the same content under each of `names`."""

    name: ClassVar[str] = "checkpoint_saved"

    path: str = ""  # relative to the run directory
    kind: str = ""  # latest, rolling, emergency, best, epoch
    bytes: int = 0
    digest: str = ""  # "sha256:<hex>" or "crc32:<hex>" of the whole file
    save_seconds: float | None = None  # until durable
    stall_seconds: float | None = None  # training stood still
    val_loss: float | None = None
    names: list[str] = []  # every name that got this content, `path` among them
    written_bytes: int | None = None  # by this save in all: independent copies included
    stages: dict[str, float] = {}  # seconds of each: snapshot, serialize, write, sync, verify, publish, backup


class CheckpointFailed(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "checkpoint_failed"

    path: str = ""
    stage: str = ""  # snapshot, write, sync, verify, publish
    error: str = ""
    kept: str = ""  # what was kept instead


class CheckpointRestored(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "checkpoint_restored"

    path: str = ""  # the name that was put back
    source: str = ""  # the backup it came from
    by: str = ""  # trainer or viewer
    why: str = ""

    @property
    def act(self) -> str:
        """What a person did with it: restore, rollback, undo or redo. A trainer only restores."""
        act = self.extra.get("act")
        return act if act in ("rollback", "undo", "redo") else "restore"


class CheckpointRemoved(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "checkpoint_removed"

    path: str = ""
    reason: str = ""  # the retention rule


class CheckpointQuarantined(Event, frozen=True, kw_only=True):
    """A checkpoint that is proven to be bad was moved out of the way of a resume; nothing was removed."""

    name: ClassVar[str] = "checkpoint_quarantined"

    path: str = ""  # where it was, relative to the run directory
    to: str = ""  # where it is
    why: str = ""


class Best(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "best"

    metric: str = ""
    mode: str = "min"
    value: float | None = None
    previous: float | None = None


class Nonfinite(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "nonfinite"

    what: str = ""  # which metric or tensor
    action: str = ""  # "skipped", "rolled back to PATH"
    rolled_back_to: int | None = None  # the step that training goes on from, None when it did not go back


class SignalReceived(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "signal"

    signal: str = ""  # SIGTERM
    action: str = ""


class Disk(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "disk"

    bytes_by_kind: dict[str, int] = {}
    count_by_kind: dict[str, int] = {}
    free_bytes: int = 0
    saves_that_fit: int | None = None


class System(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "system"

    cpu_percent: float | None = None  # of the process; 100 is one core
    rss_bytes: int | None = None
    memory_used_bytes: int | None = None  # of the machine
    memory_total_bytes: int | None = None
    gpus: list[dict[str, Any]] = []  # {"index", "utilization_percent", "memory_used_bytes", "memory_total_bytes"}
    rank: int | None = None  # of the process that is measured, None where there is only one


class ErrorRaised(Event, frozen=True, kw_only=True):
    name: ClassVar[str] = "error"

    type: str = ""
    message: str = ""
    traceback: str = ""
    rank: int | None = None  # of the process that it happened to, None where there is only one


class LostWork(Event, frozen=True, kw_only=True):
    """What the end of an earlier session cost, told by the session that goes on from before it."""

    name: ClassVar[str] = "lost_work"

    lost_session: int = 0  # the one that trained it
    cause: str = ""  # killed, or the status of its `run_end`
    from_step: int = 0  # batches from_step..to_step-1 are trained again
    to_step: int = 0
    seconds: float | None = None  # that they took
    predicted_seconds: float | None = None  # that a failure was to cost on average, as said before it happened
    down_seconds: float | None = None  # from the last sign of life to the first new step


class SaveAdvice(Event, frozen=True, kw_only=True):
    """How often to save, from what the trainer measured of itself (formulas: `ckpt_tui.save_interval`)."""

    name: ClassVar[str] = "advice"

    recommended_steps: int | None = None
    recommended_seconds: float | None = None
    bound_by: str = ""  # what made it longer than the optimum: writing, budget
    save_every_steps: int | None = None  # as it is now
    save_every_seconds: float | None = None
    stall_seconds: float | None = None  # training stood still for a save: medians
    background_seconds: float | None = None  # written on after that, until durable
    slowdown: float | None = None  # fraction of the pace that is lost meanwhile
    save_cost_seconds: float | None = None  # stall + slowdown * background
    restart_seconds: float | None = None  # from the start of the process to the first new step
    step_seconds: float | None = None
    num_saves: int = 0  # measured
    num_failures: int = 0  # that lost work, in all sessions
    observed_seconds: float = 0.0  # of training, in all sessions
    failure_every_seconds: float | None = None  # expected: (prior + observed) / (1 + failures)
    failure_every_low: float | None = None  # 95 % interval from what was seen alone
    failure_every_high: float | None = None
    overhead: float | None = None  # fraction of the training that saves take as it is now
    recommended_overhead: float | None = None
    lost_per_failure_seconds: float | None = None  # expected, as it is now
    bytes_per_day: float | None = None  # written by saves as it is now, all copies


class RunEnd(Event, frozen=True, kw_only=True):
    """A session ended in a way it could still tell of."""

    name: ClassVar[str] = "run_end"

    status: str = ""  # finished, interrupted, preempted, failed, diverged
    reason: str = ""


class Supervised(Event, frozen=True, kw_only=True):
    """What `ckpt-tui supervise` did between two sessions, or after the last one: nobody trains while it is written."""

    name: ClassVar[str] = "supervisor"

    action: str = ""  # restart, finished, stopped, gave_up
    told: str = ""  # how the training ended, and why this is done, in a sentence
    restarts: int = 0  # so far
    pause_seconds: float | None = None  # until the next start
    checkpoint: str = ""  # that it begins with
    exit_code: int | None = None  # of the training; negative for a signal


class Unknown(Event, frozen=True, kw_only=True):
    """A well-formed event of a kind that this version does not know: kept and shown."""

    event: str = ""


class BadLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that is not an event. `start` holds the first bytes of it, for showing."""

    reason: str
    start: bytes = b""
    num_bytes: int = 0
    offset: int = 0  # where the line begins in its file; set by the source


EVENT_TYPES: dict[str, type[Event]] = {
    event_type.name: event_type
    for event_type in (
        RunStart, Step, Eval, EpochEnd, CheckpointSaved, CheckpointFailed, CheckpointRestored, CheckpointRemoved,
        CheckpointQuarantined,
        Best, Nonfinite, SignalReceived, Disk, System, ErrorRaised, LostWork, SaveAdvice, RunEnd, Supervised,
    )
}  # fmt: skip


def event_name(event: Event) -> str:
    """The name of an event as the log spells it."""
    return event.event if isinstance(event, Unknown) else event.name
