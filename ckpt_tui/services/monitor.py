"""Watches one run: its log, its process, and which of its checkpoint files are still there. Only reads."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.state import BadLines, RunState
from ckpt_tui.services.system import lock_owner, process_is_alive
from ckpt_tui.sources.base import CHUNK_BYTES, EventSource
from ckpt_tui.sources.registry import open_source

MAX_NOTICES = 20
_ALIVE_EVERY_S = 1.0


def run_directory(path: str) -> str:
    """The run directory of a path that is one, or is a log file in one."""
    return path if Path(path).is_dir() else os.path.dirname(path) or "."


class RunMonitor:
    """Polls a run. `poll()` gives the state and takes about its budget, however long the log is.

    Raises CkptError when `path` is neither a directory nor a log; a directory without a log is waited for.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.time, source: EventSource | None = None) -> None:
        self._source = source if source is not None else open_source(path)
        self._clock = clock
        self.path = path
        self.directory = run_directory(path)
        self.is_caught_up = False
        self.progress = 0.0
        self.invalid_checkpoints: Collection[str] = ()  # set by who validates
        self._fold = RunFold(self.directory)
        self._names: frozenset[str] | None = None
        self._names_stamp: tuple[int, int] | None = None
        self._alive: bool | None = None
        self._alive_asked: tuple[float, int, float] | None = None

    def poll(self, budget_s: float = 0.05) -> RunState:
        """Read what came, for about `budget_s` seconds, and judge. `is_caught_up` says whether more is waiting."""
        deadline = time.monotonic() + budget_s
        while True:
            batch = self._source.poll(CHUNK_BYTES // 4)
            if batch.restarted and not self._continues(batch.events):
                notices = self._fold.notices
                self._fold = RunFold(self.directory)
                self._fold.notices.extend(notices)
            self._fold.notices.extend(batch.notices)
            del self._fold.notices[:-MAX_NOTICES]
            self._fold.apply_all(batch.events)
            self.is_caught_up, self.progress = batch.is_caught_up, batch.progress
            if batch.is_caught_up or time.monotonic() >= deadline:
                break
        return self.state()

    def _continues(self, events: Sequence[object]) -> bool:
        """A rotated log goes on counting; one that tells the run anew does not."""
        first = next((seq for event in events if (seq := getattr(event, "seq", 0))), 0)
        return first > self._fold.last_seq > 0

    def state(self) -> RunState:
        """The state now, without reading the log."""
        now = self._clock()
        self._look_at_names()
        pid, pid_started, host = self._fold.last_process()
        state = self._fold.state(
            now,
            is_process_alive=self._is_alive(now, pid, pid_started, host),
            invalid_checkpoints=self.invalid_checkpoints,
            existing_names=self._names,
        )
        torn = self._source.unfinished
        if torn is None or not state.phase.is_over or not self.is_caught_up:
            return state
        bad = state.bad_lines
        if not bad.count:
            return replace(state, bad_lines=BadLines(1, torn.offset, torn.reason))
        return replace(state, bad_lines=replace(bad, count=bad.count + 1))

    def _is_alive(self, now: float, pid: int, pid_started: float, host: str) -> bool | None:
        asked = self._alive_asked
        if asked is None or asked[1:] != (pid, pid_started) or not 0 <= now - asked[0] < _ALIVE_EVERY_S:
            alive = process_is_alive(pid, pid_started, host)
            if alive is None and lock_owner(self.directory) is not None:
                alive = True  # a lock is let go when its owner dies, whatever host it is on
            self._alive, self._alive_asked = alive, (now, pid, pid_started)
        return self._alive

    def _look_at_names(self) -> None:
        try:
            facts = os.stat(self.directory)
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if stamp != self._names_stamp:
                self._names = frozenset(os.listdir(self.directory))
                self._names_stamp = stamp
        except OSError:
            self._names, self._names_stamp = None, None


def read_run(path: str) -> RunState:
    """The state of a run now, its whole log read. Raises CkptError as `RunMonitor` does."""
    monitor = RunMonitor(path)
    state = monitor.poll(budget_s=1.0)
    while not monitor.is_caught_up:
        state = monitor.poll(budget_s=1.0)
    return state
