"""Where a training stands, in figures for a person: progress, pace, losses, and what would be lost if it died now."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field

from ckpt_tui import text
from ckpt_tui.events.schema import CheckpointSaved, Eval, Step

PACE_WINDOW_S = 30.0
_SAMPLE_S = 0.2
NUM_LOSSES = 60


@dataclass
class Standing:
    """Monotonic times. durable_step: of the newest checkpoint on the disk, None when there is none; durable_at: when
    the training was at that step, None when another session was. losses: the last ones that were told."""

    run_name: str = ""
    total_steps: int = 0
    start_step: int = 0
    step: int = 0
    started_at: float = field(default_factory=time.monotonic)
    stepped_at: float = 0.0
    loss: float | None = None
    lr: float | None = None
    val_loss: float | None = None
    best: float | None = None
    best_step: int = 0
    tokens_per_s: float | None = None
    durable_step: int | None = None
    durable_at: float | None = None
    saved_at: float | None = None
    num_skipped: int = 0
    saves_that_fit: int | None = None
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_LOSSES))
    _paced: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=200))

    def begin(self, run_name: str, total_steps: int, step: int, durable_step: int | None) -> None:
        now = time.monotonic()
        self.run_name, self.total_steps, self.start_step, self.step = run_name, total_steps, step, step
        self.started_at = self.stepped_at = now
        self.durable_step = durable_step
        self._paced.append((now, step))

    def at_step(self, step: int, now: float) -> None:
        if step < self.step:  # rolled back: another branch, another pace
            self._paced.clear()
        self.step, self.stepped_at = step, now
        if not self._paced or now - self._paced[-1][0] >= _SAMPLE_S:
            self._paced.append((now, step))

    def took(self, event: Step) -> None:
        """What a `step` event tells."""
        metrics = event.metrics
        self.loss, self.lr, self.tokens_per_s = metrics.get("loss"), metrics.get("lr"), metrics.get("tokens_per_s")
        if self.loss is not None:
            self.losses.append(self.loss)

    def evaluated(self, event: Eval) -> None:
        self.val_loss = event.metrics.get("val_loss", self.val_loss)

    def saved(self, event: CheckpointSaved, now: float) -> None:
        """A checkpoint is durable; its snapshot was taken `save_seconds` ago, and since then steps were trained."""
        self.durable_step, self.saved_at = event.step, now
        self.durable_at = now - (event.save_seconds or 0.0)

    @property
    def steps_per_s(self) -> float | None:
        """Over the last half minute, pauses included."""
        if len(self._paced) < 2:
            return None
        end, last = self._paced[-1]
        while len(self._paced) > 2 and end - self._paced[0][0] > PACE_WINDOW_S:
            self._paced.popleft()
        begin, first = self._paced[0]
        return (last - first) / (end - begin) if last > first and end > begin else None

    @property
    def fraction(self) -> float:
        return min(max(self.step / self.total_steps, 0.0), 1.0) if self.total_steps > 0 else 0.0

    def eta_s(self) -> float | None:
        pace = self.steps_per_s
        return max(self.total_steps - self.step, 0) / pace if pace and self.total_steps else None

    def at_risk(self, now: float) -> tuple[int, float]:
        """Steps and seconds of training that are in no checkpoint."""
        safe_step = self.durable_step if self.durable_step is not None else self.start_step
        since = self.durable_at if self.durable_at is not None else self.started_at
        steps = max(self.step - safe_step, 0)
        return steps, max(now - since, 0.0) if steps else 0.0

    def line(self, now: float) -> str:
        """All of it in one line, for a log: `step 10/200  5 %  loss 4.9312  lr 2.00e-03  81.0 steps/s  eta 2 s`."""
        return "  ".join([f"step {self.step}/{self.total_steps}", f"{int(100 * self.fraction)} %",
                          *self.figures(), *self.outlook(now)])  # fmt: skip

    def figures(self) -> list[str]:
        parts = []
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.lr is not None:
            parts.append(f"lr {self.lr:.2e}")
        if (pace := self.steps_per_s) is not None:
            parts.append(pace_words(pace))
        if self.tokens_per_s is not None and math.isfinite(self.tokens_per_s):
            parts.append(f"{text.short_count(self.tokens_per_s)} tok/s")
        return parts

    def outlook(self, now: float) -> list[str]:
        eta = self.eta_s()
        parts = [f"eta {text.duration(eta)}"] if eta is not None else []
        steps, seconds = self.at_risk(now)
        return [*parts, f"at risk {text.plural(steps, 'step')}, {text.duration(seconds)}"]


def pace_words(steps_per_s: float) -> str:
    """Steps a second, or seconds a step when they are slow."""
    if steps_per_s >= 1:
        return f"{steps_per_s:.3g} steps/s" if steps_per_s < 1000 else f"{steps_per_s:,.0f} steps/s"
    return f"{1 / steps_per_s:.3g} s/step"
