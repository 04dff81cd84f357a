"""The runs below a directory, each in one line: how it stands, how far it is, how its loss goes, what is at risk.

`RunsWatch` is polled like a monitor of one run. A run is looked at again only when its log changed, and now and then
while it is alive: a killed process writes nothing. Each look is a bounded read (`services/glance.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Step
from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.run.health import MIN_PATIENCE_S
from ckpt_tui.run.state import Alert, NextStart, Phase, RunState
from ckpt_tui.services.run_places import Found, Place, RunFinder
from ckpt_tui.services.surroundings import run_directory
from ckpt_tui.services.system import process_is_alive

if TYPE_CHECKING:
    from ckpt_tui.services.monitor import RunMonitor

NUM_SPARK_POINTS = 24
SAMPLE_BYTES = 4096  # read for one point
# Of a log that is longer than this, only this much of its end is read, and what the end needs.
LONG_LOG_BYTES = 64 << 10
TAIL_BYTES = 16 << 10
READ_WHOLE_BYTES = 4 << 20  # 0.1 s, and only of live runs that are silent
ALIVE_EVERY_S = 2.0
LOOK_AGAIN_EVERY_S = 10.0  # at a live run whose log is silent: is it stalled by now?
FIND_EVERY_S = 3.0
FIRST_EVERY_S = 0.5  # while there is none
LEAST_BUDGET_S = 0.02  # of reading on in a log, however much else there was to do
LONGEST_PAUSE_S, LONGEST_STAT_PAUSE_S = 30.0, 5.0  # however slow the disk is
# Of one core, what looking around may take while nothing happens.
IDLE_SHARE = 0.0015

Glance = Callable[[str, float], RunState]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run of many, as it stood when it was last looked at.

    name: its path below the directory that is watched. title: what the run calls itself. phase: None where it could
    not be looked at, `error` says why. at_risk_steps, at_risk_s: what would be lost now, or was lost when it ended;
    None where no checkpoint is known of or nothing is. spark: the loss over the run, oldest first.
    last_ts: its last sign of life. damaged: names of checkpoints that validation found to be bad, as far as any was
    asked to look. next_start: of one between two sessions, or before its first event.
    """

    path: str
    name: str
    title: str = ""
    phase: Phase | None = None
    reason: str = ""
    step: int = 0
    total_steps: int = 0
    last_loss: float | None = None
    best_value: float | None = None
    steps_per_s: float | None = None
    eta_s: float | None = None
    at_risk_steps: int | None = None
    at_risk_s: float | None = None
    start_ts: float | None = None
    last_ts: float | None = None
    spark: tuple[float, ...] = ()
    num_sessions: int = 0
    error: str = ""
    damaged: tuple[str, ...] = ()
    next_start: NextStart | None = None

    @property
    def percent(self) -> int | None:
        return min(100 * self.step // self.total_steps, 100) if self.total_steps > 0 else None

    @property
    def is_live(self) -> bool:
        """Its process may end without a word, or fall silent; or the next one is on its way."""
        return self.phase in (Phase.RUNNING, Phase.STALLED, Phase.RESTARTING, Phase.STARTING)


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs below `root`, newest activity first.

    is_whole: every directory was searched and every run looked at. num_found: with those not looked at yet.
    is_run: `root` has become a run itself. is_cut: there is more than is looked at.
    """

    root: str
    runs: tuple[RunSummary, ...] = ()
    num_found: int = 0
    is_whole: bool = False
    num_unreadable: int = 0
    is_cut: bool = False
    is_run: bool = False


def by_activity(summary: RunSummary) -> tuple[int, float, str]:
    """Sort key, newest activity first. Runs that train now are all active now: of those the one started last comes
    first, so that two of them do not change places at every step."""
    if summary.phase is Phase.RUNNING:
        return (0, -(summary.start_ts or 0.0), summary.name)
    return (1, -(summary.last_ts or 0.0), summary.name)


def count_phases(runs: Iterable[RunSummary]) -> dict[Phase, int]:
    """How many there are of each phase, those that need a person first."""
    counts: dict[Phase, int] = {}
    for summary in runs:
        if summary.phase is not None:
            counts[summary.phase] = counts.get(summary.phase, 0) + 1
    return {phase: counts[phase] for phase in PHASE_ORDER if phase in counts}


PHASE_ORDER = (
    Phase.RUNNING, Phase.STALLED, Phase.RESTARTING, Phase.STARTING, Phase.CRASHED, Phase.FAILED, Phase.DIVERGED,
    Phase.INTERRUPTED, Phase.PREEMPTED, Phase.SILENT, Phase.WAITING, Phase.FINISHED,
)  # fmt: skip


def summarize(place: Place, state: RunState) -> RunSummary:
    """The one line of a run."""
    risk = state.at_risk if not state.trains_in else None
    return RunSummary(
        path=place.path, name=place.name, title=state.name, phase=state.phase, reason=state.reason, step=state.step,
        total_steps=state.total_steps, last_loss=state.last_loss, best_value=state.best_value,
        steps_per_s=state.steps_per_s if not state.phase.is_over else None,
        eta_s=state.eta.seconds if state.eta and not state.phase.is_over else None,
        at_risk_steps=risk.steps if risk else None, at_risk_s=risk.seconds if risk else None,
        start_ts=state.start_ts, last_ts=state.last_ts, spark=spark_of(state), num_sessions=state.session,
        next_start=state.next_start,
    )  # fmt: skip


def look(path: str, now: float) -> RunState:
    """How a run stands, from a smaller part of its log than a run that is watched alone is given: 2 ms each."""
    from ckpt_tui.services.glance import glance

    state = glance(path, now, tail_bytes=TAIL_BYTES, long_log_bytes=LONG_LOG_BYTES)
    silence_s = now - state.last_ts if state.last_ts is not None else 0.0
    if state.is_whole or state.phase is not Phase.RUNNING or silence_s <= MIN_PATIENCE_S:
        return state
    # Only all of its log tells how long its pauses are: where that is no long reading, it is called stalled here when
    # everybody who reads all of it calls it so.
    whole = glance(path, now, tail_bytes=TAIL_BYTES, long_log_bytes=READ_WHOLE_BYTES)
    return replace(state, phase=whole.phase, reason=whole.reason) if whole.is_whole else state


def _reader(path: str, clock: Callable[[], float]) -> RunMonitor:
    from ckpt_tui.services.monitor import RunMonitor

    return RunMonitor(path, clock)


def _damaged(place: Place) -> tuple[str, ...]:
    from ckpt_tui.services.known_files import known_bad

    return known_bad(run_directory(place.path))


def sampled_losses(log_path: str, num_points: int = NUM_SPARK_POINTS) -> tuple[float, ...]:
    """The loss at places spread evenly over a long log of ours; () where it cannot be read."""
    values = []
    try:
        descriptor = os.open(log_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ()
    try:
        last_start = max(os.fstat(descriptor).st_size - SAMPLE_BYTES, 0)
        for index in range(num_points):
            block = os.pread(descriptor, SAMPLE_BYTES, last_start * index // max(num_points - 1, 1))
            if (loss := _first_loss(block)) is not None:
                values.append(loss)
    except OSError:
        return ()
    finally:
        os.close(descriptor)
    return tuple(values)


def _first_loss(block: bytes) -> float | None:
    for line in block.split(b"\n")[1:-1]:
        if b'"loss"' in line:
            event = decode(line)
            loss = event.metrics.get("loss") if isinstance(event, Step) else None
            if isinstance(loss, (int, float)) and loss - loss == 0:
                return float(loss)
    return None


def spark_of(state: RunState, num_points: int = NUM_SPARK_POINTS) -> tuple[float, ...]:
    """The loss over the run in `num_points` means of equal numbers of buckets; fewer where there are fewer.

    What was trained again is left out; values that are not finite are, too.
    """
    series = state.series.get("loss") or next(
        (one for name, one in state.series.items() if name.endswith("loss")), None
    )
    if series is None:
        return ()
    values: list[float] = []
    for segment in series.segments:
        for step, value in zip(segment.steps, segment.last, strict=True):
            if segment.abandoned_after is not None and step > segment.abandoned_after:
                break
            if value - value == 0:
                values.append(value)
    if len(values) <= num_points:
        return tuple(values)
    edges = [len(values) * index // num_points for index in range(num_points + 1)]
    return tuple(sum(values[a:b]) / (b - a) for a, b in pairwise(edges))


@dataclass(slots=True)
class _Known:
    place: Place
    stamp: tuple[int, int, int] | None = None
    mtime: float = 0.0
    looked_at: float = float("-inf")
    summary: RunSummary | None = None
    process: ProcessIdentity = NOBODY
    reader: RunMonitor | None = None  # of all of its log, from when it was silent and only that told whether it stalled


class RunsWatch:
    """Polls the runs below `root`. `poll()` takes about its budget, and gives the same object while nothing changed.

    glance: how one run is looked at. clock: Unix seconds, to judge by. ticks: what never goes back, to plan by.
    """

    def __init__(
        self,
        root: str,
        *,
        glance: Glance = look,
        clock: Callable[[], float] | None = None,
        ticks: Callable[[], float] = time.monotonic,
        finder: RunFinder | None = None,
    ) -> None:
        self.root = root
        self._glance = glance
        self._clock = clock or time.time
        self._ticks = ticks
        self._finder = finder if finder is not None else RunFinder(root, clock=clock)
        self._steps: Generator[int, None, Found] | None = self._finder.steps()
        self._find_cost_s = 0.0
        self._has_searched = False
        self._find_again_at = float("-inf")
        self._stat_again_at = float("-inf")
        self._alive_again_at = float("-inf")
        self._found = Found()
        self._known: dict[str, _Known] = {}
        self._due: dict[str, None] = {}
        self._doubtful: dict[str, None] = {}  # silent for as long as only the whole log can tell whether that is usual
        self._verdicts_stamp: tuple[int, ...] | None = None
        self._bad_directories: frozenset[str] = frozenset()
        self._runs = Runs(root)
        self.num_glances = 0  # for tests

    @property
    def is_caught_up(self) -> bool:
        """Nothing is left to read now."""
        return self._steps is None and not self._due and not self._doubtful

    def poll(self, budget_s: float = 0.1) -> Runs:
        """Search and look for about `budget_s` seconds."""
        deadline = time.monotonic() + budget_s
        now = self._ticks()
        has_changed = self._find(now, deadline)
        self._stat_logs(now)
        self._ask_processes(now)
        while self._due:
            path = next(iter(self._due))
            del self._due[path]
            has_changed |= self._look(self._known[path], now)
            if time.monotonic() >= deadline:
                break
        has_changed |= self._settle_doubts(deadline)
        if has_changed or self._runs.is_whole != self.is_caught_up:
            self._runs = self._make()
        return self._runs

    # -- which runs there are ------------------------------------------------------------------------------------

    def _find(self, now: float, deadline: float) -> bool:
        if self._steps is None:
            if now < self._find_again_at:
                return False
            self._steps = self._finder.steps()
        started = time.monotonic()
        try:
            while time.monotonic() < deadline:
                next(self._steps)
        except StopIteration as end:
            self._steps = None
            self._find_cost_s += time.monotonic() - started
            found: Found = end.value
            pause_s, longest_s = (FIND_EVERY_S, LONGEST_PAUSE_S) if found.places else (FIRST_EVERY_S, FIND_EVERY_S)
            if self._has_searched:  # the first search has to load code and fill caches
                pause_s = min(max(pause_s, self._find_cost_s / IDLE_SHARE), longest_s)
            self._has_searched = True
            self._find_again_at = now + pause_s
            self._find_cost_s = 0.0
            is_new, self._found = found != self._found, found
            return self._take_places(found) or is_new
        self._find_cost_s += time.monotonic() - started
        return False

    def _take_places(self, found: Found) -> bool:
        before = set(self._known)
        now_there = {place.path: place for place in found.places}
        for path, place in now_there.items():
            known = self._known.get(path)
            if known is None or known.place != place:
                self._known[path] = _Known(place)
        for path in before - set(now_there):
            del self._known[path]
            self._due.pop(path, None)
            self._doubtful.pop(path, None)
        self._stat_again_at = float("-inf")
        return before != set(now_there)

    # -- what happened to them -----------------------------------------------------------------------------------

    def _stat_logs(self, now: float) -> None:
        """Which logs changed: those are due, newest first."""
        if now < self._stat_again_at:
            return
        started = time.monotonic()
        changed = []
        for path, known in self._known.items():
            try:
                facts = os.stat(known.place.log_path)
                stamp, mtime = (facts.st_mtime_ns, facts.st_size, facts.st_ino), facts.st_mtime
            except OSError:
                stamp, mtime = (0, 0, 0), 0.0
            # Again without news: what may have fallen silent, and what could not be read.
            is_unsure = known.summary is not None and (known.summary.is_live or known.summary.phase is None)
            if stamp != known.stamp or (is_unsure and now - known.looked_at >= LOOK_AGAIN_EVERY_S):
                changed.append((-mtime, path))
            known.stamp, known.mtime = stamp, mtime
        self._due.update(dict.fromkeys(path for _, path in sorted(changed)))
        if self._known:
            self._take_verdicts()
        self._stat_again_at = now + min((time.monotonic() - started) / IDLE_SHARE, LONGEST_STAT_PAUSE_S)

    def _ask_processes(self, now: float) -> None:
        """A killed run writes nothing: its process is asked for."""
        if now < self._alive_again_at:
            return
        self._alive_again_at = now + ALIVE_EVERY_S
        for path, known in self._known.items():
            asks = known.summary is not None and known.summary.is_live and known.process.pid > 0
            if asks and process_is_alive(known.process) is False:
                self._due[path] = None

    def _look(self, known: _Known, now: float) -> bool:
        self.num_glances += 1
        known.looked_at = now
        before = known.summary
        place = known.place
        try:
            state = self._glance(place.path, self._clock())
        except CkptError as error:
            known.summary = RunSummary(place.path, place.name, error=f"{error.title}: {error.message}")
        except OSError as error:
            known.summary = RunSummary(place.path, place.name, error=error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - one odd log must not take the others away; that is said in its line
            known.summary = RunSummary(place.path, place.name, error=f"a bug in ckpt-tui: {type(error).__name__}")
        else:
            known.process = state.process
            known.summary = replace(summarize(place, state), damaged=_damaged(place))
            if not state.is_whole and (losses := sampled_losses(place.log_path)):
                known.summary = replace(known.summary, spark=losses)
            silence_s = self._clock() - state.last_ts if state.last_ts is not None else 0.0
            if not state.is_whole and state.phase is Phase.RUNNING and silence_s > MIN_PATIENCE_S:
                self._doubtful[place.path] = None
        return known.summary != before

    def _settle_doubts(self, deadline: float) -> bool:
        """Read on in the logs of runs that are silent; whether one of them is called stalled now."""
        has_changed = False
        for path in list(self._doubtful):
            known = self._known[path]
            try:
                if known.reader is None:
                    known.reader = _reader(path, self._clock)
                state = known.reader.poll(max(deadline - time.monotonic(), LEAST_BUDGET_S))
            except (CkptError, OSError):
                del self._doubtful[path]  # what is wrong with it is said by the next look
                continue
            if known.reader.is_caught_up:
                del self._doubtful[path]
                if known.summary is not None and known.summary.is_live:
                    was, known.summary = known.summary, replace(known.summary, phase=state.phase, reason=state.reason)
                    has_changed |= known.summary != was
            if time.monotonic() >= deadline:
                break
        return has_changed

    def _take_verdicts(self) -> None:
        """What somebody validated meanwhile: those runs are looked at again."""
        from ckpt_tui.services import validity

        stamp = validity.stamp()
        if stamp != self._verdicts_stamp:
            before, self._bad_directories = self._bad_directories, validity.directories_with_bad()
            is_first, self._verdicts_stamp = self._verdicts_stamp is None, stamp
            for path, known in self._known.items():
                if not is_first and os.path.realpath(run_directory(known.place.path)) in before | self._bad_directories:
                    self._due[path] = None

    def _make(self) -> Runs:
        summaries = [known.summary for known in self._known.values() if known.summary is not None]
        summaries.sort(key=by_activity)
        return Runs(
            self.root, tuple(summaries), len(self._known), self.is_caught_up,
            self._found.num_unreadable, self._found.is_cut, self._found.own_log is not None,
        )  # fmt: skip


def newly_broken(before: Mapping[str, RunSummary], after: Iterable[RunSummary]) -> list[RunSummary]:
    """The runs that were alive in `before` and have come to a bad end since."""
    bad = (Phase.CRASHED, Phase.FAILED, Phase.DIVERGED)
    return [
        one
        for one in after
        if one.phase in bad and (then := before.get(one.path)) is not None and then.phase not in bad
    ]


def alert_of(summary: RunSummary) -> Alert | None:
    """The alert about the end of a run, as the watch of that run alone has it."""
    if summary.phase is None:
        return None
    from ckpt_tui.run.alerts import end_alert

    return end_alert(summary.phase, summary.num_sessions, summary.reason, summary.step, summary.last_ts or 0.0)


def read_runs(root: str) -> Runs:
    """All runs below `root` now."""
    watch = RunsWatch(root)
    runs = watch.poll(1.0)
    while not watch.is_caught_up:
        runs = watch.poll(1.0)
    return runs
