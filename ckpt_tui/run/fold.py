"""Folds a run's events into its state. The same fold serves the screens, plain commands, replay and tests.

Step events are the millions: they are gathered and poured into the series in blocks, whole columns at once. How the
events came in batches makes no difference to the state. Nothing that a log holds raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter, sub
from typing import Any

from ckpt_tui.events.schema import (
    BadLine,
    Best,
    CheckpointFailed,
    CheckpointRemoved,
    CheckpointRestored,
    CheckpointSaved,
    Disk,
    EpochEnd,
    ErrorRaised,
    Eval,
    Event,
    Nonfinite,
    RunEnd,
    RunStart,
    SignalReceived,
    Step,
)  # fmt: skip
from ckpt_tui.run import feed, health, timeline
from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.state import (
    Alert,
    AtRisk,
    BadLines,
    FeedLine,
    Marker,
    Phase,
    RunState,
    Save,
    Series,
    Session,
)  # fmt: skip
from ckpt_tui.run.timeline import SessionRecord

MAX_FEED_LINES = 1000
MAX_MARKERS = 4000
MAX_SAVES = 4000
MAX_SESSIONS = 2000
MAX_METRICS = 256
BLOCK_STEPS = 4096
MAX_STEP = (1 << 63) - 1  # what an array of the series can hold

_NUMBERS = (float, int)
_FLOATS = {float}
_NAN = float("nan")


class RunFold:
    """Apply events in the order of the log; ask for the state at any moment."""

    def __init__(self, directory: str = "") -> None:
        self.directory = directory
        self.notices: list[str] = []
        self.last_seq = 0
        self.num_events = 0
        self._pending: list[Step] = []
        self._series: dict[str, SeriesBuilder] = {}
        self._sessions: list[SessionRecord] = []
        self._start: RunStart | None = None
        self._saves: deque[Save] = deque(maxlen=MAX_SAVES)
        self._save_of_name: dict[str, Save] = {}
        self._markers: deque[Marker] = deque(maxlen=MAX_MARKERS)
        self._feed: deque[FeedLine] = deque(maxlen=MAX_FEED_LINES)
        self._alerts: dict[str, Alert] = {}
        self._bad_lines = BadLines()
        self._missing_lines = 0
        self._lost_steps = 0
        self._epoch: float | None = None
        self._best: Best | None = None
        self._disk: Disk | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=256)  # step and time of the session's last step events
        self._pause_s = 0.0  # evaluation and saving of this session
        self._longest_pause_s = 0.0
        self._start_ts: float | None = None
        self._last_ts: float | None = None

    def apply(self, event: Event | BadLine) -> None:
        self.apply_all((event,))

    def apply_all(self, events: Iterable[Event | BadLine]) -> None:
        pending = self._pending
        for event in events:
            if type(event) is Step:
                pending.append(event)
            else:
                if pending:
                    self._pour()
                self._apply_other(event)
            if len(pending) >= BLOCK_STEPS:
                self._pour()

    # Steps, in blocks.

    def _pour(self) -> None:
        """Take the gathered steps, split where the session changes or steps go back."""
        block = self._pending[:]
        self._pending.clear()
        self.num_events += len(block)
        sessions, steps, ts = (list(map(attrgetter(name), block)) for name in ("session", "step", "ts"))
        self._count_missing(list(map(attrgetter("seq"), block)))
        start = 0
        for index in range(1, len(block)) if not _is_plain(sessions, steps) else ():
            if sessions[index] != sessions[index - 1] or steps[index] < steps[index - 1]:
                self._take_steps(block[start:index], steps[start:index], ts[start:index])
                start = index
        self._take_steps(block[start:], steps[start:], ts[start:])

    def _count_missing(self, seqs: list[int]) -> None:
        first, last = seqs[0], seqs[-1]
        if last - first == len(seqs) - 1 and (first == self.last_seq + 1 or not self.last_seq) and first > 0:
            self.last_seq = last
            return
        for seq in seqs:
            if seq > self.last_seq + 1 and self.last_seq:
                self._missing_lines += seq - self.last_seq - 1
            self.last_seq = max(self.last_seq, seq)

    def _take_steps(self, block: list[Step], steps: list[int], ts: list[float]) -> None:
        """Steps of one session that rise."""
        session = self._session_of(block[0], steps[0] - 1)
        if session.first_step is None:
            session.first_step, session.first_step_ts = steps[0], ts[0]
            session.last_step_ts = ts[0]
            self._continue_from(session, steps[0] - 1)
        elif steps[0] < session.last_logged_step:
            self._go_back(session, steps[0] - 1, ts[0])
        gaps = list(map(sub, ts, [session.last_step_ts, *ts[:-1]]))
        if min(gaps) >= 0:
            session.trained_s += sum(gaps)
        else:  # a clock that jumped back
            session.trained_s += sum(gap for gap in gaps if gap > 0)
        since_last_event = max(ts[0] - session.last_ts, 0.0)
        self._longest_pause_s = max(self._longest_pause_s, since_last_event, *gaps[1:])
        session.last_logged_step, session.last_step_ts, session.last_ts = steps[-1], ts[-1], ts[-1]
        session.last_step = max(session.last_step, steps[-1])
        self._recent.extend(zip(steps[-256:], ts[-256:], strict=True))
        if block[-1].epoch is not None:
            self._epoch = block[-1].epoch
        self._seen(ts[0])
        self._seen(ts[-1])
        self._add_metrics(session.number, steps, ts, [event.metrics for event in block])

    def _add_metrics(self, session: int, steps: list[int], ts: list[float], rows: list[dict[str, Any]]) -> None:
        names = list(rows[0])
        if list(map(list, rows)).count(names) == len(rows):
            for name, column in zip(names, zip(*map(dict.values, rows), strict=True), strict=True):
                self._add_column(name, session, steps, ts, column)
        else:
            for name in dict.fromkeys(name for row in rows for name in row):
                having = [index for index, row in enumerate(rows) if name in row]
                self._add_column(
                    name, session, [steps[i] for i in having], [ts[i] for i in having], [rows[i][name] for i in having]
                )

    def _add_column(self, name: str, session: int, steps: list[int], ts: list[float], column: Any) -> None:
        if set(map(type, column)) != _FLOATS:
            having = [index for index, value in enumerate(column) if type(value) in _NUMBERS]
            if not having:
                return
            steps, ts = [steps[i] for i in having], [ts[i] for i in having]
            column = [_as_float(column[i]) for i in having]
        builder = self._series.get(name)
        if builder is None:
            if len(self._series) >= MAX_METRICS:
                return
            builder = self._series[name] = SeriesBuilder(name)
        builder.add_all(
            session, steps if steps[0] > -MAX_STEP and steps[-1] < MAX_STEP else list(map(_bounded, steps)), ts, column
        )
        if name == "loss" and column[-1] - column[-1] != 0:
            self._alert(
                "nonfinite", "error", "Loss is not finite", f"loss is {column[-1]} at step {steps[-1]:,}", steps[-1],
                ts[-1],
            )  # fmt: skip

    # Sessions.

    def _session_of(self, event: Event, start_step: int) -> SessionRecord:
        """The record of an event's session; a session whose start the log does not tell begins here."""
        if self._sessions:
            last = self._sessions[-1]
            begins_one = event.session != last.number if isinstance(event, Step) else event.session > last.number
            if not begins_one or event.session <= 0 or getattr(event, "by", "") == "viewer":
                return last
        return self._begin_session(event, max(start_step, 0))

    def _begin_session(self, event: Event, start_step: int) -> SessionRecord:
        if self._sessions and self._sessions[-1].phase is Phase.RUNNING:
            before = self._sessions[-1]
            before.phase, before.reason = Phase.CRASHED, "the next session began without its end"
            self._mark("crash", before.last_step, before.last_ts, before.number, "crashed")
        record = SessionRecord(event.session, start_step, event.ts, start_step, event.ts)
        self._sessions.append(record)
        del self._sessions[:-MAX_SESSIONS]
        self._recent.clear()
        self._pause_s = 0.0
        self._alerts.pop("nonfinite", None)
        return record

    def _continue_from(self, session: SessionRecord, step: int) -> None:
        """What earlier sessions trained above `step` is trained again."""
        if len(self._sessions) < 2 or self._sessions[-1] is not session:
            return
        before = self._sessions[-2]
        lost = max(before.last_step - max(step, 0), 0)
        if lost > before.lost_steps:
            self._lost_steps += lost - before.lost_steps
            before.lost_steps = lost
            session.retrained_steps = lost
            for builder in self._series.values():
                builder.abandon_after(step)

    def _go_back(self, session: SessionRecord, step: int, ts: float) -> None:
        """Steps went back without a new session: a roll-back in the loop."""
        lost = session.last_step - max(step, 0)
        session.last_step = max(step, 0)
        self._lost_steps += lost
        session.retrained_steps += lost
        for builder in self._series.values():
            builder.abandon_after(step)
        self._mark("resume", step, ts, session.number, f"went back to step {step:,}")
        self._recent.clear()

    # Everything else.

    def _apply_other(self, event: Event | BadLine) -> None:
        if isinstance(event, BadLine):
            if not self._bad_lines.count:
                self._bad_lines = BadLines(1, event.offset, event.reason)
            else:
                self._bad_lines = replace(self._bad_lines, count=self._bad_lines.count + 1)
            return
        self.num_events += 1
        self._count_missing([event.seq])
        is_of_training = not (isinstance(event, CheckpointRestored) and event.by == "viewer")
        if is_of_training:
            self._seen(event.ts)
        if isinstance(event, RunStart):
            session = self._begin_session(event, max(event.start_step, 0))
            self._run_start(event, session)
        else:
            session = self._session_of(event, event.step)
            if is_of_training:  # what a person did to the files afterwards is no sign of life
                self._longest_pause_s = max(self._longest_pause_s, event.ts - session.last_ts)
                session.last_ts = event.ts
            if not isinstance(event, CheckpointRestored):  # tells of a file's step, not of the training's
                session.last_step = max(session.last_step, event.step)
        apply = _APPLY.get(type(event))
        if apply is not None:
            apply(self, event, session)
        line = feed.feed_line(event)
        if line is not None:
            self._feed.append(line)

    def _run_start(self, event: RunStart, session: SessionRecord) -> None:
        self._start = event
        session.pid, session.pid_started, session.host = event.pid, event.pid_started, event.host
        path = (event.resumed_from or {}).get("path")
        session.resumed_from = path if isinstance(path, str) else None
        if len(self._sessions) > 1:
            self._continue_from(session, session.start_step)
            self._mark("resume", session.start_step, event.ts, session.number, f"session {session.number}")

    def _eval(self, event: Eval, session: SessionRecord) -> None:
        self._pause_s += max(event.seconds or 0.0, 0.0)
        self._add_metrics(session.number, [event.step], [event.ts], [event.metrics])

    def _epoch_end(self, event: EpochEnd, session: SessionRecord) -> None:
        if event.epoch is not None:
            self._epoch = event.epoch

    def _saved(self, event: CheckpointSaved, session: SessionRecord) -> None:
        names = tuple(dict.fromkeys((*([event.path] if event.path else ()), *event.names)))
        save = Save(
            path=event.path, kind=event.kind, step=event.step, ts=event.ts, session=session.number,
            size_bytes=event.bytes, digest=event.digest, save_s=event.save_seconds, stall_s=event.stall_seconds,
            val_loss=event.val_loss, names=names,
        )  # fmt: skip
        self._saves.append(save)
        self._save_of_name.update(dict.fromkeys(names, save))
        if not session.save_steps or session.save_steps[-1] != event.step:
            session.save_steps.append(event.step)
        self._pause_s += max(event.stall_seconds or 0.0, 0.0)
        self._mark("save", event.step, event.ts, session.number, event.kind or event.path)
        self._alerts.pop("save_failed", None)

    def _save_failed(self, event: CheckpointFailed, session: SessionRecord) -> None:
        self._mark("save_failed", event.step, event.ts, session.number, event.stage)
        detail = f"{event.path}: {event.stage}: {event.error}"
        self._alert("save_failed", "error", "A save failed", detail, event.step, event.ts)

    def _removed(self, event: CheckpointRemoved, session: SessionRecord) -> None:
        self._save_of_name.pop(event.path, None)

    def _restored(self, event: CheckpointRestored, session: SessionRecord) -> None:
        source = self._save_of_name.get(event.source)
        if source is not None:
            self._save_of_name[event.path] = source
        self._mark("restore", event.step, event.ts, session.number, event.path)

    def _new_best(self, event: Best, session: SessionRecord) -> None:
        self._best = event
        self._mark("best", event.step, event.ts, session.number, event.metric)

    def _nonfinite(self, event: Nonfinite, session: SessionRecord) -> None:
        self._mark("nonfinite", event.step, event.ts, session.number, event.what)
        # Scattered infinite gradient norms are a loss scaler at work: shown in the lane, no alarm.
        if "loss" in event.what.lower():
            detail = f"{event.what}; {event.action}" if event.action else event.what
            self._alert("nonfinite", "error", "Not finite", detail, event.step, event.ts)

    def _signal(self, event: SignalReceived, session: SessionRecord) -> None:
        self._mark("signal", event.step, event.ts, session.number, event.signal)

    def _disk_told(self, event: Disk, session: SessionRecord) -> None:
        self._disk = event
        fit = event.saves_that_fit
        if fit is not None and fit < 3:
            self._alert("disk", "error" if fit < 1 else "warning", "The disk is nearly full",
                        f"{max(fit, 0)} more saves fit", event.step, event.ts)  # fmt: skip
        else:
            self._alerts.pop("disk", None)

    def _error(self, event: ErrorRaised, session: SessionRecord) -> None:
        session.reason = f"{event.type}: {event.message}" if event.type else event.message
        self._mark("error", event.step, event.ts, session.number, event.type)

    def _run_end(self, event: RunEnd, session: SessionRecord) -> None:
        session.phase = timeline.END_PHASES.get(event.status, Phase.FAILED)
        session.reason = event.reason or session.reason
        kind = "finish" if session.phase is Phase.FINISHED else "stop"
        self._mark(kind, session.last_step, event.ts, session.number, event.status)

    def _mark(self, kind: str, step: int, ts: float, session: int, label: str) -> None:
        self._markers.append(Marker(kind, step, ts, session, label))

    def _alert(self, key: str, severity: str, title: str, detail: str, step: int, ts: float) -> None:
        self._alerts[key] = Alert(key, severity, title, detail, step, ts)

    def _seen(self, ts: float) -> None:
        if self._start_ts is None:
            self._start_ts = ts
        self._last_ts = ts

    def last_process(self) -> tuple[int, float, str]:
        """Pid, its start time and host of the last session, zeros and "" when not told."""
        if not self._sessions:
            return 0, 0.0, ""
        last = self._sessions[-1]
        return last.pid, last.pid_started, last.host

    # The state.

    def state(
        self,
        now: float,
        *,
        is_process_alive: bool | None = None,
        invalid_checkpoints: Collection[str] = (),
        existing_names: Collection[str] | None = None,
    ) -> RunState:
        """Everything that is known at `now`, Unix seconds.

        is_process_alive: of the last session's process, None when it cannot be known. invalid_checkpoints: names known
        to be damaged. existing_names: what is in the run directory, None when nobody looked.
        """
        if self._pending:
            self._pour()
        if not self._sessions:
            return RunState(now, self.directory, bad_lines=self._bad_lines, num_events=self.num_events,
                            notices=tuple(self.notices))  # fmt: skip
        last = self._sessions[-1]
        silence_s = max(now - last.last_ts, 0.0)
        phase, reason = last.phase, last.reason
        if phase is Phase.RUNNING:
            phase, why = health.judge_phase(silence_s, self._rhythm(), is_process_alive)
            reason = why or reason
        step = max(last.last_step, 0)
        pace = timeline.pace_of(self._sessions)
        recent_pace = health.median(self._paces()) or last.seconds_per_step or pace
        usable = {
            name: save for name, save in self._save_of_name.items()
            if save.step <= step and name not in invalid_checkpoints
            and (existing_names is None or name in existing_names)
        }  # fmt: skip
        at_risk = self._at_risk(usable, step, last.seconds_per_step or pace)
        is_lost = phase.is_over and phase is not Phase.FINISHED
        start = self._start or RunStart()
        sessions = self._frozen_sessions(phase, reason, at_risk.steps if is_lost else 0, pace)
        total = max(start.total_steps, 0)
        loss, val_loss = self._series.get("loss"), self._series.get("val_loss")
        best = self._best
        eta = None
        if phase in (Phase.RUNNING, Phase.STALLED) and total:
            trained = max(step - (last.first_step or step), 1)
            eta = health.estimate(max(total - step, 0), self._paces(), self._pause_s / trained, silence_s)
        return RunState(
            now=now, directory=self.directory, name=start.run_name, phase=phase, reason=reason, session=last.number,
            step=step, total_steps=total, steps_per_epoch=max(start.steps_per_epoch, 0), epoch=self._epoch,
            start_ts=self._start_ts, last_ts=self._last_ts, pid=last.pid, pid_started=last.pid_started, host=last.host,
            config=start.config, argv=tuple(start.argv), cwd=start.cwd, versions=start.versions,
            steps_per_s=1 / recent_pace if recent_pace else None, tokens_per_s=self._tokens_per_s(), eta=eta,
            last_loss=loss.last if loss else None, last_val_loss=val_loss.last if val_loss else None,
            best_metric=best.metric if best else "val_loss" if val_loss else "loss" if loss else "",
            best_value=best.value if best else val_loss.best if val_loss else loss.best if loss else None,
            best_step=best.step if best else None, at_risk=at_risk,
            lost=timeline.lost_so_far(self._sessions, self._lost_steps, at_risk.steps if is_lost else 0),
            saves_that_fit=self._disk.saves_that_fit if self._disk else None,
            free_bytes=self._disk.free_bytes if self._disk else None, sessions=sessions,
            saves=self._frozen_saves(existing_names), markers=self._frozen_markers(phase, last),
            series=self._frozen_series(), feed=tuple(self._feed), alerts=self._frozen_alerts(phase, reason, last),
            bad_lines=self._bad_lines, missing_lines=self._missing_lines, num_events=self.num_events,
            notices=tuple(self.notices),
        )  # fmt: skip

    def _rhythm(self) -> health.Rhythm:
        times = [ts for _, ts in self._recent]
        gaps = [b - a for a, b in pairwise(times) if b >= a]
        return health.Rhythm(health.median(gaps), self._longest_pause_s)

    def _paces(self) -> list[float]:
        """Recent seconds a step."""
        recent = list(self._recent)
        return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(recent)
                if b[0] > a[0] and b[1] > a[1]]  # fmt: skip

    def _tokens_per_s(self) -> float | None:
        for name in ("tokens_per_s", "tokens_per_second", "tok_per_s", "samples_per_s"):
            if name in self._series:
                return self._series[name].last
        return None

    @staticmethod
    def _at_risk(usable: dict[str, Save], step: int, pace: float) -> AtRisk:
        # Of one content's names the one under which it was told: latest.pt is overwritten by the next save.
        newest = max(usable.items(), key=lambda item: (item[1].step, item[1].ts, item[0] == item[1].path), default=None)
        if newest is None:
            return AtRisk(step, step * pace, None)
        name, save = newest
        steps = step - save.step
        return AtRisk(steps, steps * pace, name, save.step, save.ts)

    def _frozen_sessions(self, phase: Phase, reason: str, lost_now: int, pace: float) -> tuple[Session, ...]:
        *before, last = self._sessions
        frozen = [record.freeze(record.phase, record.reason, record.lost_steps, pace) for record in before]
        return (*frozen, last.freeze(phase, reason, last.lost_steps + lost_now, last.seconds_per_step or pace))

    def _frozen_saves(self, existing_names: Collection[str] | None) -> tuple[Save, ...]:
        def is_there(save: Save) -> bool:
            return any(
                self._save_of_name.get(name) is save and (existing_names is None or name in existing_names)
                for name in save.names
            )

        return tuple(save if is_there(save) else replace(save, removed=True) for save in self._saves)

    def _frozen_markers(self, phase: Phase, last: SessionRecord) -> tuple[Marker, ...]:
        if phase is Phase.CRASHED and last.phase is Phase.RUNNING:
            return (*self._markers, Marker("crash", last.last_step, last.last_ts, last.number, "crashed"))
        return tuple(self._markers)

    def _frozen_series(self) -> dict[str, Series]:
        return {name: builder.freeze() for name, builder in self._series.items()}

    def _frozen_alerts(self, phase: Phase, reason: str, last: SessionRecord) -> tuple[Alert, ...]:
        alerts = list(self._alerts.values())
        titles = {Phase.CRASHED: "The run crashed", Phase.FAILED: "The run failed", Phase.DIVERGED: "The run diverged",
                  Phase.STALLED: "The run is stalled"}  # fmt: skip
        if phase in titles:
            severity = "warning" if phase is Phase.STALLED else "error"
            alerts.append(
                Alert(f"{phase.value}-{last.number}", severity, titles[phase], reason, last.last_step, last.last_ts)
            )
        return tuple(alerts)


_APPLY: dict[type[Event], Any] = {
    Eval: RunFold._eval, EpochEnd: RunFold._epoch_end, CheckpointSaved: RunFold._saved,
    CheckpointFailed: RunFold._save_failed, CheckpointRemoved: RunFold._removed,
    CheckpointRestored: RunFold._restored, Best: RunFold._new_best, Nonfinite: RunFold._nonfinite,
    SignalReceived: RunFold._signal, Disk: RunFold._disk_told, ErrorRaised: RunFold._error, RunEnd: RunFold._run_end,
}  # fmt: skip


def _is_plain(sessions: list[int], steps: list[int]) -> bool:
    """One session whose steps never go back, told without a loop in Python. Two lines may tell of one step."""
    return sessions.count(sessions[0]) == len(sessions) and min(map(sub, steps[1:], steps), default=0) >= 0


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return _NAN


def _bounded(step: int) -> int:
    return max(-MAX_STEP, min(step, MAX_STEP))
