"""Watches one run: its log, its process, and which of its checkpoint files are still there. Only reads.

With `newest_first` (the screens) a long log is told from its end: the first poll gives the newest facts
(`services/glance.py`); the next ones read the log from its start, with `progress`, while its end goes on being
followed, so that state, step and what is at risk are always of now and only the curves grow. When all is read, the
complete fold takes over: it has read at least as far as the newest part. A log that is replaced meanwhile begins
anew. Commands that need every fact (`status`, `advise`) read everything before they say anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckpt_tui.events.blocks import Told
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.state import BadLines, RunState, Save
from ckpt_tui.services.run_log import open_log
from ckpt_tui.services.surroundings import Surroundings, run_directory
from ckpt_tui.sources.base import CHUNK_BYTES, LONG_LOG_BYTES, READ_AGAIN, UNREADABLE, Batch, EventSource
from ckpt_tui.sources.jsonl import JsonlSource

if TYPE_CHECKING:
    from ckpt_tui.services.glance import NewestPart

MAX_NOTICES = 20
NEWS_S = 60.0
# Where a screen waits for the same interpreter, it gets the word after each piece, and not only when this thread is
# made to give it up.
POLITE_S = 0.001
OWN_PAUSE_S = 120.0  # nobody looks that seldom by intention: --interval is an hour at most, and then it does no harm
WAKING_S = 60.0
READ_BYTES = CHUNK_BYTES // 4  # at a time: what comes of it stays in the processor's cache


LogMark = tuple[int, int, int]  # device, inode, how far it was read


def log_mark(path: str, position: int) -> LogMark | None:
    """Which file a log is, and how far it was read; None where it is shorter than that, or gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, position) if status.st_size >= position else None


