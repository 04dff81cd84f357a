"""What a fold has gathered of a run, and the state that it makes at a moment: judged, counted and frozen."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import field, replace
from itertools import groupby, islice, pairwise
from operator import itemgetter
from typing import Any

from ckpt_tui.events.schema import Best, Disk, LostWork, RunStart, SaveAdvice
from ckpt_tui.records import dataclass
from ckpt_tui.run import health, timeline
from ckpt_tui.run.alerts import Alarms, Moment, judge
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.eval_noise import EvalNoise
from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.state import (
    AtRisk,
    BadLines,
    FeedLine,
    Lost,
    Marker,
    Phase,
    RunState,
    Save,
    Series,
    Session,
    Trained,
)  # fmt: skip
from ckpt_tui.run.timeline import SessionRecord

MAX_FEED_LINES = 1000
MAX_MARKERS = 4000
MAX_SAVES = 4000
MAX_SESSIONS = 2000
RARE_PAUSE_S = 600.0
MAX_LOST_WORK = 100
MAX_BESTS = 200  # among which one that is put back is looked for
FOUND_LATER_S = 2.0  # a file's time may be of a clock that is less exact than the log's
NUM_JUDGED_SAVES = 200  # of which the rules of alerts see what is usual


def save_key(save: Save) -> tuple[int, int, float]:
    return save.session, save.step, save.ts


@dataclass(slots=True)
class Folded:
    """Facts of the events so far, which `RunFold` adds to.

    save_of_name: which content a name of the run directory has now. recent: step and time of the session's last step
    events. pause_s: evaluation and saving, longest_pause_s: the longest silence it came back from and
    may come to again; one_long_pause_s: the longest that nothing explains, which may have been a suspended machine.
    """

    directory: str = ""
    notices: list[str] = field(default_factory=list)
    num_events: int = 0
    series: dict[str, SeriesBuilder] = field(default_factory=dict)
    epochs: SeriesBuilder | None = None  # what lines say of their epoch, where no one says how many steps one has
    sessions: list[SessionRecord] = field(default_factory=list)
    start: RunStart | None = None
    saves: deque[Save] = field(default_factory=lambda: deque(maxlen=MAX_SAVES))
    save_of_name: dict[str, Save] = field(default_factory=dict)
    left: set[tuple[int, int, float]] = field(default_factory=set)  # session, step, time
    markers: deque[Marker] = field(default_factory=lambda: deque(maxlen=MAX_MARKERS))
    feed: deque[FeedLine] = field(default_factory=lambda: deque(maxlen=MAX_FEED_LINES))
    alarms: Alarms = field(default_factory=Alarms)
    bad_lines: BadLines = field(default_factory=BadLines)
    missing_lines: int = 0
    retrained: Lost = field(default_factory=Lost)  # lost and trained again already
    epoch: float | None = None
    best: Best | None = None
    best_is_within_noise: bool = False
    bests: deque[Best] = field(default_factory=lambda: deque(maxlen=MAX_BESTS))
    eval_noise: EvalNoise = field(default_factory=EvalNoise)
    disk: Disk | None = None
    advice: SaveAdvice | None = None
    lost_work: deque[LostWork] = field(default_factory=lambda: deque(maxlen=MAX_LOST_WORK))
    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=256))
    pause_s: float = 0.0
    longest_pause_s: float = 0.0
    one_long_pause_s: float = 0.0
    start_ts: float | None = None
    last_ts: float | None = None
    past_s: float = 0.0  # between step events, and how many steps, of the sessions before the last
    past_steps: int = 0
    num_changes: int = 0  # of saves, of their names, of the branches that were left
    num_session_changes: int = 0  # of sessions before the last
    # What was made for the state before, and of what: a state is made every second, and most of it is as it was.
    _saves: tuple[Any, tuple[Save, ...]] = (None, ())
    _candidates: tuple[Any, list[tuple[str, Save]]] = (None, [])
    _removed: dict[int, tuple[Save, Save]] = field(default_factory=dict)  # by identity
    _before: tuple[int, tuple[Session, ...]] = (-1, ())

    def add_session(self, record: SessionRecord) -> None:
        if self.sessions and self.sessions[-1].seconds_per_step is not None:
            before = self.sessions[-1]
            self.past_s += before.net_s
            self.past_steps += before.last_logged_step - (before.first_step or 0)
        if self.sessions:
            record.reached_before = max(self.sessions[-1].reached_before, self.sessions[-1].last_step)
        self.sessions.append(record)
        del self.sessions[:-MAX_SESSIONS]
        self.num_session_changes += 1

    def pace(self) -> float:
        """Seconds a step over all sessions, 0 when not known."""
        seconds, steps, last = self.past_s, self.past_steps, self.sessions[-1]
        if last.seconds_per_step is not None:
            seconds, steps = seconds + last.net_s, steps + last.last_logged_step - (last.first_step or 0)
        return seconds / steps if steps > 0 else 0.0

    def mark(self, kind: str, step: int, ts: float, session: int, label: str) -> None:
        self.markers.append(Marker(kind, step, ts, session, label))

    def add_save(self, save: Save) -> None:
        if len(self.saves) == MAX_SAVES:  # the names of the oldest go with it
            oldest = self.saves[0]
            for name in oldest.names:
                if self.save_of_name.get(name) is oldest:
                    del self.save_of_name[name]
            self._removed.pop(id(oldest), None)
        self.saves.append(save)
        self.save_of_name.update(dict.fromkeys(save.names, save))
        self.num_changes += 1

    def remove_name(self, name: str) -> None:
        self.save_of_name.pop(name, None)
        self.num_changes += 1

    def put_back(self, name: str, source: str) -> None:
        """`name` holds now what `source` holds."""
        save = self.save_of_name.get(source)
        if save is not None:
            self.save_of_name[name] = save
            self.num_changes += 1

    def best_again(self, step: int) -> None:
        """The best is again the one of that step: a later one was taken back."""
        found = next((best for best in reversed(self.bests) if best.step == step), None)
        if found is not None:
            self.best, self.best_is_within_noise = found, False

    def state(self, now: float, beside: Beside) -> RunState:
        """Everything that is known at `now`, Unix seconds."""
        if not self.sessions:
            return RunState(now, self.directory, bad_lines=self.bad_lines, num_events=self.num_events,
                            notices=tuple(self.notices), next_start=beside.next_start)  # fmt: skip
        last = self.sessions[-1]
        silence_s = max(now - last.last_ts, 0.0)
        phase, reason = last.phase, last.reason
        if phase is Phase.RUNNING:
            phase, why = health.judge_phase(
                silence_s, self._rhythm(beside.usual_pause_s), beside.is_process_alive, is_foreign=self.is_foreign,
                is_at_end=self.start is not None and 0 < self.start.total_steps <= last.last_step,
                trains_in=beside.trains_in,
            )  # fmt: skip
            if phase is Phase.SILENT and reason and self._ends_in_an_error():
                phase, why = Phase.FAILED, reason
            reason = why or reason
        shown, why_shown, next_start = phase, reason, None
        if beside.next_start is not None:  # the log cannot tell of it yet
            from ckpt_tui.run.next_start import Standing, with_next_start

            told = Standing(
                phase, reason, last.last_ts, last.number, beside.is_process_alive, is_named=last.process.pid > 0
            )
            shown, why_shown, next_start = with_next_start(told, beside.next_start, now)
        step = max(last.last_step, 0)
        pace = self.pace()
        told_pace = self._told_pace() if self.is_foreign else 0.0
        recent_pace = health.median(self._paces()) or last.seconds_per_step or pace or told_pace
        candidates = self._find_candidates(beside)
        last_trained = last.trained(last.seconds_per_step or pace)
        at_risk = self._at_risk(candidates, step, last_trained, is_over=phase.is_over)
        if told_pace and not (last.seconds_per_step or pace):
            at_risk = replace(at_risk, seconds=at_risk.steps * told_pace)
        is_lost = phase.is_over and phase is not Phase.FINISHED
        lost_now = Lost(at_risk.steps, at_risk.seconds) if is_lost else Lost()
        start = self.start or RunStart()
        sessions = self._frozen_sessions(phase, reason, lost_now)
        total = max(start.total_steps, 0)
        loss, val_loss = self.series.get("loss"), self.series.get("val_loss")
        best = self.best
        eta = None
        trained = max(sum(record.last_step - (record.first_step or record.last_step) for record in self.sessions), 1)
        paces = self._paces() or ([told_pace, told_pace] if told_pace else [])
        if phase in (Phase.RUNNING, Phase.STALLED) and total:
            eta = health.estimate(
                max(total - step, 0), paces, self.pause_s / trained, silence_s, timeline.failures_of(self.sessions)
            )
        alerts = judge(
            self.alarms,
            Moment(now, shown, why_shown, last.number, last.last_step, last.last_ts, self._newest_saves(), eta),
        )
        return RunState(
            now=now, directory=self.directory, name=start.run_name, phase=shown, reason=why_shown, session=last.number,
            step=step, total_steps=total, steps_per_epoch=max(start.steps_per_epoch, 0), epoch=self.epoch,
            start_ts=self.start_ts, last_ts=self.last_ts, process=last.process,
            config=start.config, argv=tuple(start.argv), cwd=start.cwd, versions=start.versions,
            launcher=start.launcher, trains_in=beside.trains_in if phase is Phase.SILENT else "",
            steps_per_s=1 / recent_pace if recent_pace else None,
            seconds_per_step=health.with_pauses(paces, self.pause_s / trained) or recent_pace or None,
            tokens_per_s=self._tokens_per_s(), eta=eta, next_start=next_start,
            last_loss=loss.last if loss else None, last_val_loss=val_loss.last if val_loss else None,
            best_metric=best.metric if best else "val_loss" if val_loss else "loss" if loss else "",
            best_value=best.value if best else val_loss.best if val_loss else loss.best if loss else None,
            best_step=best.step if best else None, best_is_within_noise=self.best_is_within_noise, at_risk=at_risk,
            trained=last_trained,
            lost=timeline.lost_so_far(self.sessions, self.retrained, lost_now),
            saves_that_fit=self.disk.saves_that_fit if self.disk else None,
            free_bytes=self.disk.free_bytes if self.disk else None,
            disk_full_ts=self.alarms.disk_full_ts(), sessions=sessions,
            saves=self._frozen_saves(beside.existing_names), markers=self._frozen_markers(phase, last),
            series=self.frozen_series(), epochs=self.epochs.freeze() if self.epochs is not None else None,
            feed=tuple(self.feed), alerts=alerts,
            bad_lines=self.bad_lines, missing_lines=self.missing_lines, num_events=self.num_events,
            source=str(start.extra.get("source", "")), log_path=str(start.extra.get("log", "")),
            step_unit=str(start.extra.get("step_unit", "step")),
            advice=self.advice, lost_work=tuple(self.lost_work), notices=tuple(self.notices),
        )  # fmt: skip

    def _ends_in_an_error(self) -> bool:
        """Nothing was trained after the last exception that the log shows."""
        return bool(self.markers) and self.markers[-1].kind == "error" and (
            self.markers[-1].step >= self.sessions[-1].last_step
        )  # fmt: skip

    @property
    def is_foreign(self) -> bool:
        """Told by a log that another program writes in its own way (ckpt_tui/sources)."""
        return self.start is not None and bool(self.start.extra.get("source"))

    def paused(self, *gaps: float, is_explained: bool = False) -> None:
        """It came back from these silences. One of many minutes that neither an evaluation nor a save explains may have
        been a suspended machine or a clock: it is known as a pause only when such a one comes again."""
        longest = max(gaps)
        if longest <= self.longest_pause_s:
            return
        if is_explained or longest <= RARE_PAUSE_S:
            self.longest_pause_s = longest
            return
        for gap in gaps:
            if gap > RARE_PAUSE_S:
                self.longest_pause_s = max(self.longest_pause_s, min(gap, self.one_long_pause_s))
                self.one_long_pause_s = max(self.one_long_pause_s, gap)
            else:
                self.longest_pause_s = max(self.longest_pause_s, gap)

    def leave_after(self, step: int) -> None:
        """Training goes on from `step`, on another branch than what was saved above it."""
        self.num_changes += 1
        self.left.update(save_key(save) for save in self.save_of_name.values() if save.step > step)
        if len(self.left) > 2 * MAX_SAVES:
            self.left.intersection_update(map(save_key, self.save_of_name.values()))

    def _rhythm(self, usual_pause_s: float) -> health.Rhythm:
        times = [ts for _, ts in self.recent]
        gaps = [b - a for a, b in pairwise(times) if b >= a]
        return health.Rhythm(health.median(gaps), max(self.longest_pause_s, usual_pause_s))

    def _paces(self) -> list[float]:
        """Recent seconds a step. Of steps that share one time (a clock of whole seconds) the first counts."""
        recent = [next(same) for _, same in groupby(self.recent, itemgetter(1))]
        return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(recent)
                if b[0] > a[0] and b[1] > a[1]]  # fmt: skip

    def _newest_saves(self) -> list[Save]:
        """As many as tell what is usual now."""
        return list(islice(reversed(self.saves), NUM_JUDGED_SAVES))[::-1]

    def _told_pace(self) -> float:
        """Seconds a step as another's log itself says, 0 where it does not: its lines may bear no times."""
        said = self.series.get("step_seconds")
        return said.last if said is not None and said.last is not None and 0 < said.last < 1e9 else 0.0

    def _tokens_per_s(self) -> float | None:
        for name in ("tokens_per_s", "tokens_per_second", "tok_per_s", "samples_per_s"):
            if name in self.series:
                return self.series[name].last
        return None

    def _find_candidates(self, beside: Beside) -> list[tuple[str, Save]]:
        """The names that a resume could take, best last."""
        invalid, existing_names, found = beside.invalid_checkpoints, beside.existing_names, beside.found_checkpoints
        key = (self.num_changes, invalid, existing_names, found)
        if self._candidates[0] is None or not _is_same(self._candidates[0], key):
            usable = [
                (name, save) for name, save in self.save_of_name.items()
                if name not in invalid and save_key(save) not in self.left
                and self._may_exist(name, existing_names)
            ]  # fmt: skip
            told = set(map(id, map(itemgetter(1), usable)))
            usable += [
                (save.path, save) for save in found
                if save.path not in invalid and self._is_news(save)
                and (existing_names is None or "/" in save.path or save.path in existing_names)
            ]  # fmt: skip
            # Of one content's names the one under which it was told: latest.pt is overwritten by the next save.
            # Of stand-ins the one that a resume tries first.
            place = {save.path: -index for index, save in enumerate(found)}
            usable.sort(key=lambda item: (
                item[1].step, id(item[1]) in told, item[1].ts, item[0] == item[1].path, place.get(item[0], -len(found)),
            ))  # fmt: skip
            self._candidates = (key, usable)
        return self._candidates[1]

    def _is_news(self, found: Save) -> bool:
        """Whether the log does not tell what a file holds: of its name nothing, or only what was there before."""
        told = self.save_of_name.get(found.path)
        return told is None or (found.step > told.step and found.ts > told.ts + FOUND_LATER_S)

    def _at_risk(self, candidates: list[tuple[str, Save]], step: int, trained: Trained, *, is_over: bool) -> AtRisk:
        # A file from beyond the last line is of another branch while it trains; where it is over, a resume takes it.
        newest = next((item for item in reversed(candidates) if item[1].step <= step or is_over), None)
        if newest is None:
            return AtRisk(step, trained.seconds_after(0), None)
        name, save = newest
        return AtRisk(max(step - save.step, 0), trained.seconds_after(save.step), name, save.step, save.ts)

    def _frozen_sessions(self, phase: Phase, reason: str, lost_now: Lost) -> tuple[Session, ...]:
        *before, last = self.sessions
        if self._before[0] != self.num_session_changes or len(self._before[1]) != len(before):
            frozen = tuple(record.freeze(record.phase, record.reason) for record in before)
            self._before = (self.num_session_changes, frozen)
        return (*self._before[1], last.freeze(phase, reason, lost_now.steps, lost_now.seconds))

    def _frozen_saves(self, existing_names: Collection[str] | None) -> tuple[Save, ...]:
        key = (self.num_changes, (), existing_names)
        if self._saves[0] is None or not _is_same(self._saves[0], key):
            self._saves = (key, tuple(
                save if self._is_there(save, existing_names) else self._as_removed(save) for save in self.saves
            ))  # fmt: skip
        return self._saves[1]

    def _is_there(self, save: Save, existing_names: Collection[str] | None) -> bool:
        return any(self.save_of_name.get(name) is save and self._may_exist(name, existing_names) for name in save.names)

    def _may_exist(self, name: str, existing_names: Collection[str] | None) -> bool:
        """Whether a name is in the run directory, or somewhere that nobody looked."""
        if existing_names is None or name in existing_names:
            return True
        return name.startswith(("/", "./", "../")) and self.is_foreign

    def _as_removed(self, save: Save) -> Save:
        known = self._removed.get(id(save))
        if known is None or known[0] is not save:
            known = self._removed[id(save)] = (save, replace(save, removed=True))
        return known[1]

    def _frozen_markers(self, phase: Phase, last: SessionRecord) -> tuple[Marker, ...]:
        if phase is Phase.CRASHED and last.phase is Phase.RUNNING:
            return (*self.markers, Marker("crash", last.last_step, last.last_ts, last.number, "crashed"))
        return tuple(self.markers)

    def frozen_series(self) -> dict[str, Series]:
        return {name: builder.freeze() for name, builder in self.series.items()}


def _is_same(key: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two keys are of the same things; what is in a big set is not looked at where it is the same object."""
    return all(a is b or (type(a) is type(b) and a == b) for a, b in zip(key, other, strict=True))
