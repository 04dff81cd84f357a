"""The rules that make an alert, and the list of alerts of a run: fed by the fold, in fixed memory.

What is looked at is cheap for each step (`loss_watch.py`, `pace_watch.py`: whole chunks at once). A trouble is one
alert with a first and a last step, however long it goes on; when it has passed it stays in the list and `is_over`.

Rules that need the moment, and not only the events (stalled, no save for long), are judged when the state is asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import field, replace
from itertools import pairwise
from operator import attrgetter

from ckpt_tui import text
from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import CheckpointFailed, Disk, Nonfinite
from ckpt_tui.records import dataclass
from ckpt_tui.run.health import median
from ckpt_tui.run.loss_watch import LossWatch
from ckpt_tui.run.pace_watch import PaceWatch
from ckpt_tui.run.state import Alert, Eta, Phase, RunState, Save
from ckpt_tui.run.whole_epochs import whole_epochs

# What `--fail-on` and `--exit-on` name.
KINDS = (
    "nonfinite", "spike", "stall", "throughput", "disk", "save_failed", "no_save", "checkpoint", "crash", "failed",
    "diverged", "restart",
)  # fmt: skip
# Of nobody's concern unless they are named: a crash that a live supervisor is mending is no alert.
ASKED_BY_NAME = frozenset({"restart"})
LOSS_NAMES = ("loss", "train_loss", "train/loss", "training_loss")
RATE_NAMES = ("lr", "learning_rate")

MAX_ALERTS = 200
MAX_TOLD = 50
TOLD_TOGETHER = 64  # steps between two that are one trouble
RATE_JUMP = 1.3  # from one step event to the next
FEW_SAVES, NO_SAVES = 3, 1
DISK_SAMPLES, LEAST_DISK_SAMPLES = 16, 6
DISK_HORIZON_S = 24 * 3600.0
LEAST_SAVES = 4  # whose distances tell an interval
UNPLANNED_KINDS = frozenset({"best", "emergency"})
LATE_SAVE = 3.0  # times the usual distance, and at least
LATE_SAVE_MAX = 1.5  # times the longest

# What `--fail-on` takes besides the kinds: everything, or everything of that severity.
ANY, SEVERITIES = "any", ("warning", "error")

_PHASE_TITLES = {
    Phase.CRASHED: "The run crashed", Phase.FAILED: "The run failed", Phase.DIVERGED: "The run diverged",
    Phase.STALLED: "The run is stalled",
}  # fmt: skip
_PHASE_KINDS = {Phase.CRASHED: "crash", Phase.STALLED: "stall"}


@dataclass(frozen=True, slots=True)
class _Told:
    session: int
    alert: Alert
    action: str  # what the trainer did about it


@dataclass(slots=True)
class Alarms:
    """Grows the alerts of a run. Each session has its own watches: another machine, another pace."""

    session: int = -1
    steps_per_epoch: int = 0
    loss_name: str = ""
    loss: LossWatch | None = None
    pace: PaceWatch | None = None
    before: LossWatch | None = None  # of the session before
    past: deque[Alert] = field(default_factory=lambda: deque(maxlen=MAX_ALERTS))
    told: deque[_Told] = field(default_factory=lambda: deque(maxlen=MAX_TOLD))  # not finite, by the trainer's own words
    save_failure: Alert | None = None
    few_saves: Alert | None = None
    disk: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=DISK_SAMPLES))  # time, bytes free
    disk_step: int = 0
    disk_since: tuple[int, float] | None = None  # step and time since which it fills
    _last_step: int = 0
    _epoch: int | None = None
    _epoch_ended: bool = False
    _is_warming: bool = True
    _rate: float | None = None
    _first_step: int = 0

    # What the fold tells.

    def begin_session(self, session: int) -> None:
        """Another session, or this one went back itself: nothing is usual any more."""
        self._end_watches()
        self.session = session
        self.loss, self.pace = LossWatch(session, self.loss_name or "loss", self.before), PaceWatch(session)
        self._last_step, self._epoch, self._rate = 0, None, None
        self._epoch_ended, self._is_warming = False, True

    def end_session(self) -> None:
        self._end_watches()
        for alert in (self.save_failure, self.few_saves):
            if alert is not None:
                self.past.append(replace(alert, is_over=True))
        self.save_failure = self.few_saves = self.disk_since = None
        self.disk.clear()

    def add_steps(self, steps: Sequence[int], ts: Sequence[float], epochs: Sequence[float | None]) -> None:
        """Steps of one session that rise; their metrics come with `add_metric`, then `advance` is called."""
        if self.pace is not None:
            self.pace.add(steps, ts)
        if self.loss is None:
            return
        if self._epoch_ended:
            self._epoch_ended = False
            self.loss.epoch(steps[0])
        if self.steps_per_epoch > 0:
            self._find_epochs(steps)
            return
        for first, whole in whole_epochs(epochs):
            if self._epoch is not None and whole != self._epoch:
                self.loss.epoch(steps[first])
            self._epoch = whole

    def _find_epochs(self, steps: Sequence[int]) -> None:
        """The first step event of each epoch, or the last of the one before: some count from 0, some from 1."""
        per_epoch, watch = self.steps_per_epoch, self.loss
        assert watch is not None
        before = self._last_step or steps[0]
        first, last = before // per_epoch, steps[-1] // per_epoch
        if last - first <= len(steps):
            starts = {bisect_left(steps, epoch * per_epoch) for epoch in range(first + 1, last + 1)}
        else:  # steps far apart: each may be of an epoch of its own
            starts = {i for i, (a, b) in enumerate(pairwise([before, *steps]))
                      if a // per_epoch != b // per_epoch}  # fmt: skip
        for start in sorted(starts):
            watch.epoch(steps[start])
        self._last_step = steps[-1]

    def add_metric(self, name: str, steps: Sequence[int], ts: Sequence[float], values: Sequence[float]) -> None:
        """A metric of the newest steps. Of several losses the first that came is the one."""
        if name in RATE_NAMES:
            self._add_rates(steps, values)
        elif name in LOSS_NAMES and self.loss is not None and self.loss_name in ("", name):
            self.loss_name = self.loss.name = name
            self.loss.add(steps, ts, values)

    def advance(self) -> None:
        if self.loss is not None and self.pace is not None:
            self.loss.advance()
            self.pace.advance()

    def epoch_ended(self) -> None:
        """The next step event is of another epoch, whatever its number."""
        self._epoch_ended = True

    def session_ended(self, phase: Phase, session: int, reason: str, step: int, ts: float) -> None:
        """An earlier session ended badly; kept, now that another one has begun."""
        alert = end_alert(phase, session, reason, step, ts)
        if alert is not None:
            self.past.append(replace(alert, is_over=True))

    def nonfinite(self, event: Nonfinite) -> None:
        """What the trainer itself found and did. Scattered infinite gradient norms are a loss scaler at work."""
        if "loss" not in event.what.lower():
            return
        detail = f"{event.what}; {event.action}" if event.action else event.what
        was = self.told[-1] if self.told else None
        if was is not None and was.session == self.session and 0 <= event.step - was.alert.last_step <= TOLD_TOGETHER:
            alert = replace(was.alert, detail=detail, last_step=event.step, last_ts=event.ts, count=was.alert.count + 1)
            self.told[-1] = _Told(self.session, alert, event.action)
            return
        self.told.append(_Told(self.session, Alert(
            f"nonfinite-{self.session}-{event.step}", "error", "Loss is not finite", detail, event.step, event.ts,
            kind="nonfinite", last_step=event.step, last_ts=event.ts, is_over=True,
        ), event.action))  # fmt: skip

    def save_failed(self, event: CheckpointFailed) -> None:
        detail = f"{event.path}: {event.stage}: {event.error}"
        was = self.save_failure
        if was is None:
            self.save_failure = Alert(
                f"save_failed-{self.session}-{event.step}", "error", "A save failed", detail, event.step, event.ts,
                kind="save_failed", last_step=event.step, last_ts=event.ts,
            )  # fmt: skip
            return
        detail += f" ({text.plural(was.count + 1, 'save')} in a row)"
        self.save_failure = replace(
            was, detail=detail, last_step=event.step, last_ts=event.ts, count=was.count + 1
        )  # fmt: skip

    def saved(self) -> None:
        if self.save_failure is not None:
            self.past.append(replace(self.save_failure, is_over=True))
            self.save_failure = None

    def disk_told(self, event: Disk) -> None:
        if event.free_bytes > 0:
            self.disk.append((event.ts, event.free_bytes))
            self.disk_step = event.step
            if not self._disk_fills():
                self.disk_since = None
            elif self.disk_since is None:
                self.disk_since = event.step, event.ts
        fit, was = event.saves_that_fit, self.few_saves
        if fit is None or fit >= FEW_SAVES:
            if was is not None:
                self.past.append(replace(was, is_over=True))
                self.few_saves = None
            return
        severity = "error" if fit < NO_SAVES else "warning"
        fits = text.plural(fit, "more save fits", "more saves fit") if fit > 0 else "no more save fits"
        detail = f"{fits}, {text.size(event.free_bytes)} free"
        if was is None:
            was = Alert(f"disk-{self.session}-{event.step}", severity, "The disk is nearly full", detail, event.step,
                        event.ts, kind="disk", count=0)  # fmt: skip
        self.few_saves = replace(was, severity=severity, detail=detail, last_step=event.step, last_ts=event.ts,
                                 count=was.count + 1)  # fmt: skip

    # What comes out.

    def alerts(self) -> list[Alert]:
        """All that the events alone tell, oldest first."""
        found = [*self.past]
        for watch in (self.loss, self.pace):
            if watch is not None:
                found += watch.alerts()
        # What the trainer said of a loss that was seen, too, is one alert, with what was done about it.
        for told in self.told:
            known, prefix = told.alert, f"nonfinite-{told.session}-"
            same = [
                i for i, alert in enumerate(found)
                if alert.key.startswith(prefix) and alert.step <= known.last_step and alert.last_step >= known.step
            ]  # fmt: skip
            if same:
                seen = found[same[-1]]
                found[same[-1]] = replace(seen, detail=f"{seen.detail}; {told.action}" if told.action else seen.detail)
            else:
                found.append(told.alert)
        found += [alert for alert in (self.save_failure, self.few_saves) if alert is not None]
        return found

    def disk_full_ts(self) -> float | None:
        """When the disk will be full if it goes on so; None where it does not fill, or too little is known."""
        if not self._disk_fills():
            return None
        samples = list(self.disk)
        # The median of the slopes between all pairs: one file that somebody removed does not bend it.
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(samples) for b in samples[i + 1 :] if b[0] > a[0]]
        slope = median(slopes)
        if slope is None or slope >= 0:
            return None
        return samples[-1][0] + samples[-1][1] / -slope

    def _disk_fills(self) -> bool:
        """Whether it mostly has less room each time: what retention removes makes room for what comes."""
        num_falls = sum(after[1] < before[1] for before, after in pairwise(self.disk))
        return len(self.disk) >= LEAST_DISK_SAMPLES and num_falls >= 0.7 * (len(self.disk) - 1)

    def _add_rates(self, steps: Sequence[int], values: Sequence[float]) -> None:
        watch = self.loss
        if watch is None or not values:
            return
        before = values[0] if self._rate is None else self._rate
        if self._rate is not None and values[0] == values[-1] == before and values.count(before) == len(values):
            return  # it is what it was
        if self._is_warming and values.count(before) < len(values):  # what never changes is no warm-up
            first = self._first_step = steps[0] if self._rate is None else self._first_step
            for step, (a, b) in zip(steps, pairwise([before, *values]), strict=True):
                if not b >= a:
                    self._is_warming = False
                    break
                if b > a:
                    watch.warm_until = step + (step - first)
        lowest = min(values)
        if lowest <= 0 or max(values) > RATE_JUMP * min(before, lowest):
            for step, value in zip(steps, values, strict=True):
                # From nothing it is warm-up, and no jump.
                if value > RATE_JUMP * before > 0:
                    watch.rate_jump(step)
                before = value
        self._rate = values[-1]

    def _end_watches(self) -> None:
        for watch in (self.loss, self.pace):
            if watch is not None:
                watch.end()
                self.past.extend(watch.closed)
        self.before = self.loss if self.loss is not None else self.before
        self.loss = self.pace = None


@dataclass(frozen=True, slots=True)
class Moment:
    """What the rules of a moment look at. last_ts, last_step: the last sign of life of session `session`."""

    now: float
    phase: Phase
    reason: str
    session: int
    last_step: int
    last_ts: float
    saves: Iterable[Save] = ()
    eta: Eta | None = None


def judge(alarms: Alarms, at: Moment) -> tuple[Alert, ...]:
    """Every alert of the run at a moment, oldest first, at most `MAX_ALERTS`."""
    found = alarms.alerts()
    if at.phase is Phase.FINISHED:
        found = [alert if alert.is_over else replace(alert, is_over=True) for alert in found]
    elif not at.phase.is_over:  # else what went on when it ended stays: it may be why
        for rule in _RULES:
            if (alert := rule(alarms, at)) is not None:
                _add(found, alert, alarms.save_failure)
    end = end_alert(at.phase, at.session, at.reason, at.last_step, at.last_ts)
    if end is not None:
        found.append(end if at.phase is not Phase.STALLED else replace(end, last_ts=at.now))
    found.sort(key=attrgetter("ts"))
    return tuple(found[-MAX_ALERTS:])


def _add(found: list[Alert], alert: Alert, save_failure: Alert | None) -> None:
    """No save because saves fail is one trouble: the failure says since when there is none."""
    if alert.kind == "no_save" and save_failure in found:
        assert save_failure is not None
        detail = f"{save_failure.detail}; no save for {alert.detail}"
        found[found.index(save_failure)] = replace(save_failure, detail=detail, also=("no_save",))
    else:
        found.append(alert)


def end_alert(phase: Phase, session: int, reason: str, step: int, ts: float) -> Alert | None:
    if phase not in _PHASE_TITLES:
        return None
    severity = "warning" if phase is Phase.STALLED else "error"
    return Alert(f"{phase.value}-{session}-{step}", severity, _PHASE_TITLES[phase], reason, step, ts,
                 kind=_PHASE_KINDS.get(phase, phase.value), last_step=step, last_ts=ts)  # fmt: skip


def disk_alert(alarms: Alarms, at: Moment) -> Alert | None:
    """The disk will be full before the run ends, and soon."""
    full_ts = alarms.disk_full_ts()
    if full_ts is None or alarms.few_saves is not None:
        return None
    left_s = max(full_ts - at.now, 0.0)
    if left_s > DISK_HORIZON_S or (at.eta is not None and left_s > at.eta.high_s):
        return None
    ts, free = alarms.disk[-1]
    return Alert(
        f"disk_full-{at.session}", "warning", "The disk will be full",
        f"in about {text.duration(left_s)} as it fills now, {text.size(free)} free",
        *(alarms.disk_since or (alarms.disk_step, ts)),
        kind="disk", last_step=alarms.disk_step, last_ts=ts,
    )  # fmt: skip


def late_save_alert(alarms: Alarms, at: Moment) -> Alert | None:
    """No save for far longer than the run's own interval."""
    if at.phase is not Phase.RUNNING:
        return None
    # A new best comes when it comes: it is a save, but tells no interval.
    of_session = [save for save in at.saves if save.session == at.session]
    placed = sorted({save.step: save.ts for save in reversed(of_session) if save.kind not in UNPLANNED_KINDS}.items())
    if len(placed) < LEAST_SAVES:
        return None
    step_gaps = sorted(b[0] - a[0] for a, b in pairwise(placed))
    time_gaps = sorted(b[1] - a[1] for a, b in pairwise(placed))
    last_step, last_ts = max((save.step, save.ts) for save in of_session)
    since_steps, since_s = at.last_step - last_step, at.last_ts - last_ts
    usual_steps, usual_s = step_gaps[len(step_gaps) // 2], time_gaps[len(time_gaps) // 2]
    is_late = since_steps > max(LATE_SAVE * usual_steps, LATE_SAVE_MAX * step_gaps[-1])
    # In time as well: a training that saves by the clock may have become faster.
    if not is_late or since_s <= max(LATE_SAVE * usual_s, LATE_SAVE_MAX * time_gaps[-1]):
        return None
    return Alert(
        f"no_save-{at.session}-{last_step}", "warning", "No save for long",
        f"{text.plural(since_steps, 'step')}, {text.duration(since_s)}, since step {last_step:,}; "
        f"usual were {text.plural(usual_steps, 'step')}",
        last_step, last_ts, kind="no_save", last_step=at.last_step, last_ts=at.last_ts,
    )  # fmt: skip


_RULES: tuple[Callable[[Alarms, Moment], Alert | None], ...] = (disk_alert, late_save_alert)


def chosen(alerts: Iterable[Alert], which: Collection[str]) -> tuple[Alert, ...]:
    """Those that `which` names, by kind, by severity, or `any`; not those that are over."""
    return tuple(alert for alert in alerts if not alert.is_over and not _names_of(alert).isdisjoint(which))


def _names_of(alert: Alert) -> set[str]:
    if alert.kind in ASKED_BY_NAME:
        return {alert.kind}
    return {ANY, alert.kind, alert.severity, *alert.also}


def asked_alerts(state: RunState) -> tuple[Alert, ...]:
    """The alerts of a run, with those that only who names them is told of."""
    if not state.phase.is_between:
        return state.alerts
    restart = Alert(
        f"restart-{state.session}-{state.step}", "warning", "The run ended, and is started again", state.reason,
        state.step, state.last_ts or state.now, kind="restart", last_step=state.step, last_ts=state.now,
    )  # fmt: skip
    return (*state.alerts, restart)


def read_which(words: str, flag: str) -> frozenset[str]:
    """`spike,save_failed` of a flag. Raises CkptError."""
    which = frozenset(word.strip().replace("-", "_") for word in words.split(",") if word.strip())
    known = (*KINDS, ANY, *SEVERITIES)
    unknown = sorted(which - set(known))
    if unknown or not which:
        said = f"{flag} does not know {text.safe_text(', '.join(unknown), 100)}" if unknown else f"{flag} names nothing"
        raise CkptError("Usage", said, f"There are: {', '.join(known)}; several with commas.")
    return which
