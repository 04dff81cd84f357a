"""Optimizers that do not load torch's compiler, for trainings that do not compile.

torch marks methods of its optimizers for `torch.compile`; the first call of one imports `torch._dynamo` (with sympy and
FSDP: nearly as long as `import torch` itself), compiled or not. The functions under the marks do the same without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def eager(optimizer_class: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """`optimizer_class` with its own functions under the marks; itself where torch does not wrap them as we know it.

    Not for differentiable optimizers: `step` records no gradients.
    """
    methods: dict[str, Any] = {name: _unwrapped(optimizer_class, name) for name in _MARKED}
    step = _unwrapped(optimizer_class, "step")
    if step is None or None in methods.values():
        return optimizer_class
    methods["step"] = torch.no_grad()(step)
    return type(optimizer_class.__name__, (optimizer_class,), methods)


def _unwrapped(optimizer_class: type, name: str) -> Callable[..., Any] | None:
    """The function that the marks wrap, None when there is none."""
    method = getattr(optimizer_class, name)
    # Once an optimizer of this class was made, its step is wrapped for profiling, too.
    while (inner := getattr(method, "__wrapped__", None)) is not None:
        method = inner
    return method if method is not getattr(optimizer_class, name) else None
