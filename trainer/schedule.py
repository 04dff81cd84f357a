"""The learning rate of each step. Cosine and constant follow from the step alone; plateau remembers evaluations."""

from __future__ import annotations

import math
from typing import Any

from trainer.config import Config


class Schedule:
    """`lr(step)` is the learning rate with which the step after `step` completed ones is taken."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._scale = 1.0
        self._best = math.inf
        self._num_bad = 0

    def lr(self, step: int) -> float:
        config = self._config
        if step < config.warmup_steps:
            return config.lr * (step + 1) / config.warmup_steps
        if config.schedule == "cosine":
            length = max(config.max_steps - config.warmup_steps, 1)
            progress = min((step - config.warmup_steps) / length, 1.0)
            least = min(config.min_lr, config.lr)
            return least + (config.lr - least) * 0.5 * (1.0 + math.cos(math.pi * progress))
        if config.schedule == "plateau":
            return max(config.lr * self._scale, min(config.min_lr, config.lr))
        return config.lr

    def evaluated(self, val_loss: float) -> None:
        """Tell it of an evaluation; only plateau listens."""
        if val_loss < self._best:
            self._best, self._num_bad = val_loss, 0
            return
        self._num_bad += 1
        if self._num_bad >= self._config.plateau_patience:
            self._scale, self._num_bad = self._scale * self._config.plateau_factor, 0

    def state_dict(self, step: int) -> dict[str, Any]:
        return {
            "schedule": self._config.schedule, "last_epoch": step, "last_lr": [self.lr(max(step - 1, 0))],
            "scale": self._scale, "best": self._best, "num_bad": self._num_bad,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scale, self._best, self._num_bad = float(state["scale"]), float(state["best"]), int(state["num_bad"])
