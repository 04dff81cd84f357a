"""How much an evaluation's figure wavers by itself: whether a new best is better, or only luckier."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import field
from itertools import pairwise

from ckpt_tui.records import dataclass
from ckpt_tui.run.health import median

MAX_METRICS = 16
NUM_KEPT = 24
LEAST_EVALUATIONS = 6
NOISES = 2.0  # two figures of the same model differ by more than that once in six times


@dataclass(slots=True)
class EvalNoise:
    """The newest figures of each evaluated metric."""

    _values: dict[str, deque[float]] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, object]) -> None:
        for name, value in metrics.items():
            if not isinstance(value, float) or value - value != 0:
                continue
            if name in self._values:
                self._values[name].append(value)
            elif len(self._values) < MAX_METRICS:
                self._values[name] = deque([value], maxlen=NUM_KEPT)

    def noise_of(self, metric: str) -> float | None:
        """Its standard deviation without the trend, None while too little is known: from how far each figure lies off
        the line between its neighbours."""
        values = list(self._values.get(metric, ()))
        if len(values) < LEAST_EVALUATIONS:
            return None
        slopes = [b - a for a, b in pairwise(values)]
        bends = [abs(b - a) / 2 for a, b in pairwise(slopes)]
        middle = median(bends)
        return 1.4826 * middle / 1.5**0.5 if middle is not None else None

    def is_within(self, metric: str, value: float | None, previous: float | None) -> bool:
        """Whether `value` is no better than chance makes it."""
        noise = self.noise_of(metric)
        if noise is None or value is None or previous is None or value - previous - (value - previous) != 0:
            return False
        return abs(value - previous) < NOISES * noise
