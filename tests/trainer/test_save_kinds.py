"""Which files a save writes, by kind and policy."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.state import load


def state_at(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": 1,
        "val_loss": 2.5,
        "best_metric": 2.5,
        "model": {"w": torch.full((4, 3), step)},
        **more,
    }


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.suffix in (".pt", ".safetensors")}


def test_one_event_writes_two_files_however_many_names_it_has(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {"rolling", "best"})
        checkpoints.save(state_at(2), {"rolling", "best", "epoch"})
    assert names_in(tmp_path) == {
        "latest.pt", "latest_backup.pt", "rolling_step_000001.pt", "rolling_step_000002.pt", "rolling_last_backup.pt",
        "best_model.pt", "best_model_backup.pt", "best_model_previous.pt", "epoch_00001.pt",
    }  # fmt: skip
    inodes = {name: (tmp_path / name).stat().st_ino for name in names_in(tmp_path)}
    assert (
        len({inodes[name] for name in ("latest.pt", "rolling_step_000002.pt", "best_model.pt", "epoch_00001.pt")}) == 1
    )
    assert inodes["rolling_last_backup.pt"] == inodes["best_model_backup.pt"] != inodes["latest.pt"]
    assert inodes["latest_backup.pt"] == inodes["best_model_previous.pt"] == inodes["rolling_step_000001.pt"]


def test_only_the_best_when_that_was_asked_for(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, Policy(save_best_only=True)) as checkpoints:
        checkpoints.save(state_at(1), {"rolling", "epoch"})
        checkpoints.wait()
        assert names_in(tmp_path) == set()
        checkpoints.save(state_at(2), {"rolling", "best"})
        assert checkpoints.save_now(state_at(3), {"emergency"})
        assert checkpoints.save_now(state_at(4), (), "regular") == "latest.pt"
    kinds = {name.partition("_")[0] for name in names_in(tmp_path)}
    assert kinds == {"latest.pt", "latest", "best", "emergency"}
    assert load(str(tmp_path / "best_model.pt"), ("step",))["step"] == 2


def test_a_pinned_one_and_the_resume_source_stay(tmp_path: Path) -> None:
    policy = Policy(keep_rolling=1)
    with Checkpointer(tmp_path, policy) as checkpoints:
        checkpoints.save_now(state_at(1), {"rolling"}, "regular")
        (tmp_path / "rolling_step_000001.pt.keep").touch()
        checkpoints.save_now(state_at(2), {"rolling"}, "regular")
    with Checkpointer(tmp_path, policy) as checkpoints:
        source = checkpoints.find("rolling_step_000002.pt")
        assert source is not None
        for step in (3, 4, 5):
            checkpoints.save_now(state_at(step), {"rolling"}, "regular")
    assert {path.name for path in tmp_path.glob("rolling_step*.pt")} == {
        "rolling_step_000001.pt", "rolling_step_000002.pt", "rolling_step_000005.pt",
    }  # fmt: skip
    (tmp_path / "rolling_step_000001.pt.keep").unlink()
    with Checkpointer(tmp_path, policy) as checkpoints:
        assert checkpoints.find("auto") is not None
        checkpoints.save_now(state_at(6), {"rolling"}, "regular")
    assert {path.name for path in tmp_path.glob("rolling_step*.pt")} == {
        "rolling_step_000005.pt", "rolling_step_000006.pt",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "least", "value", "previous", "is_better"),
    [
        ("min", 0.0, 1.0, None, True), ("min", 0.0, 1.0, 1.0, False), ("min", 0.1, 0.95, 1.0, False),
        ("min", 0.1, 0.85, 1.0, True), ("max", 0.0, 2.0, 1.0, True), ("max", 0.5, 1.4, 1.0, False),
        ("min", 0.0, float("nan"), None, False), ("max", 0.0, float("inf"), 1.0, False),
    ],
)  # fmt: skip
def test_what_is_a_new_best(mode: str, least: float, value: float, previous: float | None, is_better: bool) -> None:
    assert Policy(monitor_mode=mode, min_improvement=least).is_better(value, previous) is is_better


def test_weights_for_inference_are_what_safetensors_reads(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    model = {
        "b": base, "tied": base, "a.half": base.half(), "bf16": base.bfloat16(), "turned": base.t(), "row": base[1],
        "flags": base > 3, "counts": torch.arange(3), "empty": torch.empty(0, 2), "scalar": torch.tensor(2.5),
    }  # fmt: skip
    averages = {"b": base + 100}
    state = state_at(7, model=model, ema={"decay": 0.9, "weights": averages})
    expected = {**{name: tensor.clone() for name, tensor in model.items()}, "b": averages["b"].clone()}
    with Checkpointer(tmp_path, Policy(best_safetensors=True)) as checkpoints:
        checkpoints.save(state, {"rolling"})
        checkpoints.wait()
        assert not (tmp_path / "best_model.safetensors").exists()
        checkpoints.save(state, {"best"})
        base.fill_(-1.0)
        averages["b"].fill_(-1.0)
    found = load_file(tmp_path / "best_model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    with safe_open(tmp_path / "best_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "step": "7", "epoch": "1", "val_loss": "2.5"}
    content = (tmp_path / "best_model.safetensors").read_bytes()
    assert struct.unpack("<Q", content[:8])[0] % 8 == 0


def test_weights_that_safetensors_cannot_hold_are_told_and_the_checkpoint_is_there(tmp_path: Path) -> None:
    said: list[str] = []
    sparse = torch.eye(3).to_sparse()
    with Checkpointer(tmp_path, Policy(best_safetensors=True), say=said.append) as checkpoints:
        checkpoints.save(state_at(1, model={"eye": sparse}), {"best"})
    assert said[0].startswith("save of best_model.safetensors failed (write): eye is torch.float32, torch.sparse_coo")
    assert load(str(tmp_path / "best_model.pt"), ("step",))["step"] == 1
