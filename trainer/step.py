"""One optimizer step: forward and backward in passes, clip, update. What is not finite never reaches the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.distributed import World
from trainer.ema import Ema
from trainer.model import next_byte_loss
from trainer.parallel.network import one_pass, passes_of_rank
from trainer.parallel.sharded import is_sharded
from trainer.precision import Precision


@dataclass(frozen=True)
class StepResult:
    """is_updated: the weights were. is_spike: they were not, because of a finite loss that was not accepted.

    is_trouble: they were not, and it is not the loss scaler's looking for its scale.

    seconds: what the step took, without what was done before and after it.
    """

    loss: float
    grad_norm: float
    lr: float
    is_updated: bool
    is_spike: bool
    is_trouble: bool
    seconds: float


class Stepper:
    """Takes steps with one model and its optimizer.

    model: whose weights are saved. network: what is called for a forward pass; the model, or what wraps it.
    is_updating: whether the optimizer is at work on the weights; then they belong to no step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: Config,
        device: torch.device,
        *,
        network: nn.Module | None = None,
        world: World | None = None,
    ) -> None:
        self.model = model
        self.network = model if network is None else network
        self.optimizer = optimizer
        self.device = device
        self.precision = Precision(config, device)
        self.ema = Ema(model, config.ema) if config.ema else None
        self.is_updating = False
        self.world = World() if world is None else world
        self._num_passes = passes_of_rank(config, self.world)
        self._grad_clip = config.grad_clip or math.inf

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, in the precision that was asked for."""
        inputs, targets = inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
        with self.precision.autocast():
            return next_byte_loss(self.network(inputs), targets)

    def take(
        self,
        inputs: Tensor,
        targets: Tensor,
        lr: float,
        should_stop: Callable[[], bool] = lambda: False,
        accepts: Callable[[float], bool] = lambda _: True,
    ) -> StepResult | None:
        """One step on one batch. The gradients are gone when it returns or raises.

        should_stop: asked between two passes; then None is given back, and the weights are as they were. accepts:
        whether a finite loss may change the weights. Both must be the same on all ranks.
        """
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        precision = self.precision
        try:
            loss = self._accumulate(inputs, targets, should_stop)
            if loss is None:
                return None
            precision.unscale(self.optimizer)
            norm = as_number(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_clip))
            is_finite = math.isfinite(loss) and math.isfinite(norm)
            is_trouble = not is_finite and not precision.is_scaled_too_high(loss, norm)
            is_spike = is_finite and not accepts(loss)
            if is_finite and not is_spike:
                self.is_updating = True
                precision.update(self.optimizer)
                if self.ema is not None:
                    self.ema.update()
            precision.next_scale(is_loss_finite=math.isfinite(loss))
            self.is_updating = False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return StepResult(
            loss, norm, lr, is_finite and not is_spike, is_spike, is_trouble, time.perf_counter() - started
        )

    def _accumulate(self, inputs: Tensor, targets: Tensor, should_stop: Callable[[], bool]) -> float | None:
        """Gradients of the whole batch, pass by pass; gives its mean loss, None when asked to stop before the last."""
        num = self._num_passes
        loss = 0.0
        rows = zip(self.world.rows(inputs).chunk(num), self.world.rows(targets).chunk(num), strict=True)
        for number, (some_inputs, some_targets) in enumerate(rows):
            if number and should_stop():
                return None
            with one_pass(self.network, is_last=number == num - 1):
                part = self.loss(some_inputs, some_targets) / num
                self.precision.backward(part)
            loss += part.item()
        return self.world.mean([loss])[0]


def as_number(norm: Tensor) -> float:
    """Of a norm whose parts lie on several ranks, too."""
    return float(norm.full_tensor() if is_sharded(norm) else norm)
