"""How a run's checkpoints are written and which are kept: plain settings, independent of the trainer's flags."""

from __future__ import annotations

import math
from dataclasses import dataclass

FORMATS = ("file", "dir", "dcp")


@dataclass(frozen=True)
class Policy:
    """How one run directory is saved into.

    keep_rolling, keep_emergency: how many of each pool stay; every other kind has one file, or keeps all (epoch).
    keep_every: rolling ones at multiples of so many steps stay besides; 0: none. keep_best: so many rolling ones with
    the best value of `monitor`, too. keep_rolling_when_full: fewer of them stay where the disk is full and the next
    save would not fit otherwise; 0: as many as ever, and no save.
    monitor, monitor_mode: what `best` is best at, min or max; a best differs from the last by `min_improvement`. For
    `keep_best` a state tells it as "val_loss", "train_loss", or by its name in a dict "val_metrics".
    save_best_only: no rolling and no epoch checkpoints; best, emergency and the last state of a run are still saved.
    best_safetensors: `best_model.safetensors`, weights alone, with every best.
    checkpoint_format: file (one .pt), dir (a directory for each), dcp (torch.distributed.checkpoint).
    is_async: `save` returns when the snapshot is taken; a thread makes it durable.
    """

    keep_rolling: int = 10
    keep_emergency: int = 10
    keep_every: int = 0
    keep_best: int = 0
    keep_rolling_when_full: int = 0
    monitor: str = "val_loss"
    monitor_mode: str = "min"
    min_improvement: float = 0.0
    save_best_only: bool = False
    best_safetensors: bool = False
    checkpoint_format: str = "file"
    is_async: bool = True

    def __post_init__(self) -> None:
        if self.keep_rolling < 1 or self.keep_emergency < 1:
            raise ValueError("keep_rolling and keep_emergency must be at least 1")
        if min(self.keep_every, self.keep_best, self.keep_rolling_when_full, self.min_improvement) < 0:
            raise ValueError("keep_every, keep_best, keep_rolling_when_full and min_improvement must not be negative")
        if self.monitor_mode not in ("min", "max"):
            raise ValueError(f"monitor_mode is {self.monitor_mode!r}, must be min or max")
        if self.checkpoint_format not in FORMATS:
            raise ValueError(f"checkpoint_format is {self.checkpoint_format!r}, must be one of {', '.join(FORMATS)}")

    def is_better(self, value: float, previous: float | None) -> bool:
        """Whether `value` of the monitored metric is a new best. What is not finite never is."""
        if not math.isfinite(value):
            return False
        if previous is None or not math.isfinite(previous):
            return True
        gain = previous - value if self.monitor_mode == "min" else value - previous
        return gain > self.min_improvement
