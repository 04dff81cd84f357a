"""What saving and failing cost this run, told to its log: what an earlier session lost, and how often to save."""

from __future__ import annotations

import threading
import time

from ckpt_tui.events.schema import CheckpointSaved, Event, LostWork
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.process_identity import process_started
from trainer.history import History
from trainer.interval import IntervalAdvisor

# For --checkpoint_auto. Never seldom enough that a clock or a measurement gone wrong costs more than an hour.
FIRST_SAVE_SECONDS, LEAST_SAVE_SECONDS, MOST_SAVE_SECONDS = 10.0, 2.0, 3600.0


class Costs:
    """Tell it of each step, of each event, and of the end.

    save_every_s: seconds between saves as it advises now.

    history: of the sessions before this one, which begins at `start_step`. is_chosen: from a checkpoint that a person
    named. seconds_per_step: at which the steps were trained that are trained again, None when not known.
    """

    def __init__(
        self,
        log: EventWriter,
        history: History,
        start_step: int,
        *,
        is_chosen: bool = False,
        seconds_per_step: float | None = None,
    ) -> None:
        self._log = log
        self._history = history
        self._start_step = start_step
        self._seconds_per_step = seconds_per_step
        # Lost before this session began and not told yet: the first step says how long it took to get here.
        self._is_resuming = bool(history.sessions)
        self._is_failure = history.is_failed(start_step, is_chosen)
        self.save_every_s = FIRST_SAVE_SECONDS
        # Steps come from the thread that trains, events from the one that saves, too.
        self._lock = threading.Lock()
        started = process_started()
        self.interval = IntervalAdvisor(
            history, num_failures=history.num_failures(start_step, is_chosen),
            process_age_s=max(time.time() - started, 0.0) if started else 0.0,
        )  # fmt: skip

    def took_step(self, step: int, seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            self.interval.took_step(seconds, now)
            advice = self.interval.due(step, now)
        if self._is_resuming:
            self._is_resuming = False
            self._tell_lost_work(step)
        if advice is not None:
            self._log.emit(advice)

    def on_event(self, event: Event) -> None:
        now = time.monotonic()
        with self._lock:
            self.interval.on_event(event, now)
            if isinstance(event, CheckpointSaved):
                best = self.interval.recommendation(now)
                # The first saves are there to be measured.
                seconds = best.seconds if best is not None else 2 * self.save_every_s
                self.save_every_s = min(max(seconds, LEAST_SAVE_SECONDS), MOST_SAVE_SECONDS)

    def end(self, step: int) -> None:
        """The session ends: what it learned about saving goes into the log, for the next one and for people."""
        with self._lock:
            advice = self.interval.due(step, time.monotonic(), is_last=True)
        if advice is not None:
            self._log.emit(advice)

    def _tell_lost_work(self, step: int) -> None:
        last = self._history.sessions[-1]
        lost = max(last.last_step - self._start_step, 0)
        if not self._is_failure and not lost:
            return
        advice = self._history.advice
        self._log.emit(
            LostWork(
                step=step, lost_session=last.number, cause=last.status or "killed", from_step=self._start_step,
                to_step=self._start_step + lost,
                seconds=lost * self._seconds_per_step if self._seconds_per_step is not None else None,
                predicted_seconds=advice.lost_per_failure_seconds if advice is not None else None,
                down_seconds=max(time.time() - last.last_ts, 0.0),
            )
        )  # fmt: skip
