"""Checkpoints of distributed training: of torch, written in this process, and of DeepSpeed, from a sample."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import torch

SAMPLE = Path(__file__).parents[1] / "samples" / "dcp_two_ranks"  # of two processes, kept in the repository


def dcp_state() -> dict[str, object]:
    """A training of a small model, as a script hands it to torch.distributed.checkpoint."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2)).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    model(torch.randn(3, 4).bfloat16()).sum().backward()
    optimizer.step()
    scheduler.step()
    model_state, optimizer_state = get_state_dict(model, optimizer)
    return {
        "model": model_state,
        "optimizer": optimizer_state,
        "scheduler": scheduler.state_dict(),
        "step": 7,
        "epoch": 1,
        "val_loss": 1.5,
        "args": {"lr": 0.5, "name": "x", "sizes": [1, 2]},
        "rng_state": torch.get_rng_state(),
        "dataloader": {"position": 12, "order": torch.arange(6)},
        "transposed": torch.arange(12.0).reshape(3, 4).t(),
        "nested": {"a": [torch.ones(2), 3]},
    }


def torchtitan_state() -> dict[str, object]:
    """As torchtitan saves: weights at the top, a flat optimizer, the step as a tensor."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict

    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"layers": torch.nn.Linear(4, 8), "norm": torch.nn.LayerNorm(8)})
    groups = [{"params": model["layers"].parameters()}, {"params": model["norm"].parameters(), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    model["norm"](model["layers"](torch.randn(3, 4))).sum().backward()
    optimizer.step()
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    return {
        **get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=flat),
        "lr_scheduler": {"last_epoch": 11, "base_lrs": [1e-3], "_last_lr": [1e-3]},
        "train_state": {"step": torch.tensor(11, dtype=torch.int32), "ntokens_seen": torch.tensor(4096)},
        "dataloader": {"dp_rank_0": b"pickled elsewhere"},
    }


def dcp(directory: Path, state: dict[str, object] | None = None) -> dict[str, object]:
    """Save into `directory` from one process; gives what was saved."""
    import torch.distributed.checkpoint as checkpoint

    state = dcp_state() if state is None else state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that there is no process group
        checkpoint.save(state, checkpoint_id=directory, no_dist=True)
    return state


def deepspeed(directory: Path) -> None:
    """Two ranks with ZeRO's third stage, which DeepSpeed wrote at another time: see tests/samples."""
    sample = Path(__file__).parents[1] / "samples" / "deepspeed" / "zero3_two_ranks"
    shutil.copytree(sample, directory, dirs_exist_ok=True)
