"""An exponential moving average of the weights, which is what gets evaluated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """average = decay * average + (1 - decay) * weight after each update, for weights that are trained.

    The decay rises with the number of updates, (1 + n) / (10 + n), up to `decay`: the random start is forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._swapped: list[str] = []  # names of what has changed places
        self._is_torn = False  # one of them only half

    @torch.no_grad()
    def update(self) -> None:
        """After the optimizer updated the weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        torch._foreach_lerp_(list(self._averages.values()), list(self._weights.values()), 1.0 - decay)

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """The model has the averages; afterwards, whatever happened, its own weights again, bit for bit."""
        try:
            for name in self._weights:
                self._exchange(name, self._swapped.append)
            yield
        finally:
            # Also where memory ran out on the way. What an interrupt left half done cannot be made whole.
            while self._swapped and not self._is_torn:
                self._exchange(self._swapped[-1], lambda _: self._swapped.pop())

    @torch.no_grad()
    def _exchange(self, name: str, note: Callable[[str], object]) -> None:
        # Contents change places, not tensors: wrappers of the model hold on to those. One tensor more at a time.
        weight, average = self._weights[name], self._averages[name]
        kept = weight.detach().clone()
        self._is_torn = True
        weight.copy_(average)
        average.copy_(kept)
        note(name)
        self._is_torn = False

    def state_dict(self) -> dict[str, Any]:
        assert not self._swapped, "the averages are in the model"
        assert not self._is_torn, "an interrupt left weights and averages mixed"
        return {"decay": self.decay, "num_updates": self.num_updates, "weights": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """None, from a checkpoint without averages: they begin at the weights that the model has now."""
        weights: Mapping[str, Tensor] = self._weights if state is None else state["weights"]
        self.num_updates = 0 if state is None else int(state["num_updates"])
        if weights.keys() != self._averages.keys():
            raise ValueError(f"its averages are of {len(weights)} weights, this model trains {len(self._averages)}")
        with torch.no_grad():
            for name, average in self._averages.items():
                if average.shape != weights[name].shape:
                    raise ValueError(f"its average of {name} has shape {tuple(weights[name].shape)}")
                average.copy_(weights[name])
