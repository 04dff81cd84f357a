"""What a Trainer's checkpoint lacks, made by hand: the real ones are in tests/frameworks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.resumable import check_resume
from tests.builders import frameworks


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint-1"
    directory.mkdir()
    frameworks.hf_trainer(directory)
    return directory


def _settings(directory: Path, **settings: object) -> None:
    torch.save(argparse.Namespace(**settings), directory / "training_args.bin")


def _missing(checkpoint: Checkpoint) -> set[str]:
    return {finding.where for finding in checkpoint.findings if finding.code == "missing-part"}


def test_nothing_is_missing(saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    assert sniff(saved) == checkpoint.format == "hf-trainer"
    assert checkpoint.findings == []
    assert checkpoint.progress == {"step": 1, "epoch": 0.5, "train_loss": 2.5, "val_loss": 3.5}
    assert checkpoint.hyperparameters["learning_rate"] == 0.5
    assert check_resume(checkpoint).outcome == "pass"


def test_half_precision_needs_its_loss_scale(saved: Path) -> None:
    _settings(saved, fp16=True)
    assert _missing(open_checkpoint(saved)) == {"scaler.pt"}
    torch.save({"scale": 1024.0, "growth_factor": 2.0}, saved / "scaler.pt")
    checkpoint = open_checkpoint(saved)
    assert _missing(checkpoint) == set()
    assert "scaler" in checkpoint.has


def test_the_number_of_processes_is_that_of_the_settings(saved: Path) -> None:
    _settings(saved, distributed_state=argparse.Namespace(num_processes=3))
    (saved / "rng_state.pth").rename(saved / "rng_state_0.pth")
    assert _missing(open_checkpoint(saved)) == {"rng_state_1.pth", "rng_state_2.pth"}
    _settings(saved, distributed_state=argparse.Namespace(num_processes=10**6))
    assert len(_missing(open_checkpoint(saved))) == 0  # not a number of processes
    _settings(saved, distributed_state=argparse.Namespace(num_processes=99_999))
    assert _missing(open_checkpoint(saved)) == {"rng_state_1.pth and 99,997 others"}


def test_a_damaged_part_is_named_and_the_others_are_read(saved: Path) -> None:
    (saved / "optimizer.pt").write_bytes((saved / "optimizer.pt").read_bytes()[:100])
    checkpoint = open_checkpoint(saved)
    (finding,) = checkpoint.findings
    assert (finding.code, finding.where) == ("unreadable-part", "optimizer.pt")
    assert checkpoint.has == ["model", "scheduler", "rng", "dataloader"]
    assert checkpoint.progress["step"] == 1


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"global_step": "x", "log_history": [1, {"loss": "x"}, []]}'])
def test_a_trainer_state_that_says_nothing(saved: Path, content: str) -> None:
    (saved / "trainer_state.json").write_text(content)
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "hf-trainer"
    assert checkpoint.progress.get("step_source") == "name"  # checkpoint-1
    assert "train_loss" not in checkpoint.progress


def test_secrets_are_not_settings_to_show(saved: Path) -> None:
    _settings(saved, hub_token="hf_abc", push_to_hub_token=None, _private=1)
    settings = open_checkpoint(saved).hyperparameters
    assert settings["hub_token"] == "hidden"
    assert settings["push_to_hub_token"] is None
    assert "_private" not in settings


def test_the_losses_are_the_last_ones(saved: Path) -> None:
    history = [{"step": 1, "loss": 9.0}, {"step": 1, "eval_loss": 8.0}, {"step": 2, "loss": 1.0, "learning_rate": 0.5}]
    state = {"global_step": 2, "epoch": 1.5, "log_history": history, "max_steps": 10, "best_metric": 8.0}
    (saved / "trainer_state.json").write_text(json.dumps(state))
    progress = open_checkpoint(saved).progress
    assert (progress["train_loss"], progress["val_loss"], progress["learning_rate"]) == (1.0, 8.0, 0.5)
    assert (progress["best_metric"], progress["max_steps"], progress["epoch"]) == (8.0, 10, 1.5)


def test_a_file_for_each_part_is_another_layout(tmp_path: Path) -> None:
    for name in ("model.pt", "optimizer.pt", "rng_state.pth"):
        torch.save({"w": torch.ones(1)}, tmp_path / name)
    assert sniff(tmp_path) == "checkpoint-dir"
