"""Whether a checkpoint's state fits what was built: found out, and said by name, before any of it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_SHOWN = 3


class MisfitError(ValueError):
    """The state is of another model or optimizer; the message says where."""


def check_fit(state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Raise MisfitError when `model` or `optimizer` of `state` are not those that were built."""
    told = [*_model_misfits(state["model"], model.state_dict()), *_optimizer_misfits(state["optimizer"], optimizer)]
    if told:
        raise MisfitError("; ".join(told))


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """As `optimizer.load_state_dict`, but every tensor keeps the dtype in which it was saved.

    That one casts what is floating to the dtype of its parameter: moments in fp32 of weights in bf16 lose their bits.
    """
    optimizer.load_state_dict(dict(state))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for key, saved in state["state"].get(number, {}).items():
            loaded = optimizer.state[parameter].get(key)
            if isinstance(saved, Tensor) and isinstance(loaded, Tensor) and loaded.dtype != saved.dtype:
                optimizer.state[parameter][key] = saved.detach().clone().to(device=loaded.device)


def _model_misfits(saved: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    told = []
    if missing := [name for name in built if name not in saved]:
        told.append(f"the checkpoint lacks {_some(missing)} of the model")
    if unexpected := [name for name in saved if name not in built]:
        told.append(f"the model has no {_some(unexpected)}")
    other = [
        f"{name} {_shape(saved[name])} (here {_shape(built[name])})"
        for name in built
        if name in saved and _shape(saved[name]) != _shape(built[name])
    ]
    if other:
        told.append(f"other shapes: {_some(other)}")
    kinds = [
        f"{name} {saved[name].dtype} (here {built[name].dtype})"
        for name in built
        if name in saved and isinstance(saved[name], Tensor) and saved[name].dtype != built[name].dtype
    ]
    if kinds:
        told.append(f"other dtypes, to which loading would round: {_some(kinds)}")
    return told


def _optimizer_misfits(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> list[str]:
    groups, built = saved["param_groups"], optimizer.param_groups
    if len(groups) != len(built):
        return [f"the optimizer's state has {len(groups)} parameter groups, here there are {len(built)}"]
    told = [
        f"group {index} of the optimizer's state has {len(group['params'])} parameters (here {len(mine['params'])})"
        for index, (group, mine) in enumerate(zip(groups, built, strict=True))
        if len(group["params"]) != len(mine["params"])
    ]
    if told:
        return told
    numbers = [number for group in groups for number in group["params"]]
    parameters = [parameter for group in built for parameter in group["params"]]
    other = []
    for number, parameter in zip(numbers, parameters, strict=True):
        for key, value in saved["state"].get(number, {}).items():
            # Steps and the like are numbers; what has dimensions goes along with its parameter.
            if isinstance(value, Tensor) and value.dim() and _shape(value) != _shape(parameter):
                other.append(f"state.{number}.{key} {_shape(value)} (its parameter here {_shape(parameter)})")
    return [f"of the optimizer: {_some(other)}"] if other else []


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
