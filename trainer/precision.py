"""In which precision a pass is computed: autocast, and the loss scaler that fp16 needs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config import Config

# Infinite gradients below this scale are not the scaler's doing: there is nothing left to lower.
LEAST_SCALE = 1.0


class Precision:
    """fp32, bf16 or fp16 on one device."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self._device_type = device.type
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
        self.scaler: torch.amp.GradScaler | None = None
        if config.precision == "fp16":
            # Sooner than torch's 2,000 steps: a run on this trainer may be no longer than that.
            self.scaler = torch.amp.GradScaler(device.type, growth_interval=config.scaler_growth_interval)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, dtype=self._dtype)

    @property
    def scale(self) -> float:
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())

    def backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """The gradients as they are without the scale, once all passes of a step are done."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer update the weights; the gradients are finite."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)

    def is_scaled_too_high(self, loss: float, norm: float) -> bool:
        """Whether infinite gradients only mean that the scale has to come down, as it does now and then."""
        return self.scaler is not None and math.isfinite(loss) and not math.isfinite(norm) and self.scale > LEAST_SCALE

    def next_scale(self, *, is_loss_finite: bool) -> None:
        """Adapt the scale after a step. A loss that is not finite says nothing about the scale: it stays."""
        if self.scaler is not None:
            self.scaler.update(None if is_loss_finite else self.scaler.get_scale())

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """None, from a checkpoint of another precision, leaves a new scaler as it is. Settings stay those of now."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict({**state, "growth_interval": self.scaler.get_growth_interval()})
