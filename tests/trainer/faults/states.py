"""Small training states that prove themselves: what is in one follows from its step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trainer.checkpoint.state import rng_state


def state_at(step: int, *, width: int = 400, epoch: int = 0) -> dict[str, Any]:
    """A state as SPEC section 3 has it, of `step`."""
    generator = torch.Generator().manual_seed(step)
    return {
        "step": step, "epoch": epoch, "model": {"weight": torch.randn(width, generator=generator)},
        "optimizer": {"state": {0: {"exp_avg": torch.full((width,), float(step))}}, "param_groups": [{"params": [0]}]},
        "scheduler": {"last_epoch": step}, "scaler": None, "ema": None, "train_loss": 1.0 / (step + 1),
        "val_loss": 2.0 / (step + 1), "val_metrics": {"val_loss": 2.0 / (step + 1)}, "loss_history": [],
        "rng_state": rng_state(), "dataloader_state": {"train": {"epoch": epoch, "position": step}},
        "args": {"n_layer": 1}, "best_metric": 2.0 / (step + 1),
    }  # fmt: skip


def is_of_its_step(state: Mapping[str, Any]) -> bool:
    """Whether every part of a state is of the step that it says."""
    expected = state_at(state["step"], width=len(state["model"]["weight"]), epoch=state["epoch"])
    return (
        torch.equal(state["model"]["weight"], expected["model"]["weight"])
        and torch.equal(state["optimizer"]["state"][0]["exp_avg"], expected["optimizer"]["state"][0]["exp_avg"])
        and state["scheduler"] == expected["scheduler"]
        and state["dataloader_state"]["train"] == expected["dataloader_state"]["train"]
        and state["val_loss"] == expected["val_loss"]
    )
