"""Evaluation: the same batches each time, no random numbers, and nothing of the training is changed by it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.step import Stepper


@torch.no_grad()
def evaluate(
    stepper: Stepper, batches: Sequence[tuple[Tensor, Tensor]], should_stop: Callable[[], bool]
) -> dict[str, float] | None:
    """Metrics over `batches`, of the averaged weights where there are any; None when asked to stop before the last.

    The ranks take the batches in turn. should_stop: gives the same on all of them.
    """
    world = stepper.world
    total, num = 0.0, 0
    stepper.network.eval()
    try:
        with stepper.ema.in_place_of_weights() if stepper.ema is not None else contextlib.nullcontext():
            for first in range(0, len(batches), world.size):
                if should_stop():
                    return None
                mine = first + world.rank
                # In the last round some have none; where the weights are spread, all take part in each pass.
                inputs, targets = batches[min(mine, len(batches) - 1)]
                loss = stepper.loss(inputs, targets).item()
                if mine < len(batches):
                    total += loss * len(inputs)
                    num += len(inputs)
    finally:
        stepper.network.train()
    total, num_all = world.sum([total, num])
    return {"val_loss": total / num_all}
