"""Where in epochs a step is: from the steps of an epoch, or from what the lines of the log say of themselves."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState, Series


@dataclass(frozen=True, slots=True)
class Epochs:
    """Knots of a rising line from steps to epochs, at least two; beyond its ends the line goes on."""

    steps: tuple[float, ...]
    epochs: tuple[float, ...]

    def of_step(self, step: float) -> float:
        index = min(max(bisect_right(self.steps, step) - 1, 0), len(self.steps) - 2)
        step0, step1 = self.steps[index], self.steps[index + 1]
        epoch0, epoch1 = self.epochs[index], self.epochs[index + 1]
        return epoch0 + (step - step0) / (step1 - step0) * (epoch1 - epoch0)


def epochs_of(state: RunState) -> Epochs | None:
    """None when the log tells nothing of epochs."""
    if state.steps_per_epoch > 0:
        return Epochs((0.0, float(state.steps_per_epoch)), (0.0, 1.0))
    return epochs_told(state.epochs) if state.epochs is not None else None


def epochs_told(series: Series) -> Epochs | None:
    """From lines that carry their epoch: a fraction (Hugging Face), or a number that counts whole ones (Keras)."""
    points = [
        (segment.steps[index], segment.last[index])
        for segment in series.segments
        for index in range(len(segment.steps))
        if segment.last[index] == segment.last[index]
    ]
    if all(epoch == int(epoch) for _, epoch in points):
        # An epoch begins where its number is first seen; what is after the last beginning is its extrapolation.
        points = [(step - 1, epoch) for step, epoch in points]
    return _rising(points)


def _rising(points: Iterable[tuple[float, float]]) -> Epochs | None:
    steps: list[float] = []
    epochs: list[float] = []
    for step, epoch in points:
        # What a later session trained again has been said already.
        if not steps or (float(step) > steps[-1] and epoch > epochs[-1]):  # as floats: huge steps fall together
            steps.append(float(step))
            epochs.append(epoch)
    return Epochs(tuple(steps), tuple(epochs)) if len(steps) >= 2 else None
