"""Folds a run's events into its state. The same fold serves the screens, plain commands, replay and tests.

Step events are the millions: they are gathered and poured into the series in blocks, whole columns at once. How the
events came in batches makes no difference to the state. Nothing that a log holds raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import sub
from typing import Any

from ckpt_tui.events.blocks import Column, StepBlock, Told
from ckpt_tui.events.codec import NONFINITE
from ckpt_tui.events.schema import (
    BadLine,
    Best,
    CheckpointFailed,
    CheckpointQuarantined,
    CheckpointRemoved,
    CheckpointRestored,
    CheckpointSaved,
    Disk,
    EpochEnd,
    ErrorRaised,
    Eval,
    Event,
    LostWork,
    Nonfinite,
    RunEnd,
    RunStart,
    SaveAdvice,
    SignalReceived,
    Step,
    Supervised,
    System,
)  # fmt: skip
from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.run import feed, sessions, timeline
from ckpt_tui.run.alerts import LOSS_NAMES, RATE_NAMES
from ckpt_tui.run.beside import NOTHING, Beside
from ckpt_tui.run.config_changes import changed_settings
from ckpt_tui.run.folded import MAX_SAVES, Folded
from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.state import (
    BadLines,
    Marker,
    Phase,
    RunState,
    Save,
    Series,
)  # fmt: skip
from ckpt_tui.run.step_columns import Columns, Row, columns_of
from ckpt_tui.run.timeline import SessionRecord

MAX_METRICS = 256
MAX_GPUS = 16
BLOCK_STEPS = 4096
WATCHED_NAMES = frozenset((*LOSS_NAMES, *RATE_NAMES))
MAX_STEP = (1 << 63) - 1  # what an array of the series can hold


SUPERVISOR_MARKS = ("restart", "gave_up")  # its other events stand where the training itself told of its end
PAUSES = (Eval, CheckpointSaved, CheckpointFailed, EpochEnd)  # what training stands still for

WITHIN_NOISE = "within the noise of the evaluation"

_NUMBERS = (float, int)
_FLOATS = {float}
_NAN = float("nan")


class RunFold:
    """Apply events in the order of the log; ask for the state at any moment."""

    def __init__(self, directory: str = "") -> None:
        self._folded = Folded(directory)
        self.notices = self._folded.notices  # lasting facts about the log itself; the monitor adds to them
        self.last_seq = 0
        self._pending: list[Step] = []

    def apply(self, event: Event | BadLine) -> None:
        self.apply_all((event,))

    def apply_all(self, told: Iterable[Told]) -> None:
        for told_type, group in groupby(told, type):
            if told_type is Step:
                self._pending.extend(group)  # type: ignore[arg-type]  # by their type
                if len(self._pending) >= BLOCK_STEPS:
                    self._pour()
                continue
            if self._pending:
                self._pour()
            for one in group:
                if isinstance(one, StepBlock):
                    self._take_rows(one.rows, one.columns)
                else:
                    self._apply_other(one)

    def skip_to(self, ts: float) -> None:
        """Events are left out here, up to one at `ts`: the silence between is none, and no pause is counted."""
        self._folded.longest_pause_s = self._folded.pause_s = self._folded.one_long_pause_s = 0.0
        if self._folded.sessions:
            self._folded.sessions[-1].last_ts = ts

    # Steps, in blocks.

    def _pour(self) -> None:
        """Take the gathered steps."""
        block = self._pending[:]
        self._pending.clear()
        self._take_rows(block, lambda start, stop: columns_of(block[start:stop], self._has_room_for))

    def _take_rows(self, rows: Sequence[Row], columns: Columns) -> None:
        """Steps as they follow each other, split where the session changes or steps go back."""
        self._folded.num_events += len(rows)
        numbers, steps, ts = [row.session for row in rows], [row.step for row in rows], [row.ts for row in rows]
        first, last = rows[0].seq, rows[-1].seq
        if last - first == len(rows) - 1 and (first == self.last_seq + 1 or not self.last_seq) and first > 0:
            self.last_seq = last
        else:
            self._count_missing([row.seq for row in rows])
        if _is_plain(numbers, steps):
            self._take_steps(rows, steps, ts, columns(0, len(rows)))
            return
        start = 0
        for index in range(1, len(rows) + 1):
            if (
                index == len(rows) or numbers[index] != numbers[index - 1] or steps[index] < steps[index - 1]
            ):  # fmt: skip
                self._take_steps(rows[start:index], steps[start:index], ts[start:index], columns(start, index))
                start = index

    def _count_missing(self, seqs: list[int]) -> None:
        for seq in seqs:
            if seq > self.last_seq + 1 and self.last_seq:
                self._folded.missing_lines += seq - self.last_seq - 1
            self.last_seq = max(self.last_seq, seq)

    def _take_steps(self, block: Sequence[Row], steps: list[int], ts: list[float], columns: Iterable[Column]) -> None:
        """Steps of one session that rise."""
        if sessions.is_of_another_process(self._folded, block[0]):
            sessions.tell_of_another_process(self._folded, block[0].session)
            return  # neither a branch of this session nor a new one: its curve would be a zigzag
        session = sessions.session_of(self._folded, block[0], steps[0] - 1)
        if session.first_step is None:
            session.first_step, session.first_step_ts = steps[0], ts[0]
            session.last_step_ts = session.stretch_ts = ts[0]
            sessions.continue_from(self._folded, session, steps[0] - 1)
        elif steps[0] < session.last_logged_step:
            sessions.go_back(self._folded, session, steps[0] - 1, ts[0])
        self._folded.paused(ts[0] - session.last_ts)
        if max(map(sub, ts[1:], ts), default=0.0) > self._folded.longest_pause_s:
            self._folded.paused(*map(sub, ts[1:], ts))
        session.train_until(ts)
        session.last_logged_step, session.last_ts = steps[-1], ts[-1]
        session.last_step = max(session.last_step, steps[-1])
        self._folded.recent.extend(zip(steps[-256:], ts[-256:], strict=True))
        epochs = [row.epoch for row in block]
        epoch = (
            epochs[-1] if epochs[-1] is not None else next((one for one in reversed(epochs) if one is not None), None)
        )
        self._folded.epoch = self._folded.epoch if epoch is None else epoch
        self._seen(ts[0])
        self._seen(ts[-1])
        alarms = self._folded.alarms
        alarms.add_steps(steps, ts, epochs)
        for name, column, are_floats in columns:
            self._add_column(name, session.number, steps, ts, column, are_floats=are_floats)
        if self._folded.start is None or self._folded.start.steps_per_epoch <= 0:
            self._add_epochs(session.number, steps, ts, epochs)
        alarms.advance()

    def _add_epochs(self, session: int, steps: list[int], ts: list[float], told: list[float | None]) -> None:
        """Where nobody says how many steps an epoch has, what the lines say of theirs is the only measure of it."""
        if None in told:
            having = [index for index, epoch in enumerate(told) if epoch is not None]
            if not having:
                return
            steps, ts, told = [steps[i] for i in having], [ts[i] for i in having], [told[i] for i in having]
        if self._folded.epochs is None:
            self._folded.epochs = SeriesBuilder("epoch")
        in_range = steps[0] > -MAX_STEP and steps[-1] < MAX_STEP
        self._folded.epochs.add_all(session, steps if in_range else list(map(_bounded, steps)), ts, told)  # type: ignore[arg-type]  # no None is left

    def _add_metrics(self, session: int, event: Event, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            self._add_column(name, session, [event.step], [event.ts], [value])

    def _has_room_for(self, name: str) -> bool:
        return name in self._folded.series or len(self._folded.series) < MAX_METRICS

    def _add_column(
        self, name: str, session: int, steps: list[int], ts: list[float], column: Any, *, are_floats: bool = False
    ) -> None:
        if not are_floats and set(map(type, column)) != _FLOATS:
            column = [NONFINITE.get(value) if type(value) is str else value for value in column]
            having = [index for index, value in enumerate(column) if type(value) in _NUMBERS]
            if not having:
                return
            steps, ts = [steps[i] for i in having], [ts[i] for i in having]
            column = [_as_float(column[i]) for i in having]
        builder = self._folded.series.get(name)
        if builder is None:
            if len(self._folded.series) >= MAX_METRICS:
                return
            builder = self._folded.series[name] = SeriesBuilder(name)
        builder.add_all(
            session, steps if steps[0] > -MAX_STEP and steps[-1] < MAX_STEP else list(map(_bounded, steps)), ts, column
        )
        if name in WATCHED_NAMES:
            self._folded.alarms.add_metric(name, steps, ts, column)

    # What each other event means.

    def _apply_other(self, event: Event | BadLine) -> None:
        if isinstance(event, BadLine):
            if not self._folded.bad_lines.count:
                self._folded.bad_lines = BadLines(1, event.offset, event.reason)
            else:
                self._folded.bad_lines = replace(self._folded.bad_lines, count=self._folded.bad_lines.count + 1)
            return
        self._folded.num_events += 1
        self._count_missing([event.seq])
        is_of_training = not (
            isinstance(event, Supervised) or (isinstance(event, CheckpointRestored) and event.by == "viewer")
        )
        if is_of_training:
            self._seen(event.ts)
        if isinstance(event, RunStart) and event.extra.get("source") and sessions.is_last(self._folded, event.session):
            self._folded.start = event  # another's log tells its totals when it comes to them
            return
        if isinstance(event, RunStart):
            sessions.forget_what_came_before(self._folded, event)
            session = sessions.begin_session(self._folded, event, max(event.start_step, 0))
            self._run_start(event, session)
        else:
            session = sessions.session_of(self._folded, event, event.step)
            if is_of_training:  # what a person did to the files afterwards is no sign of life
                self._folded.paused(event.ts - session.last_ts, is_explained=isinstance(event, PAUSES))
                session.last_ts = event.ts
            if not isinstance(event, CheckpointRestored):  # tells of a file's step, not of the training's
                session.last_step = max(session.last_step, event.step)
        apply = _APPLY.get(type(event))
        if apply is not None:
            apply(self, event, session)
        line = feed.feed_line(event)
        if line is not None:
            self._folded.feed.append(line)

    def _run_start(self, event: RunStart, session: SessionRecord) -> None:
        before, self._folded.start = self._folded.start, event
        if before is not None and before.config != event.config:
            changes = changed_settings(before.config, event.config)
            if changes:
                self._folded.mark("config", max(event.start_step, 0), event.ts, session.number, changes)
        self._folded.alarms.steps_per_epoch = event.steps_per_epoch
        session.is_started = True
        session.process = event.process
        path = (event.resumed_from or {}).get("path")
        session.resumed_from = path if isinstance(path, str) else None
        if len(self._folded.sessions) > 1:
            sessions.continue_from(self._folded, session, session.start_step)
            self._folded.mark("resume", session.start_step, event.ts, session.number, f"session {session.number}")

    def _eval(self, event: Eval, session: SessionRecord) -> None:
        self._folded.pause_s += max(event.seconds or 0.0, 0.0)
        self._folded.eval_noise.add(event.metrics)
        self._add_metrics(session.number, event, event.metrics)

    def _epoch_end(self, event: EpochEnd, session: SessionRecord) -> None:
        if event.epoch is not None:
            self._folded.epoch = event.epoch
        self._folded.alarms.epoch_ended()

    def _saved(self, event: CheckpointSaved, session: SessionRecord) -> None:
        names = tuple(dict.fromkeys((*([event.path] if event.path else ()), *event.names)))
        save = Save(
            path=event.path, kind=event.kind, step=event.step, ts=event.ts, session=session.number,
            size_bytes=event.bytes, digest=event.digest, save_s=event.save_seconds, stall_s=event.stall_seconds,
            val_loss=event.val_loss, names=names,
        )  # fmt: skip
        self._folded.add_save(save)
        if not session.save_steps or session.save_steps[-1] != event.step:
            session.save_steps.append(event.step)
            del session.save_steps[:-MAX_SAVES]
            session.mark(event.step, sessions.net_s_at(self._folded, session, event.step))
            for builder in self._folded.series.values():
                builder.cut_after(event.step)
        self._folded.pause_s += max(event.stall_seconds or 0.0, 0.0)
        self._folded.mark("save", event.step, event.ts, session.number, event.kind or event.path)
        self._folded.alarms.saved()

    def _save_failed(self, event: CheckpointFailed, session: SessionRecord) -> None:
        self._folded.mark("save_failed", event.step, event.ts, session.number, event.stage)
        self._folded.alarms.save_failed(event)

    def _removed(self, event: CheckpointRemoved | CheckpointQuarantined, session: SessionRecord) -> None:
        self._folded.remove_name(event.path)

    def _restored(self, event: CheckpointRestored, session: SessionRecord) -> None:
        self._folded.put_back(event.path, event.source)
        if event.path.removesuffix(".pt") == "best_model":
            self._folded.best_again(event.step)
        self._folded.mark(event.act, event.step, event.ts, session.number, event.path)

    def _new_best(self, event: Best, session: SessionRecord) -> None:
        self._folded.best = event
        self._folded.bests.append(event)
        # A best by luck is marked: who picks a checkpoint by it shall know.
        is_luck = self._folded.best_is_within_noise = self._folded.eval_noise.is_within(
            event.metric, event.value, event.previous
        )
        label = f"{event.metric}, {WITHIN_NOISE}" if is_luck else event.metric
        self._folded.mark("best", event.step, event.ts, session.number, label)

    def _nonfinite(self, event: Nonfinite, session: SessionRecord) -> None:
        self._folded.mark("nonfinite", event.step, event.ts, session.number, event.what)
        if event.rolled_back_to is not None and 0 <= event.rolled_back_to < session.last_step:
            sessions.go_back(self._folded, session, event.rolled_back_to, event.ts)
        self._folded.alarms.nonfinite(event)

    def _signal(self, event: SignalReceived, session: SessionRecord) -> None:
        self._folded.mark("signal", event.step, event.ts, session.number, event.signal)

    def _disk_told(self, event: Disk, session: SessionRecord) -> None:
        self._folded.disk = event
        self._folded.alarms.disk_told(event)

    def _system(self, event: System, session: SessionRecord) -> None:
        load: dict[str, Any] = {"cpu_percent": event.cpu_percent, "rss_bytes": event.rss_bytes}
        for position, gpu in enumerate(event.gpus[:MAX_GPUS]):
            load[f"gpu{position}_percent"] = gpu.get("utilization_percent")
            load[f"gpu{position}_memory_bytes"] = gpu.get("memory_used_bytes")
        self._add_metrics(session.number, event, load)

    def _error(self, event: ErrorRaised, session: SessionRecord) -> None:
        session.reason = f"{event.type}: {event.message}" if event.type else event.message
        self._folded.mark("error", event.step, event.ts, session.number, event.type)

    def _advised(self, event: SaveAdvice, session: SessionRecord) -> None:
        self._folded.advice = event

    def _lost_work(self, event: LostWork, session: SessionRecord) -> None:
        self._folded.lost_work.append(event)

    def _run_end(self, event: RunEnd, session: SessionRecord) -> None:
        session.phase = timeline.END_PHASES.get(event.status, Phase.FAILED)
        session.reason = event.reason or session.reason
        kind = "finish" if session.phase is Phase.FINISHED else "stop"
        self._folded.mark(kind, session.last_step, event.ts, session.number, event.status)

    def _supervised(self, event: Supervised, session: SessionRecord) -> None:
        if event.action in SUPERVISOR_MARKS:
            self._folded.mark(event.action, session.last_step, event.ts, session.number, event.told)

    def _seen(self, ts: float) -> None:
        if self._folded.start_ts is None:
            self._folded.start_ts = ts
        self._folded.last_ts = ts

    @property
    def last_ts(self) -> float:
        """When the last session last gave a sign of life, 0 where there is none."""
        return self._folded.sessions[-1].last_ts if self._folded.sessions else 0.0

    def last_process(self) -> ProcessIdentity:
        """That of the last session, as far as it told."""
        return self._folded.sessions[-1].process if self._folded.sessions else NOBODY

    @property
    def home(self) -> str:
        """The directory that the last session wrote to, "" where it did not tell: this one, but of a copy."""
        start = self._folded.start
        home = start.launcher.get("directory") if start is not None else None
        return home if isinstance(home, str) else ""

    def state(self, now: float, beside: Beside = NOTHING) -> RunState:
        """Everything that is known at `now`, Unix seconds."""
        if self._pending:
            self._pour()
        return self._folded.state(now, beside)

    def curves(self) -> tuple[dict[str, Series], tuple[Marker, ...]]:
        """The series and markers so far, which is all that can be shown of a log that is still being read."""
        if self._pending:
            self._pour()
        return self._folded.frozen_series(), tuple(self._folded.markers)


_APPLY: dict[type[Event], Any] = {
    Eval: RunFold._eval, EpochEnd: RunFold._epoch_end, CheckpointSaved: RunFold._saved,
    CheckpointFailed: RunFold._save_failed, CheckpointRemoved: RunFold._removed,
    CheckpointQuarantined: RunFold._removed, CheckpointRestored: RunFold._restored, Best: RunFold._new_best,
    Nonfinite: RunFold._nonfinite,
    SignalReceived: RunFold._signal, Disk: RunFold._disk_told, System: RunFold._system,
    ErrorRaised: RunFold._error, SaveAdvice: RunFold._advised, LostWork: RunFold._lost_work, RunEnd: RunFold._run_end,
    Supervised: RunFold._supervised,
}  # fmt: skip


def _is_plain(sessions: list[int], steps: list[int]) -> bool:
    """One session whose steps never go back, told without a loop in Python. Two lines may tell of one step."""
    return sessions.count(sessions[0]) == len(sessions) and steps == sorted(steps)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return _NAN


def _bounded(step: int) -> int:
    return max(-MAX_STEP, min(step, MAX_STEP))
