"""A byte-level GPT: tokens are bytes, so there is no vocabulary to keep with a checkpoint."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.config import Config
from trainer.eager_optimizer import eager
from trainer.lora import add_lora
from trainer.parallel.sharded import is_sharded

VOCABULARY_SIZE = 256


class Attention(nn.Module):
    """Causal self-attention over (batch, time, n_embd)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.queries_keys_values = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.projection = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        heads = self.queries_keys_values(x).view(batch, time, 3, self.n_head, width // self.n_head)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        y = y.transpose(1, 2).reshape(batch, time, width)
        return self.residual_dropout(self.projection(y))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.n_embd, bias=False)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.n_embd, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(config.n_embd, 4 * config.n_embd, bias=False),
            nn.GELU(),
            nn.Linear(4 * config.n_embd, config.n_embd, bias=False),
            nn.Dropout(config.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """Bytes (batch, time) -> logits of the next byte (batch, time, 256). The embedding is also the last layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY_SIZE, config.n_embd)
        self.positions = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=False)
        self.head = nn.Linear(config.n_embd, VOCABULARY_SIZE, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                # GPT-2: the variance of the residual stream does not grow with depth.
                is_residual = name.endswith(("projection.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (math.sqrt(2 * config.n_layer) if is_residual else 1.0))
        self._is_checkpointing = config.grad_checkpointing
        if config.lora_rank:
            add_lora(self, self.blocks, config.lora_rank, config.lora_alpha)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            # Computed again with the random numbers of the first time.
            x = checkpoint(block, x, use_reentrant=False) if self._is_checkpointing and self.training else block(x)
        return self.head(self.norm(x))


def next_byte_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats."""
    return functional.cross_entropy(logits.view(-1, VOCABULARY_SIZE).float(), targets.reshape(-1))


def make_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """With weight decay on matrices only: group 0 has it, group 1 has none. Frozen weights are in neither."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in trained if weight.dim() >= 2]},
        {"params": [weight for weight in trained if weight.dim() < 2]},
    ]
    uncompiled = eager if not config.compile else lambda optimizer_class: optimizer_class
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        # torch has no fused SGD for weights that are spread over processes.
        is_fused = not any(map(is_sharded, trained))
        optimizer = uncompiled(torch.optim.SGD)(groups, lr=config.lr, momentum=config.momentum, fused=is_fused)
    else:
        optimizer = uncompiled(torch.optim.AdamW)(groups, lr=config.lr, fused=True)
    apply_settings(optimizer, config)
    return optimizer


def apply_settings(optimizer: torch.optim.Optimizer, config: Config) -> None:
    """The settings of `config` into the groups: a loaded state brings those it was saved with."""
    for group, weight_decay in zip(optimizer.param_groups, (config.weight_decay, 0.0), strict=True):
        group["weight_decay"] = weight_decay
        group["fused"] = optimizer.defaults["fused"]
        if config.optimizer == "sgd":
            group["momentum"] = config.momentum
        else:
            group["betas"] = (config.beta1, config.beta2)
