"""What changes from step to step besides weights, optimizer, schedule and data position."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

HISTORY_LENGTH = 100
# Saved together under `dataloader_state.sums`.
_SUMS = ("epoch_loss_sum", "epoch_num_steps", "recent_loss_sum", "recent_num_steps", "is_step_unfinished")


@dataclass
class Progress:
    """All of it is saved.

    `step` counts batches taken: step N means that batches 0..N-1 are in the weights. A batch whose loss or gradient is
    not finite is taken, too, and leaves the weights as they are; so the position in the data always follows the step.
    """

    step: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    val_metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    history: deque[list[float]] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))
    epoch_loss_sum: float = 0.0
    epoch_num_steps: int = 0
    recent_loss_sum: float = 0.0  # since the last evaluation, for --monitor train_loss
    recent_num_steps: int = 0
    # The work after a step (evaluation, end of an epoch, save) was cut short by a signal: a resume does it first.
    is_step_unfinished: bool = False

    def count_loss(self, loss: float) -> None:
        """Into the means over the epoch and since the last evaluation."""
        self.epoch_loss_sum += loss
        self.epoch_num_steps += 1
        self.recent_loss_sum += loss
        self.recent_num_steps += 1

    def sums(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SUMS}

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint's state."""
        self.step, self.train_loss, self.val_loss = state["step"], state["train_loss"], state["val_loss"]
        self.val_metrics, self.best = dict(state["val_metrics"]), state["best_metric"]
        self.history = deque(state["loss_history"], maxlen=HISTORY_LENGTH)
        for name in _SUMS:
            setattr(self, name, state["dataloader_state"]["sums"][name])
