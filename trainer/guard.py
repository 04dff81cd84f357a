"""What to do about losses that cannot be trusted: skip the batch; after too many in a row, go back, with other data."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from trainer.config import Config

# Losses that a spike is measured against. Fewer than the least, and nothing is called a spike.
WINDOW_LENGTH = 64
LEAST_LENGTH = 16
# So many in a row, and they are no spikes: the losses have another level now.
MAX_SPIKES = 5
# A standard deviation is so many median absolute deviations, for normal numbers.
_DEVIATIONS = 1.4826
# Of the level: a loss that hardly moves does not make its next move a spike.
_LEAST_SPREAD = 0.01


class Guard:
    """Counts what was skipped and decides when to go back. All of it is saved: a resume decides as the run would have.

    num_nonfinite: batches in a row without a finite loss or gradient. last_good_step: the newest before them.
    num_rollbacks: of the whole run. rolled_back_to: the step that the last one went to, None for none.
    """

    def __init__(self, config: Config) -> None:
        self._max_nonfinite = config.max_nonfinite
        self._max_rollbacks = config.max_rollbacks
        self._spike_z = config.spike_guard
        self.num_nonfinite = 0
        self.last_good_step = 0
        self.num_rollbacks = 0
        self.rolled_back_to: int | None = None
        self._num_spikes = 0
        self._window: deque[float] = deque(maxlen=WINDOW_LENGTH)

    @property
    def is_in_doubt(self) -> bool:
        """Whether the newest batches had no finite loss or gradient: the weights may be the cause."""
        return self.num_nonfinite > 0

    @property
    def is_too_much(self) -> bool:
        return self.num_nonfinite >= self._max_nonfinite

    @property
    def may_go_back(self) -> bool:
        return self.num_rollbacks < self._max_rollbacks

    def robust_z(self, loss: float) -> float:
        """How far above the median of the newest losses, in standard deviations as the median deviation tells them."""
        if len(self._window) < LEAST_LENGTH:
            return 0.0
        level = statistics.median(self._window)
        deviation = statistics.median(abs(value - level) for value in self._window)
        return (loss - level) / max(_DEVIATIONS * deviation, _LEAST_SPREAD * abs(level), 1e-12)

    def accepts(self, loss: float) -> bool:
        """Whether the weights may be updated after a batch with this finite loss."""
        return not self._spike_z or self._num_spikes >= MAX_SPIKES or self.robust_z(loss) <= self._spike_z

    def took(self, step: int, loss: float, *, is_trouble: bool, is_spike: bool) -> None:
        """A batch was taken, as the one before `step` batches were; skipped when it is trouble or a spike."""
        if is_trouble:
            self.num_nonfinite += 1
            return
        self.num_nonfinite, self.last_good_step = 0, step
        if is_spike:
            self._num_spikes += 1
            return
        if self._num_spikes >= MAX_SPIKES:
            self._window.clear()
        self._num_spikes = 0
        if self._spike_z and math.isfinite(loss):
            self._window.append(loss)

    def target(self, newest_checkpoint: int) -> int:
        """The step up to which a checkpoint may be that is gone back to: older than the onset.

        Where the last rollback led to the same trouble before anything was saved, what it went to was too new.
        """
        if self.rolled_back_to is not None and newest_checkpoint <= self.rolled_back_to:
            return self.rolled_back_to - 1
        return self.last_good_step

    def went_back(self, step: int, num_rollbacks: int) -> None:
        """This is the guard as it was saved at `step`; what it knew is no longer all."""
        self.num_nonfinite, self.last_good_step = 0, step
        self.num_rollbacks, self.rolled_back_to = num_rollbacks, step

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_nonfinite": self.num_nonfinite, "last_good_step": self.last_good_step,
            "num_rollbacks": self.num_rollbacks, "rolled_back_to": self.rolled_back_to,
            "num_spikes": self._num_spikes, "window": list(self._window),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any] | None, step: int) -> None:
        """None: of a checkpoint of a trainer that had no guard."""
        if state is None:
            self.last_good_step = step
            return
        self.num_nonfinite, self.last_good_step = int(state["num_nonfinite"]), int(state["last_good_step"])
        self.num_rollbacks, self.rolled_back_to = int(state["num_rollbacks"]), state["rolled_back_to"]
        self._num_spikes = int(state["num_spikes"])
        self._window = deque(state["window"], maxlen=WINDOW_LENGTH)
