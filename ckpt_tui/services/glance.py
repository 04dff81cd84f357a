"""The newest facts of a run from a bounded read of its log: a few milliseconds, however long the log is.

A log of 10^7 lines takes tens of seconds to read; "is it fine, what did I lose" must not wait for that. So the last
128 KB are folded first (whole lines only), with what they need from before them: the start of their session (found
by bisection), and the newest save (looked for backwards, up to 8 MB). That gives state, step, ETA, loss and what is at
risk. `Newest` goes on following the end of the log while `RunMonitor` reads it from its start; `glance()` is one look,
for a list of many runs.

What cannot be known from the newest part alone is left out and never guessed: `RunState.is_whole` is False, and then
`lost`, the sessions before this one, the best value (unless the trainer told it), bad and missing lines are empty;
nothing is at risk where no save was found; "stalled" needs a silence that is too long for any pause, "crashed" a
silence too, where the process is known only from a session start found by bisection.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ckpt_tui.events.schema import BadLine, CheckpointRestored, Event, RunStart
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.run.beside import NOTHING, Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.health import MIN_PATIENCE_S, START_PATIENCE_S
from ckpt_tui.run.state import BadLines, Lost, Marker, Phase, RunState, Segment, Series
from ckpt_tui.services.run_log import open_log
from ckpt_tui.services.surroundings import Surroundings, run_directory
from ckpt_tui.sources import bounded
from ckpt_tui.sources.base import LONG_LOG_BYTES, Batch, EventSource
from ckpt_tui.sources.jsonl import JsonlSource

# Of a log that can only be read from its start (a CSV, a trainer_state.json), at most this for one look.
_GLANCE_LIMIT_BYTES = 4 << 20
_ENDS = ("crash", Phase.FAILED, Phase.DIVERGED)  # kinds of alerts


class NewestPart:
    """The newest part of one long log, followed as it grows until the log is read from its start.

    start: where that part begins in the file. is_known: whether any of the training was found in it.
    """

    start: int = 0
    is_known: bool = False

    def __init__(self, source: EventSource, directory: str) -> None:
        self._source = source
        self._fold = RunFold(directory)
        self._first_ts: float | None = None
        self._are_saves_known = True

    def last_process(self) -> ProcessIdentity:
        return self._fold.last_process()

    @property
    def home(self) -> str:
        return self._fold.home

    def poll(self) -> bool:
        """Follow the end of the log. False when it is no longer the log that was looked at."""
        batch = self._source.poll()
        if self._is_of_another(batch):
            return False
        self._fold.apply_all(batch.events)
        return True

    def _is_of_another(self, batch: Batch) -> bool:
        return batch.restarted

    def state(self, now: float, beside: Beside = NOTHING) -> RunState:
        """What is known at `now` of the newest part, everything else left out."""
        patient = replace(beside, usual_pause_s=max(beside.usual_pause_s, START_PATIENCE_S))
        return only_known(self._fold.state(now, patient), self._first_ts, are_saves_known=self._are_saves_known)


class Newest(NewestPart):
    """Of one of our own logs: with what its newest part needs from before it."""

    _source: JsonlSource

    def __init__(self, path: str, directory: str = "", tail_bytes: int = 0) -> None:
        """tail_bytes: what is read of the end at first, 0: as usual. Raises OSError."""
        super().__init__(JsonlSource(path), directory)
        self._is_start_near = True  # the session's start is among what was read in one piece
        self._are_saves_known = False
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.start = self._read_tail(descriptor, os.fstat(descriptor).st_size, tail_bytes)
        finally:
            os.close(descriptor)

    def _read_tail(self, descriptor: int, size: int, at_first: int) -> int:
        for tail_bytes in (at_first or bounded.TAIL_BYTES, bounded.LONGEST_TAIL_BYTES):
            start = bounded.tail_start(descriptor, size, tail_bytes)
            if start is None:
                continue
            self._source.skip_to(start)
            events = self._source.poll(max(size - start, 1)).events
            of_training = [event for event in events if isinstance(event, Event) and not _is_by_viewer(event)]
            if of_training:
                self._fold.apply_all(self._before(descriptor, start, events, of_training[-1]))
                self._fold.skip_to(of_training[0].ts)
                self._fold.apply_all(events)
                self.is_known = True
                return start
            self._source = JsonlSource(self._source.path)
        return size

    def _before(self, descriptor: int, start: int, tail: Sequence[Event | BadLine], last: Event) -> list[Event]:
        """What the tail needs from before it."""
        head = bounded.head_start(descriptor)
        self._first_ts = head.ts if head is not None else None
        found: list[Event] = []
        has_save, at_most = bounded.has_usable_save(tail)
        if not has_save:
            before = bounded.saves_before(descriptor, start, at_most)
            found += before.events
            self._are_saves_known = before.is_all
        if not any(isinstance(event, RunStart) and event.session == last.session for event in (*found, *tail)):
            self._is_start_near = False
            first = bounded.session_start(descriptor, start, last.session)
            if first is None and head is not None and head.session == last.session:
                first = head
            if first is not None:
                found.insert(0, first)
        return found

    def _is_of_another(self, batch: Batch) -> bool:
        return batch.restarted or bool(batch.notices)

    def state(self, now: float, beside: Beside = NOTHING) -> RunState:
        is_found_dead = beside.is_process_alive is False and not self._is_start_near
        if is_found_dead and now - self._fold.last_ts < MIN_PATIENCE_S:
            # It speaks: then it is another process than the one that was found.
            beside = replace(beside, is_process_alive=None)
        return super().state(now, beside)


def _is_by_viewer(event: Event) -> bool:
    return isinstance(event, CheckpointRestored) and event.by == "viewer"


def only_known(state: RunState, first_ts: float | None, *, are_saves_known: bool) -> RunState:
    if not state.sessions:
        return replace(state, is_whole=False)
    is_unsure = state.at_risk is not None and state.at_risk.checkpoint is None and not are_saves_known
    return replace(
        state,
        start_ts=first_ts,
        sessions=state.sessions[-1:],
        markers=tuple(marker for marker in state.markers if marker.session == state.session),
        best_value=state.best_value if state.best_step is not None else None,
        best_metric=state.best_metric if state.best_step is not None else "",
        at_risk=None if is_unsure else state.at_risk,
        lost=Lost(),
        # How a session before this one ended may stand in a line that was left out.
        alerts=tuple(alert for alert in state.alerts if not (alert.is_over and alert.kind in _ENDS)),
        bad_lines=BadLines(),
        missing_lines=0,
        is_whole=False,
    )


def with_curves_before(newest: RunState, series: dict[str, Series], markers: Sequence[Marker]) -> RunState:
    """The newest facts with the curves of the part of the log that is read from its start so far."""
    joined: dict[str, Series] = {}
    for name in dict.fromkeys((*series, *newest.series)):
        before, after = series.get(name), newest.series.get(name)
        if before is None or after is None:
            one = before or after
            assert one is not None
            joined[name] = replace(one, best=None)
            continue
        segments: tuple[Segment, ...] = (*before.segments, *after.segments)
        joined[name] = Series(name, segments, before.num_points + after.num_points, after.last)
    return replace(newest, series=joined, markers=tuple(dict.fromkeys((*markers, *newest.markers))))


def nothing_known(now: float, directory: str) -> RunState:
    """Of a log in whose end no event was found: nothing is said of how the run stands until all is read."""
    return RunState(now, directory, is_whole=False)


def glance(path: str, now: float, *, tail_bytes: int = 0, long_log_bytes: int = 0) -> RunState:
    """How the run at `path` stands at `now`, Unix seconds, from a bounded read of its log.

    All of it where the log is shorter than `long_log_bytes`, the newest facts where it is long (`is_whole` tells),
    from its last `tail_bytes` and what those need from before; 0: as usual for one run. Raises CkptError when
    `path` is neither a run directory nor a log; a log that is not there yet, or cannot be read, is waited for.
    """
    source = open_log(path)
    around = Surroundings(run_directory(path))
    if type(source) is JsonlSource and _size(source.path) >= (long_log_bytes or LONG_LOG_BYTES):
        try:
            newest = Newest(source.path, around.directory, tail_bytes)
        except OSError:
            return RunState(now, around.directory)
        return _with_files(newest, now, around)
    if hasattr(source, "is_foreign"):
        from ckpt_tui.services.foreign_newest import ForeignNewest, is_long

        if is_long(source) and (end := ForeignNewest(path, around.directory)).is_known:
            return _with_files(end, now, around)
    return _read_from_start(source, around, now)


def _read_from_start(source: EventSource, around: Surroundings, now: float) -> RunState:
    fold, left = RunFold(around.directory), _GLANCE_LIMIT_BYTES
    is_whole = False
    while not is_whole and left > 0:
        before = getattr(source, "position", None)
        batch = source.poll(left)
        fold.apply_all(batch.events)
        fold.notices.extend(batch.notices)
        is_whole = batch.is_caught_up
        left -= LONG_LOG_BYTES if before is None else getattr(source, "position", before) - before or LONG_LOG_BYTES
    if not is_whole:
        return nothing_known(now, around.directory)
    return _with_files(fold, now, around)


def _with_files(told: RunFold | NewestPart, now: float, around: Surroundings) -> RunState:
    """The state, judged by what is known of the checkpoint files."""
    from ckpt_tui.services.known_files import known_files

    beside = around.beside(now, told.last_process(), told.home)
    state = told.state(now, beside)
    files = known_files(around.directory, state, beside.existing_names)
    if files is None:
        return state
    return told.state(now, replace(beside, invalid_checkpoints=files.invalid, found_checkpoints=files.found))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
