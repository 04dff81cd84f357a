"""States whose tensors are spread over the ranks (DTensor), and the same states with whole tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def map_tensors(state: Any, change: Callable[[Tensor], Any]) -> Any:
    """`state` with every tensor in it changed; mappings become dicts, and their order stays."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, Mapping):
        return {key: map_tensors(value, change) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(map_tensors(value, change) for value in state)
    return state


def whole(state: Any) -> Any:
    """`state` with whole tensors on the CPU in place of spread ones. All ranks call it, with the same state."""
    return map_tensors(state, lambda tensor: tensor.full_tensor().cpu() if is_sharded(tensor) else tensor)


def spread(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A training state with whole tensors, spread as the weights of `model` are; what is spread already stays.

    Nothing is sent: each rank has the whole, and takes its part. Raises KeyError, ValueError, IndexError when the
    state is not one of this model.
    """
    weights: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))

    def named(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _like(tensor, weights[name]) if name in weights else tensor for name, tensor in tensors.items()}

    spread_state = {**state, "model": named(state["model"])}
    if state.get("ema") is not None:
        spread_state["ema"] = {**state["ema"], "weights": named(state["ema"]["weights"])}
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    spread_state["optimizer"] = {
        **state["optimizer"],
        "state": {
            number: {name: _like(value, parameters[int(number)]) for name, value in of_one.items()}
            for number, of_one in state["optimizer"]["state"].items()
        },
    }
    return spread_state


def _like(value: Any, weight: Tensor) -> Any:
    if not isinstance(value, Tensor) or is_sharded(value) or not is_sharded(weight) or value.shape != weight.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
