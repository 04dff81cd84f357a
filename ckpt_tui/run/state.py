"""What is known of a run at one moment: frozen facts, folded from its events, that every front end is given.

`run/fold.py` makes a `RunState` from events; screens, `status`, `tail`, `watch --plain` and tests read it. It is
split from the fold so that a reader of the state need not know how it came about.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

from ckpt_tui.events.schema import LostWork, SaveAdvice
from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.records import dataclass


class Phase(StrEnum):
    """How a run, or one session of it, stands."""

    WAITING = "waiting"  # no event yet
    RUNNING = "running"
    STALLED = "stalled"  # alive, but silent for long by its own rhythm
    SILENT = "silent"  # a log that says nothing more: another's, of a process that it never named, or a live run's copy
    CRASHED = "crashed"  # gone without a word
    INTERRUPTED = "interrupted"
    PREEMPTED = "preempted"
    FAILED = "failed"
    DIVERGED = "diverged"
    FINISHED = "finished"
    RESTARTING = "restarting"  # ended, and its live supervisor starts it again
    STARTING = "starting"  # started again; the new process has written nothing yet

    @property
    def is_over(self) -> bool:
        return self not in (Phase.WAITING, Phase.RUNNING, Phase.STALLED, Phase.SILENT) and not self.is_between

    @property
    def is_between(self) -> bool:
        """Between the end of one session and the first word of the next, which is on its way."""
        return self in (Phase.RESTARTING, Phase.STARTING)


@dataclass(frozen=True, slots=True)
class NextStart:
    """The start that a run which has ended is to have, or has had a moment ago.

    due_at, started_at: when, Unix seconds; both None while its supervisor still looks at the end. attempt: which one
    of its supervisor's restarts it is, 0 for none. pid: of the process that was started, 0 before. by: who starts it
    (supervise, resume ...). session: the number that it was started for, 0 where nobody says. is_supervised: a live
    supervisor will start it again. holds_lock: it has come so far that it holds the directory. last_exit: how the one
    before it ended, as its supervisor saw ("killed by SIGKILL"), or "".
    """

    due_at: float | None = None
    started_at: float | None = None
    attempt: int = 0
    pid: int = 0
    by: str = ""
    session: int = 0
    is_supervised: bool = False
    holds_lock: bool = False
    last_exit: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """One process life of a run, with what its end cost.

    start_step: what it resumed from (0 from scratch). last_step: the last step it told of.
    retrained_steps: of its steps, those an earlier session had trained already.
    lost_steps, lost_s: what the next session (or a resume now) has to train again.
    gone_back: (step, reached) of each time that it went back itself, and trained the steps in between again.
    """

    number: int
    start_step: int
    last_step: int
    start_ts: float
    last_ts: float
    phase: Phase
    reason: str = ""
    resumed_from: str | None = None
    retrained_steps: int = 0
    lost_steps: int = 0
    lost_s: float = 0.0
    save_steps: tuple[int, ...] = ()
    pid: int = 0
    pid_started: float = 0.0
    pid_birth: str = ""
    host: str = ""
    first_step_ts: float | None = None  # of its first step event
    gone_back: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Save:
    """A checkpoint that the log tells of."""

    path: str
    kind: str
    step: int
    ts: float
    session: int
    size_bytes: int
    digest: str = ""
    save_s: float | None = None
    stall_s: float | None = None
    val_loss: float | None = None
    names: tuple[str, ...] = ()
    removed: bool = False


@dataclass(frozen=True, slots=True)
class Marker:
    """Something that happened at a step, for the event lane and the curves.

    kind: save, best, save_failed, crash, stop, signal, resume, restore, config, nonfinite, error, finish; restart and
    gave_up by a supervisor.
    """

    kind: str
    step: int
    ts: float
    session: int
    label: str


@dataclass(frozen=True, slots=True)
class FeedLine:
    """One event in a few words, for the feed. `severity`: info, good, warning, error."""

    ts: float
    session: int
    step: int
    name: str
    text: str
    severity: str = "info"
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should look at. `key` is stable: the same trouble has the same key.

    step, ts: where it began. last_step, last_ts: where it was seen last. kind: the rule that found it
    (`run/alerts.py`). count: how often, or for how many points. is_over: it has passed; it stays in the list.
    also: kinds of what would be alerts of their own if this one did not say it.
    """

    key: str
    severity: str  # warning, error
    title: str
    detail: str
    step: int
    ts: float
    kind: str = ""
    last_step: int = 0
    last_ts: float = 0.0
    count: int = 1
    is_over: bool = False
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AtRisk:
    """What would be lost if it died right now."""

    steps: int
    seconds: float
    checkpoint: str | None  # the newest valid one, which a resume would take
    checkpoint_step: int = 0
    checkpoint_ts: float | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """What crashes have cost so far. overhead: fraction of the time the same work takes without a crash. goodput:
    fraction of all training time that was not in vain."""

    steps: int = 0
    seconds: float = 0.0
    overhead: float | None = None
    goodput: float | None = None


