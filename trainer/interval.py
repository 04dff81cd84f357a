"""How often to save, from what this training measures of itself: what a save costs it, and how often it failed.

Formulas: `ckpt_tui.save_interval`. Measured are d, how long training stands still for a save; w, how long it is
written on in the background; s, how much slower the steps are meanwhile; t, the time from step to step; R, from the
start of the process to the first new step; T and n, the time observed and the failures in it, over all sessions.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import pairwise
from statistics import fmean, median

from ckpt_tui.events.schema import CheckpointSaved, Event, Nonfinite, SaveAdvice
from ckpt_tui.save_interval import (
    Recommendation,
    interval_between_failures,
    lost_per_failure,
    mean_time_between_failures,
    recommend,
    save_cost,
)
from trainer.history import History

MIN_SAVES = 3
# The optimum is flat: a recommendation that is wrong by a quarter costs 2.5 % of what saving costs.
CHANGE = 1.25
LEAST_SECONDS = 60.0  # between two advices
_MAX_STEPS = 2000
_MAX_SAVES = 50
_WARM_UP_STEPS = 3
_MIN_USUAL_STEPS = 5


class IntervalAdvisor:
    """Tell it of every step and every event; `due` gives an advice when there is something new to say.

    Times are those of `time.monotonic()`; `process_age_s`: how long the process runs already.
    """

    def __init__(
        self, history: History, *, num_failures: int = 0, now: float | None = None, process_age_s: float = 0.0
    ) -> None:
        self._observed_before_s = history.observed_s
        self._num_failures = num_failures
        self._began = time.monotonic() if now is None else now
        self._process_age_s = process_age_s
        self._restart_s: float | None = None
        self._steps: deque[tuple[float, float]] = deque(maxlen=_MAX_STEPS)  # when each ended, what it took
        self._num_steps = 0
        self._saves: deque[CheckpointSaved] = deque(maxlen=_MAX_SAVES)
        self._saved_at: deque[float] = deque(maxlen=_MAX_SAVES)  # when the training stood still for it
        self._durable_at = 0.0  # the one before
        self._slowdowns: deque[float] = deque(maxlen=_MAX_SAVES)
        self._stalled_s: deque[tuple[float, float]] = deque(maxlen=_MAX_SAVES)
        self._told: SaveAdvice | None = None
        self._told_at = -LEAST_SECONDS

    def took_step(self, seconds: float, now: float) -> None:
        """A step ended; what it took, without what was done before and after it."""
        if self._restart_s is None:
            self._restart_s = self._process_age_s + now - self._began
        self._num_steps += 1
        if self._num_steps > _WARM_UP_STEPS:
            self._steps.append((now, seconds))

    def on_event(self, event: Event, now: float) -> None:
        if isinstance(event, Nonfinite) and event.rolled_back_to is not None:
            self._num_failures += 1
        if not isinstance(event, CheckpointSaved) or event.stall_seconds is None:
            return
        background = max((event.save_seconds or 0.0) - event.stall_seconds, 0.0)
        stood_still_at = now - background - event.stall_seconds
        self._saves.append(event)
        self._saved_at.append(stood_still_at)
        self._stalled_s.append((stood_still_at, event.stall_seconds))
        if (slowdown := self._slowdown(stood_still_at, now - background, now)) is not None:
            self._slowdowns.append(slowdown)
        self._durable_at = now

    def _slowdown(self, stood_still_at: float, begin: float, end: float) -> float | None:
        """The fraction of its pace that the training lost from `begin` to `end`, while a save was written.

        Against the steps between the save before it and this one. Below 0 when it was faster. Mean against mean: what
        writes in the background hits few steps, and those hard.
        """
        meanwhile = [seconds for at, seconds in self._steps if begin <= at - seconds / 2 <= end]
        usual = [seconds for at, seconds in self._steps if self._durable_at < at - seconds and at <= stood_still_at]
        if not meanwhile or len(usual) < _MIN_USUAL_STEPS:
            return None
        return 1.0 - fmean(usual) / max(fmean(meanwhile), 1e-9)

    @property
    def step_s(self) -> float | None:
        """From step to step, evaluations included and saves not."""
        if len(self._steps) < 2:
            return None
        begin, end = self._steps[0][0], self._steps[-1][0]
        stalled = sum(seconds for at, seconds in self._stalled_s if begin <= at <= end)
        return max((end - begin - stalled) / (len(self._steps) - 1), 1e-9)

    @property
    def slowdown(self) -> float | None:
        return median(self._slowdowns) if self._slowdowns else None

    def recommendation(self, now: float) -> Recommendation | None:
        """None until enough was measured."""
        step_s = self.step_s
        if len(self._saves) < MIN_SAVES or step_s is None:
            return None
        stall, background = self._stall_and_background()
        return recommend(
            cost_s=save_cost(stall, background, self.slowdown or 0.0), background_s=background, step_s=step_s,
            mean_time_between_failures_s=mean_time_between_failures(self._observed_s(now), self._num_failures),
        )  # fmt: skip

    def _observed_s(self, now: float) -> float:
        return self._observed_before_s + max(now - self._began, 0.0)

    def _stall_and_background(self) -> tuple[float, float]:
        stall = median(save.stall_seconds or 0.0 for save in self._saves)
        return stall, median(max((save.save_seconds or 0.0) - (save.stall_seconds or 0.0), 0.0) for save in self._saves)

    def due(self, step: int, now: float, *, is_last: bool = False) -> SaveAdvice | None:
        """The advice, when it is the first one, differs by much from the one before it, or the session ends."""
        if not is_last and now - self._told_at < LEAST_SECONDS:
            return None
        advice = self.advice(step, now)
        if advice is None or advice.recommended_steps is None:
            return None
        told = self._told
        if told is not None and told.recommended_steps and not is_last:
            ratio = advice.recommended_steps / told.recommended_steps
            if 1 / CHANGE < ratio < CHANGE:
                self._told_at = now  # looked at again in a while
                return None
        self._told, self._told_at = advice, now
        return advice

    def advice(self, step: int, now: float) -> SaveAdvice | None:
        """What it knows now."""
        best, step_s = self.recommendation(now), self.step_s
        if best is None or step_s is None:
            return None
        stall, background = self._stall_and_background()
        cost = save_cost(stall, background, self.slowdown or 0.0)
        observed_s = self._observed_s(now)
        expected_s = mean_time_between_failures(observed_s, self._num_failures)
        low_s, high_s = interval_between_failures(observed_s, self._num_failures)
        every_s = (self._saved_at[-1] - self._saved_at[0]) / (len(self._saved_at) - 1)
        gaps = [gap for one, after in pairwise(self._saves) if (gap := after.step - one.step) > 0]
        return SaveAdvice(
            step=step, recommended_steps=best.steps, recommended_seconds=best.seconds, bound_by=best.bound_by,
            save_every_steps=round(median(gaps)) if gaps else None, save_every_seconds=every_s,
            stall_seconds=stall, background_seconds=background, slowdown=self.slowdown, save_cost_seconds=cost,
            restart_seconds=self._restart_s, step_seconds=step_s, num_saves=len(self._saves),
            num_failures=self._num_failures, observed_seconds=observed_s, failure_every_seconds=expected_s,
            failure_every_low=low_s, failure_every_high=high_s,
            overhead=cost / max(every_s, 1e-9), recommended_overhead=best.overhead,
            lost_per_failure_seconds=lost_per_failure(every_s, background),
            bytes_per_day=86400 * median(map(_written_bytes, self._saves)) / max(every_s, 1e-9),
        )  # fmt: skip


def _written_bytes(event: CheckpointSaved) -> int:
    if event.written_bytes is not None:
        return event.written_bytes
    return event.bytes * (2 if any("backup" in name for name in event.names) else 1)
