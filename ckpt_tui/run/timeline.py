"""Sessions of a run: where each began, how far it came, what its end cost, and what a resume would do next."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import field
from itertools import pairwise

from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.run.health import Failures
from ckpt_tui.run.state import Lost, Phase, RunState, Session, Trained
from ckpt_tui.save_interval import is_failure

END_PHASES = {
    "finished": Phase.FINISHED, "interrupted": Phase.INTERRUPTED, "preempted": Phase.PREEMPTED,
    "failed": Phase.FAILED, "diverged": Phase.DIVERGED,
}  # fmt: skip

MAX_MARKS = 4000
MAX_GONE_BACK = 100
MAX_SESSIONS_JUDGED = 100


@dataclass(slots=True)
class SessionRecord:
    """A session while it is folded. lost_steps counts what later sessions trained again of it.

    last_step: the last step that any of its events told of; last_logged_step: of its step events, which pace needs.
    """

    number: int
    start_step: int
    start_ts: float
    last_step: int
    last_ts: float
    first_step: int | None = None  # of its first step event
    first_step_ts: float = 0.0
    last_logged_step: int = 0
    last_step_ts: float = 0.0
    stretch_ts: float = 0.0  # of the step event since which the clock did not jump back
    before_stretch_s: float = 0.0  # trained before that
    phase: Phase = Phase.RUNNING
    reason: str = ""
    is_started: bool = False  # its run_start was seen
    resumed_from: str | None = None
    retrained_steps: int = 0
    lost_steps: int = 0
    lost_s: float = 0.0
    wasted_s: float = 0.0  # of trained_s: steps that this session itself went back over
    gone_back: list[tuple[int, int]] = field(default_factory=list)  # to which step, and what it had reached
    marks: list[tuple[int, float]] = field(default_factory=list)  # step, `net_s` at it: where a resume may begin
    save_steps: list[int] = field(default_factory=list)
    process: ProcessIdentity = NOBODY
    reached_before: int = -(1 << 63)  # by the sessions before it

    @property
    def trained_s(self) -> float:
        """Time between its step events, never negative. From ends and not summed up: the same in any batches."""
        return self.before_stretch_s + (self.last_step_ts - self.stretch_ts)

    def train_until(self, ts: Sequence[float]) -> None:
        """Take the times of its next step events."""
        if ts[0] < self.last_step_ts or ts != sorted(ts):  # a clock that jumped back
            for before, after in pairwise([self.last_step_ts, *ts]):
                if after < before:
                    self.before_stretch_s += before - self.stretch_ts
                    self.stretch_ts = after
        self.last_step_ts = ts[-1]

    @property
    def seconds_per_step(self) -> float | None:
        """Its own pace between its first and last step event, evaluation and saving included; without what it went
        back over."""
        if self.first_step is None or self.last_logged_step <= self.first_step or self.net_s <= 0:
            return None
        return self.net_s / (self.last_logged_step - self.first_step)

    @property
    def net_s(self) -> float:
        """Time between its step events, without what it went back over."""
        return self.trained_s - self.wasted_s

    def mark(self, step: int, net_s: float) -> None:
        """Remember when `step` was reached. Marks rise in step; one that does not is of no use."""
        if not self.marks or self.marks[-1][0] < step:
            self.marks.append((step, net_s))
            if len(self.marks) > MAX_MARKS:
                del self.marks[1::2]

    def trained(self, pace: float) -> Trained:
        if self.first_step is None:
            return Trained((), self.last_step, pace)
        later = self.marks[bisect_right(self.marks, self.first_step, key=lambda mark: mark[0]) :]
        marks = ((self.first_step, 0.0), *later, (self.last_logged_step, self.net_s))
        return Trained(marks, self.last_step, pace)

    def seconds_after(self, step: int, pace: float) -> float:
        return self.trained(pace).seconds_after(step)

    def go_back(self, step: int, pace: float) -> float:
        """It trains again from `step` on; the seconds that this wastes."""
        wasted_s = self.seconds_after(step, pace)
        self.wasted_s += min(wasted_s, self.net_s)
        self.marks = [mark for mark in self.marks if mark[0] <= step]
        self.gone_back = [*self.gone_back[1 - MAX_GONE_BACK :], (max(step, 0), self.last_step)]
        self.last_step = self.last_logged_step = max(step, 0)
        return wasted_s

    def freeze(self, phase: Phase, reason: str, lost_now: int = 0, lost_now_s: float = 0.0) -> Session:
        return Session(
            number=self.number, start_step=self.start_step, last_step=self.last_step, start_ts=self.start_ts,
            last_ts=self.last_ts, phase=phase, reason=reason, resumed_from=self.resumed_from,
            retrained_steps=min(self.retrained_steps, max(self.last_step - self.start_step, 0)),
            lost_steps=self.lost_steps + lost_now,
            lost_s=self.lost_s + lost_now_s,
            save_steps=tuple(self.save_steps), **self.process.fields(),  # type: ignore[arg-type]
            first_step_ts=self.first_step_ts if self.first_step is not None else None,
            gone_back=tuple(self.gone_back),
        )  # fmt: skip


def pace_of(records: list[SessionRecord]) -> float:
    """Seconds a step over all sessions, 0 when not known."""
    seconds = sum(record.net_s for record in records if record.seconds_per_step is not None)
    steps = sum(
        record.last_logged_step - (record.first_step or 0) for record in records if record.seconds_per_step is not None
    )
    return seconds / steps if steps > 0 else 0.0


def lose_after(records: list[SessionRecord], step: int, pace: float) -> tuple[int, float]:
    """The next session goes on from `step`: of each earlier one what it trained above that is lost. Returns the steps
    and seconds that were not lost already; each is counted once, however often training goes back over it."""
    steps, seconds = 0, 0.0
    for record in reversed(records):
        if record.last_step <= step:
            if record.reached_before <= step:
                break  # nor did any before it
            continue
        kept = max(step, record.start_step)
        lost = record.last_step - kept
        if lost > record.lost_steps:
            lost_s = max(record.seconds_after(kept, pace), record.lost_s)
            steps += lost - record.lost_steps
            seconds += lost_s - record.lost_s
            record.lost_steps, record.lost_s = lost, lost_s
    return steps, seconds


def failures_of(records: list[SessionRecord]) -> Failures | None:
    """How often training was broken off and had to begin again, and what that took; None where it never did."""
    records = records[-MAX_SESSIONS_JUDGED:]
    costs = [
        max(after.first_step_ts - before.last_ts, 0.0) + before.lost_s for before, after in pairwise(records)
        if after.first_step is not None and is_failure(before.phase.value, before.lost_steps, is_chosen=True)
    ]  # fmt: skip
    trained_s = sum(record.trained_s for record in records)
    if not costs or trained_s <= 0:
        return None
    return Failures(trained_s / len(costs), sum(costs) / len(costs), len(costs))


def lost_so_far(records: list[SessionRecord], retrained: Lost, lost_now: Lost) -> Lost:
    """What crashes have cost: steps trained in vain, and the time all sessions took against one without a crash.

    retrained: trained again already. lost_now: since the checkpoint that a resume now would take.
    overhead: (time between the step events of all sessions) / (the same distance at the same pace, once) - 1;
    None before any lost step was trained again: only then has it cost time. Where not every step is told of, what a
    session trained before its first step event and after its last counts at that pace, too: else many short sessions
    would seem to have taken less than no time.
    """
    pace = pace_of(records)
    first = min((record.first_step for record in records if record.first_step is not None), default=0)
    without_crash = (max((record.last_logged_step for record in records), default=0) - first) * pace
    overhead: float | None = None
    if without_crash > 0 and retrained.steps:
        untold_s = pace * sum(map(_untold_steps, records[1:], records[:-1]))
        overhead = max((sum(record.trained_s for record in records) + untold_s) / without_crash - 1, 0.0)
    elif without_crash > 0 and not lost_now.steps:
        overhead = 0.0
    goodput = 1 / (1 + overhead) if overhead is not None and overhead > -1 else None
    return Lost(retrained.steps + lost_now.steps, retrained.seconds + lost_now.seconds, overhead, goodput)


def _untold_steps(record: SessionRecord, before: SessionRecord) -> int:
    """Steps between the last step event of one session and the first of the next that no two events enclose."""
    first = record.first_step - record.start_step - 1 if record.is_started and record.first_step is not None else 0
    last = before.last_step - before.last_logged_step if before.first_step is not None else 0
    return max(first, 0) + max(last, 0)


@dataclass(frozen=True, slots=True)
class ResumeOutlook:
    """What a resume from `checkpoint` would do: skip batches 0..skipped-1, redo `redone`, then train `new` more."""

    checkpoint: str | None
    step: int
    skipped: int
    redone: int
    new: int
    redone_s: float | None  # None when the pace is not known
    new_s: float | None

    @property
    def seconds(self) -> float | None:
        """For redone and new together."""
        return self.redone_s + self.new_s if self.redone_s is not None and self.new_s is not None else None


def seconds_above(state: RunState, step: int) -> float | None:
    """How long the steps above `step` took to train, which is what it takes to train them again; None when nobody
    knows the pace. As the header and the lanes say it as soon as `step` is what a resume takes."""
    pace, risk = state.seconds_per_step, state.at_risk
    if step >= state.step:
        return 0.0 if pace else None
    if state.trained is not None and state.trained.pace:
        return state.trained.seconds_after(step)
    if risk is None or step > risk.checkpoint_step or not (pace or risk.seconds):
        return (state.step - step) * pace if pace else None
    return risk.seconds + (risk.checkpoint_step - step) * (pace or 0.0)


def resume_outlook(state: RunState) -> ResumeOutlook:
    """From the newest valid checkpoint that the state knows, or from scratch."""
    at_risk = state.at_risk
    checkpoint, step = (at_risk.checkpoint, at_risk.checkpoint_step) if at_risk else (None, 0)
    redone = max(state.step - step, 0)
    new = max(state.total_steps - max(state.step, step), 0)
    new_s = new * state.seconds_per_step if state.seconds_per_step else None
    return ResumeOutlook(checkpoint, step, step, redone, new, seconds_above(state, step), new_s)
