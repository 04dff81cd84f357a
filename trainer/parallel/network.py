"""One model over several processes: copies that average their gradients (DDP), or shards of it (FSDP2)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.distributed import World
from trainer.errors import UsageError


def passes_of_rank(config: Config, world: World) -> int:
    """Passes of a step on each rank. Raises UsageError when the batch cannot be divided evenly."""
    unit = world.size * config.mini_batch_size if config.mini_batch_size else world.size
    if config.batch_size % unit:
        each = f" with --mini_batch_size {config.mini_batch_size}" if config.mini_batch_size else ""
        raise UsageError(
            f"--batch_size {config.batch_size} cannot be divided evenly among {world.size} processes{each}: it must be"
            f" a multiple of {unit}"
        )
    return config.batch_size // unit if config.mini_batch_size else 1


def shard(model: nn.Module, config: Config, world: World, device: torch.device) -> bool:
    """With `--parallel fsdp`, spread each weight over the ranks, in place; whether that was done.

    To be called before the optimizer is made, whose state is then spread likewise.
    """
    if config.parallel != "fsdp" or world.is_alone:
        return False
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world.size,))
    for block in model.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return True


def replicate(network: nn.Module, config: Config, world: World, device: torch.device) -> nn.Module:
    """With `--parallel ddp`, what is called for a forward pass so that the backward pass averages gradients."""
    if config.parallel != "ddp" or world.is_alone:
        return network
    from torch.nn.parallel import DistributedDataParallel

    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=device_ids)


def settle(network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], world: World, block_size: int) -> None:
    """Let DDP settle on how it bundles gradients, which it does in its first backward pass.

    Among more than two ranks the bundling decides in which order numbers are added. Without this the first step of a
    resumed session would add in another order than the same step of a session that goes on.
    """
    if world.is_alone or not hasattr(network, "no_sync"):
        return
    tokens = torch.zeros((1, block_size), dtype=torch.int64)
    with torch.random.fork_rng():
        for _ in range(2):  # it bundles anew at the beginning of the second
            loss(tokens, tokens).backward()
            network.zero_grad(set_to_none=True)


@contextlib.contextmanager
def one_pass(network: nn.Module, *, is_last: bool) -> Iterator[None]:
    """A forward and backward pass of a step: gradients are exchanged in the last one only."""
    quiet: Any = getattr(network, "no_sync", None)
    if quiet is not None:
        with contextlib.nullcontext() if is_last else quiet():
            yield
        return
    exchange: Any = getattr(network, "set_requires_gradient_sync", None)
    if exchange is not None:
        exchange(is_last)
    yield
