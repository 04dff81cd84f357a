"""Low-rank adaptation (Hu et al. 2021): the model stays as it is, and each of its linear layers learns an addition."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


class LoraLinear(nn.Linear):
    """base(x) + alpha / rank * B A x. Only A and B are trained; B begins at zero, and so does the addition.

    A subclass, so that the base has the names that it has without LoRA; those of the addition are peft's.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        # On meta: the weights are those of `base`, drawing others would cost time and random numbers.
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.rank, self.scaling = rank, alpha / rank
        place = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, **place)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, **place)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.weight, self.bias) + self.scaling * self.lora_B(self.lora_A(inputs))


def add_lora(model: nn.Module, modules: nn.Module, rank: int, alpha: float) -> None:
    """Freeze `model`, and let the linear layers inside `modules`, a part of it, learn additions of `rank`."""
    model.requires_grad_(False)
    for parent in list(modules.modules()):
        if isinstance(parent, LoraLinear):
            continue
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, LoraLinear(child, rank, alpha))