class RunMonitor:
    """Polls a run. `poll()` gives the state and takes about its budget, however long the log is.

    Raises CkptError when `path` is neither a directory nor a log; a directory without a log is waited for.
    """

    def __init__(
        self,
        path: str,
        clock: Callable[[], float] | None = None,
        source: EventSource | None = None,
        *,
        newest_first: bool = False,
    ) -> None:
        self._source = source if source is not None else open_log(path)
        self._clock = clock or time.time
        self._looked_at = self._woke_at = self._slept_s = 0.0
        self._readable_since: float | None = None
        self.path = path
        self.directory = run_directory(path)
        self.is_caught_up = False
        self.progress = 0.0
        self.invalid_checkpoints: Collection[str] = ()  # set by who validates
        self.found_checkpoints: tuple[Save, ...] = ()  # set by who reads the files
        self._fold = RunFold(self.directory)
        self._around = Surroundings(self.directory)
        self._newest: NewestPart | None = None
        self._looks_first = self._is_polite = newest_first

    def poll(self, budget_s: float = 0.05) -> RunState:
        """Read what came, for about `budget_s` seconds, and judge. `is_caught_up` says whether more is waiting."""
        deadline = time.monotonic() + budget_s
        if self._looks_first:
            self._looks_first = False
            if self._look_at_the_end():
                return self.state()
        if self._newest is not None and not self._newest.poll():
            self._newest = None
            self._look_at_the_end()
        while True:
            if isinstance(self._source, JsonlSource):
                self._take(*self._source.poll_blocks(READ_BYTES))
            else:
                batch = self._source.poll(READ_BYTES)
                self._take(batch.events, batch)
            # The rest behind the newest part's beginning is read at once, so that the curves never miss their end.
            if self.is_caught_up or (time.monotonic() >= deadline and not self._is_behind_the_start_of_the_newest()):
                break
            if self._is_polite:
                time.sleep(POLITE_S)
        if self.is_caught_up:
            self._newest = None
        return self.state()

    def _take(self, told: Sequence[Told], batch: Batch) -> None:
        if batch.restarted and not self._continues(told):
            notices = self._fold.notices
            self._fold = RunFold(self.directory)
            self._fold.notices.extend(notices)
        self._note(batch, has_events=bool(told))
        self._fold.apply_all(told)
        self.is_caught_up, self.progress = batch.is_caught_up, batch.progress

    def _note(self, batch: Batch, *, has_events: bool) -> None:
        """What a read said of the log. That it cannot be read holds until it can be, and that it can be again is news
        for a minute: what no longer holds must not hide what does."""
        notices = self._fold.notices
        if READ_AGAIN in batch.notices or (batch.restarted and has_events):
            notices[:] = [notice for notice in notices if not notice.startswith(UNREADABLE)]
        notices.extend(notice for notice in batch.notices if notice != READ_AGAIN)
        if READ_AGAIN in batch.notices:
            self._readable_since = self._clock()
        elif any(notice.startswith(UNREADABLE) for notice in batch.notices):
            self._readable_since = None
        del notices[:-MAX_NOTICES]

    def _continues(self, events: Sequence[object]) -> bool:
        """A rotated log goes on counting; one that tells the run anew does not."""
        first = next((seq for event in events if (seq := getattr(event, "seq", 0))), 0)
        return first > self._fold.last_seq > 0

    def _look_at_the_end(self) -> bool:
        """Begin to follow the end of the log, if it is long. Whether that was done."""
        source = self._source
        if hasattr(source, "is_foreign"):
            from ckpt_tui.services.foreign_newest import ForeignNewest, is_long

            end = ForeignNewest(self.path, self.directory) if is_long(source) else None
            self._newest = end if end is not None and end.is_known else None
            return self._newest is not None
        if type(source) is not JsonlSource:
            return False
        try:
            if os.stat(source.path).st_size - source.position < LONG_LOG_BYTES:
                return False
            from ckpt_tui.services.glance import Newest

            self._newest = Newest(source.path, self.directory)
        except OSError:
            return False  # the source says what is wrong
        return True

    def _is_behind_the_start_of_the_newest(self) -> bool:
        return self._newest is not None and getattr(self._source, "position", 0) >= self._newest.start

    def rest(self) -> LogMark | None:
        """Let go of the log for as long as nobody asks; the next poll takes up where the last one ended, if it is given
        the same log. None where it had better begin anew: what was read is soon read again, or not ours."""
        source = self._source
        if type(source) is not JsonlSource or not self.is_caught_up or source.position < LONG_LOG_BYTES:
            return None
        source.let_go()
        self.invalid_checkpoints, self.found_checkpoints = (), ()
        self._around = Surroundings(self.directory)  # whether its process lives is asked anew
        self._looked_at = self._woke_at = self._slept_s = 0.0  # that nobody looked is no sleep of the machine
        return log_mark(source.path, source.position)

    def state(self) -> RunState:
        """The state now, without reading the log."""
        now = self._clock()
        state = self._state(now) if self._newest is None else self._newest_state(self._newest, now)
        if self._readable_since is not None and 0 <= now - self._readable_since < NEWS_S:
            return replace(state, notices=(*state.notices, READ_AGAIN))
        return state

    def _state(self, now: float) -> RunState:
        state = self._fold.state(now, self._beside(now, self._fold))
        torn = self._source.unfinished
        if torn is None or not state.phase.is_over or not self.is_caught_up:
            return state
        bad = state.bad_lines
        if not bad.count:
            return replace(state, bad_lines=BadLines(1, torn.offset, torn.reason))
        return replace(state, bad_lines=replace(bad, count=bad.count + 1))

    def _beside(self, now: float, told: RunFold | NewestPart) -> Beside:
        return replace(
            self._around.beside(now, told.last_process(), told.home), invalid_checkpoints=self.invalid_checkpoints,
            found_checkpoints=self.found_checkpoints, usual_pause_s=self._own_pause_s(now),
        )  # fmt: skip

    def _own_pause_s(self, now: float) -> float:
        """How long nobody looked: a laptop that slept, a viewer that was stopped. What is watched may have slept, too,
        and gets a while to wake before its silence means something."""
        slept_s, self._looked_at = now - self._looked_at if self._looked_at else 0.0, now
        if slept_s > OWN_PAUSE_S:
            self._slept_s, self._woke_at = slept_s, now
        return self._slept_s + WAKING_S if 0 <= now - self._woke_at < WAKING_S else 0.0

    def _newest_state(self, newest: NewestPart, now: float) -> RunState:
        from ckpt_tui.services.glance import nothing_known, with_curves_before

        if newest.is_known:
            state = newest.state(now, self._beside(now, newest))
        else:
            state = nothing_known(now, self.directory)
        notices = (*self._fold.notices, *state.notices)
        return replace(with_curves_before(state, *self._fold.curves()), notices=notices)


def read_run(path: str) -> RunState:
    """The state of a run now, its whole log read. Raises CkptError as `RunMonitor` does."""
    monitor = RunMonitor(path)
    state = monitor.poll(budget_s=1.0)
    while not monitor.is_caught_up:
        state = monitor.poll(budget_s=1.0)
    return state
