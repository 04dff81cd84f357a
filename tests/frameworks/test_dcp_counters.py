"""Steps, losses and rates that a distributed checkpoint keeps as tensors, wherever they stand in its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from ckpt_tui.checkpoints.model import Checkpoint, Storage, TensorRef
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.scalar import number_of
from tests.builders.checkpoints_by_hand import tensor_info

WEIGHTS = {"w": torch.ones(2, 2)}


def save(state: dict[str, Any], directory: Path) -> Checkpoint:
    dcp.save(state, checkpoint_id=directory, no_dist=True)
    return open_checkpoint(str(directory))


@pytest.mark.parametrize(
    ("state", "progress"),
    [
        ({"step": torch.tensor(3), "epoch": 1}, {"step": 3, "epoch": 1}),
        ({"train_state": {"step": torch.tensor(7)}}, {"step": 7}),
        ({"app": {"model": WEIGHTS, "step": torch.tensor(8)}}, {"step": 8}),
        ({"trainer": {"global_step": torch.tensor(9, dtype=torch.int32)}}, {"step": 9}),
        ({"step": torch.tensor([4], dtype=torch.int16), "loss": torch.tensor(0.5, dtype=torch.bfloat16)},
         {"step": 4, "train_loss": 0.5}),
    ],
)  # fmt: skip
def test_counters_and_losses(state: dict[str, Any], progress: dict[str, object], tmp_path: Path) -> None:
    assert save(state, tmp_path / "checkpoint").progress == progress


def test_learning_rates(tmp_path: Path) -> None:
    group = {"lr": torch.tensor(0.25), "params": [0]}
    state = {"model": WEIGHTS, "optimizer": {"state": {0: {"step": torch.tensor(12.0)}}, "param_groups": [group]}}
    assert save(state, tmp_path).optimizer["groups"][0]["lr"] == 0.25


def test_a_name_that_leads_out_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    for name in ("../secret", str(tmp_path / "secret")):
        checkpoint = Checkpoint(str(tmp_path / "directory"), "dcp", 0)
        checkpoint.storages["0"] = Storage("0", name, 0, 8)
        assert number_of(checkpoint, TensorRef(tensor_info("step", (), "int64", storage="0"))) is None
