"""Evaluation: the same batches each time, no random numbers, and nothing of the training is changed by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from trainer.step import Stepper


@torch.no_grad()
def evaluate(
    stepper: Stepper, batches: Iterable[tuple[Tensor, Tensor]], should_stop: Callable[[], bool]
) -> dict[str, float] | None:
    """Metrics over `batches`; None when it was asked to stop before the last of them."""
    stepper.network.eval()
    try:
        total, num = 0.0, 0
        for inputs, targets in batches:
            if should_stop():
                return None
            total += stepper.loss(inputs, targets).item() * len(inputs)
            num += len(inputs)
        return {"val_loss": total / num}
    finally:
        stepper.network.train()


def is_better(value: float, best: float | None, mode: str) -> bool:
    """Whether `value` is the best so far; mode: min or max. What is not finite never is."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best if mode == "max" else value < best)