@dataclass(frozen=True, slots=True)
class Eta:
    seconds: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class BadLines:
    count: int = 0
    first_offset: int | None = None
    first_reason: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """One session's part of a metric, in buckets that together cover it without a gap.

    Arrays of one length, a bucket each: first step in it, its time, and min, max, last of the finite values;
    bad counts the non-finite ones (a bucket of nothing else has NaN in lo, hi and last).
    abandoned_after: steps above it were trained again by a later session; None while all of it is live.
    """

    session: int
    steps: array[int]
    ts: array[float]
    lo: array[float]
    hi: array[float]
    last: array[float]
    bad: array[int]
    abandoned_after: int | None = None
    # For the mean of a bucket; empty where nobody counted. `end`: step and time of the newest point.
    total: array[float] = field(default_factory=lambda: array("d"))
    num_finite: array[int] = field(default_factory=lambda: array("q"))
    end: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """A metric over the whole run: a segment a session, in order."""

    name: str
    segments: tuple[Segment, ...] = ()
    num_points: int = 0
    last: float | None = None
    best: float | None = None  # lowest so far


@dataclass(frozen=True, slots=True)
class Trained:
    """When a session reached which step: what its steps took.

    marks: (step, seconds of training since its first), from its first step event to its last; none where there is none.
    """

    marks: tuple[tuple[int, float], ...]
    last_step: int
    pace: float  # seconds a step, where no time was told

    def seconds_after(self, step: int) -> float:
        """How long its steps above `step` took: exact where `step` is marked, between marks in proportion.

        Before its first and after its last step event, where no time was told, by the pace.
        """
        if not self.marks:
            return max(self.last_step - step, 0) * self.pace
        (first_step, _), (last_logged_step, net_s) = self.marks[0], self.marks[-1]
        after_log_s = max(self.last_step - max(step, last_logged_step), 0) * self.pace
        if step >= last_logged_step:
            return after_log_s
        if step < first_step:
            return net_s + (first_step - step) * self.pace + after_log_s
        index = bisect_right(self.marks, step, key=lambda mark: mark[0]) - 1
        (low, low_s), (high, high_s) = self.marks[index], self.marks[index + 1]
        at_s = low_s + (high_s - low_s) * (step - low) / (high - low) if high > low else low_s
        return max(net_s - at_s, 0.0) + after_log_s


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything a front end shows of a run. `now` is the moment it was judged at, Unix seconds."""

    now: float
    directory: str = ""
    name: str = ""
    phase: Phase = Phase.WAITING
    reason: str = ""  # why it ended, or why it is thought to be stalled
    session: int = 0
    step: int = 0
    total_steps: int = 0
    steps_per_epoch: int = 0
    epoch: float | None = None
    start_ts: float | None = None
    last_ts: float | None = None
    process: ProcessIdentity = NOBODY  # of the last session, as far as its `run_start` tells
    config: Mapping[str, object] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    cwd: str = ""
    launcher: Mapping[str, object] = field(default_factory=dict)  # as `RunStart.launcher`
    trains_in: str = ""  # of a copy: the directory in which the process that its log names trains
    versions: Mapping[str, str] = field(default_factory=dict)
    steps_per_s: float | None = None
    # What an estimate counts with: the recent pace, and what evaluation and saving have cost a step so far.
    seconds_per_step: float | None = None
    tokens_per_s: float | None = None
    eta: Eta | None = None
    next_start: NextStart | None = None  # while it is between two sessions, or before its first event
    last_loss: float | None = None
    last_val_loss: float | None = None
    best_metric: str = ""
    best_value: float | None = None
    best_step: int | None = None
    best_is_within_noise: bool = False  # no better than the one before it by more than evaluations waver
    at_risk: AtRisk | None = None
    trained: Trained | None = None  # of the last session
    lost: Lost = field(default_factory=Lost)
    saves_that_fit: int | None = None
    free_bytes: int | None = None
    disk_full_ts: float | None = None  # when, if it goes on filling as it does; None where nobody can tell
    sessions: tuple[Session, ...] = ()
    saves: tuple[Save, ...] = ()
    markers: tuple[Marker, ...] = ()
    series: Mapping[str, Series] = field(default_factory=dict)
    epochs: Series | None = None  # what lines say of their epoch, where no one says how many steps an epoch has
    feed: tuple[FeedLine, ...] = ()  # the newest last, bounded
    alerts: tuple[Alert, ...] = ()
    bad_lines: BadLines = field(default_factory=BadLines)
    missing_lines: int = 0  # gaps in seq
    num_events: int = 0
    source: str = ""  # what another program's log is, "" of ours
    log_path: str = ""  # of that log: a file, or the directory of several
    step_unit: str = "step"  # what its steps count: step, epoch, row
    advice: SaveAdvice | None = None  # the trainer's own, the newest
    lost_work: tuple[LostWork, ...] = ()  # what the trainer said that failures cost, bounded
    notices: tuple[str, ...] = ()  # lasting facts about the log itself: replaced, truncated, ...
    # False while only the newest part of a long log is known: then what needs all of it is left out (`lost`, sessions
    # before this one, the best value, bad and missing lines), and curves may have a part that is not read yet.
    is_whole: bool = True

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def host(self) -> str:
        return self.process.host
