"""Progress, settings and parts are found where each framework puts them. States in their documented shapes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors, optimizers_of
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.progress import numbers_in_name
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.scalar import number_of

State = dict[str, Any]


def weights() -> State:
    return {"w": torch.ones(3, 2), "b": torch.zeros(3)}


def adamw() -> State:
    parameters = [torch.nn.Parameter(tensor) for tensor in weights().values()]
    optimizer = torch.optim.AdamW(parameters, lr=0.25)
    sum(parameter.sum() for parameter in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    return optimizer.state_dict()


def cosine() -> State:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict()


def scaler() -> State:
    return {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 3,
    }


def rng() -> torch.Tensor:
    return torch.get_rng_state()[:16].clone()


# name -> (state, progress, a setting, has)
FRAMEWORKS: dict[str, tuple[Callable[[], State], State, State, list[str]]] = {
    "nanoGPT": (
        lambda: {"model": weights(), "optimizer": adamw(), "model_args": {"n_layer": 2}, "iter_num": 300,
                 "best_val_loss": 1.5, "config": {"learning_rate": 0.5}},
        {"step": 300, "best_val_loss": 1.5}, {"n_layer": 2, "learning_rate": 0.5}, ["model", "optimizer"],
    ),
    "timm": (
        lambda: {"epoch": 4, "arch": "vit", "state_dict": weights(), "optimizer": adamw(), "version": 2,
                 "args": argparse.Namespace(lr=0.1, model="vit"), "amp_scaler": scaler(), "state_dict_ema": weights(),
                 "metric": 81.5},
        {"epoch": 4, "best_metric": 81.5}, {"lr": 0.1, "model": "vit"}, ["model", "optimizer", "scaler", "ema"],
    ),
    "mmengine": (
        lambda: {"meta": {"epoch": 2, "iter": 900, "cfg": "model = dict()", "seed": 3, "time": "20260131_120000",
                          "mmengine_version": "0.10"},
                 "state_dict": weights(), "optimizer": adamw(), "param_schedulers": [cosine()],
                 "message_hub": {"log_scalars": {}}, "ema_state_dict": weights()},
        {"step": 900, "epoch": 2, "saved_at": datetime(2026, 1, 31, 12).timestamp()}, {},
        ["model", "optimizer", "scheduler", "ema"],
    ),
    "fairseq": (
        lambda: {"args": None, "cfg": {"optimization": {"lr": [0.5]}}, "model": weights(), "criterion": None,
                 "optimizer_history": [{"optimizer_name": "FairseqAdam", "num_updates": 70,
                                        "lr_scheduler_state": {"best": 1.0}}],
                 "task_state": {}, "extra_state": {"train_iterator": {"epoch": 3, "iterations_in_epoch": 0},
                                                   "val_loss": 2.5},
                 "last_optimizer_state": adamw()},
        {"step": 70, "epoch": 3, "val_loss": 2.5}, {"optimization": {"lr": [0.5]}}, ["model", "optimizer"],
    ),
    "detectron2": (
        lambda: {"model": weights(), "optimizer": adamw(), "scheduler": cosine(), "iteration": 4999},
        {"step": 4999}, {}, ["model", "optimizer", "scheduler"],
    ),
    "detectron2 with a trainer": (
        lambda: {"model": weights(), "trainer": {"iteration": 9, "hooks": {}, "_trainer": {"optimizer": adamw()}}},
        {"step": 9}, {}, ["model"],
    ),
    "Ultralytics": (
        lambda: {"epoch": 11, "best_fitness": 0.5, "model": None, "ema": torch.nn.Linear(2, 3), "updates": 400,
                 "optimizer": adamw(), "scaler": scaler(), "train_args": {"lr0": 0.01, "imgsz": 640},
                 "date": "2026-01-31T12:00:00", "version": "8.4.0"},
        {"epoch": 11, "best_metric": 0.5, "saved_at": datetime(2026, 1, 31, 12).timestamp()},
        {"lr0": 0.01, "imgsz": 640}, ["optimizer", "scaler", "ema"],
    ),
    "YOLOv5": (
        lambda: {"epoch": 3, "best_fitness": 0.25, "model": torch.nn.Linear(2, 3), "ema": None, "optimizer": adamw(),
                 "opt": {"batch_size": 16}, "date": "2026-01-31T12:00:00"},
        {"epoch": 3, "best_metric": 0.25, "saved_at": datetime(2026, 1, 31, 12).timestamp()}, {"batch_size": 16},
        ["model", "optimizer"],
    ),
    "litgpt": (
        lambda: {"model": weights(), "optimizer": adamw(), "train_dataloader": {"position": 4}, "iter_num": 80,
                 "step_count": 20, "hparams": {"devices": 1}},
        {"step": 20}, {"devices": 1}, ["model", "optimizer", "dataloader"],
    ),
    "torchtune": (
        lambda: {"seed": 7, "epochs_run": 1, "total_epochs": 3, "max_steps_per_epoch": None, "steps_run": 40,
                 "optimizer": adamw()},
        {"step": 40, "epoch": 1}, {}, ["optimizer"],
    ),
    "Composer": (
        lambda: {"state": {"model": weights(), "optimizers": {"AdamW": adamw()},
                           "schedulers": {"CosineAnnealingLR": cosine()},
                           "timestamp": {"Timestamp": {"epoch": 1, "batch": 8, "iteration": 0, "sample": 64}},
                           "run_name": "x", "rank_zero_seed": 17},
                 "rng": [{"python": (3, (1, 2), None), "torch": rng()}]},
        {"step": 8, "epoch": 1}, {}, ["model", "optimizer", "scheduler", "rng"],
    ),
    "torchvision's references": (
        lambda: {"model": weights(), "optimizer": adamw(), "lr_scheduler": cosine(), "epoch": 2,
                 "args": argparse.Namespace(lr=0.1), "scaler": scaler(), "model_ema": weights()},
        {"epoch": 2}, {"lr": 0.1}, ["model", "optimizer", "scheduler", "scaler", "ema"],
    ),
    "Megatron": (
        lambda: {"args": argparse.Namespace(lr=0.1), "checkpoint_version": 3.0, "iteration": 50, "model": weights(),
                 "optimizer": {"optimizer": adamw(), "fp32_from_fp16_params": [[torch.ones(3)]]},
                 "opt_param_scheduler": {"max_lr": 0.1, "num_steps": 800}, "rng_state": [{"torch_rng_state": rng()}]},
        {"step": 50}, {"lr": 0.1}, ["model", "optimizer", "scheduler", "rng"],
    ),
    "DINO": (
        lambda: {"student": weights(), "teacher": weights(), "optimizer": adamw(), "epoch": 7,
                 "args": argparse.Namespace(patch_size=16), "fp16_scaler": scaler()},
        {"epoch": 7}, {"patch_size": 16}, ["model", "optimizer", "scaler", "ema"],
    ),
    "nnU-Net": (
        lambda: {"network_weights": weights(), "optimizer_state": adamw(), "grad_scaler_state": scaler(),
                 "current_epoch": 250, "init_args": {"fold": 0}, "trainer_name": "nnUNetTrainer", "_best_ema": 0.5},
        {"epoch": 250, "best_metric": 0.5}, {"fold": 0}, ["model", "optimizer", "scaler"],
    ),
    "torchtitan": (
        lambda: {"model": weights(), "optimizer": adamw(), "lr_scheduler": cosine(), "train_state": {"step": 12},
                 "dataloader": {"dp_rank_0": b"x"}},
        {"step": 12}, {}, ["model", "optimizer", "scheduler", "dataloader"],
    ),
    "names that say nothing": (
        lambda: {"a": weights(), "b": adamw(), "c": cosine(), "d": scaler(), "seed_rng": {"t": rng()}, "steps": 3.0},
        {"step": 3}, {}, ["model", "optimizer", "scheduler", "scaler"],
    ),
    "two networks": (
        lambda: {"generator": weights(), "discriminator": weights(), "optim_g": adamw(), "optim_d": adamw(), "it": 5},
        {"step": 5}, {}, ["model", "optimizer"],
    ),
}  # fmt: skip


def opened(tmp_path: Path, state: object, name: str = "x.pt") -> Checkpoint:
    torch.save(state, tmp_path / name)
    return open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_the_facts_are_found_where_the_framework_puts_them(tmp_path: Path, framework: str) -> None:
    make, progress, settings, has = FRAMEWORKS[framework]
    state = make()
    checkpoint = opened(tmp_path, state)
    assert checkpoint.progress == progress
    assert checkpoint.has == has
    assert {key: checkpoint.hyperparameters.get(key) for key in settings} == settings
    assert bool(checkpoint.hyperparameters) == bool(settings)
    if "optimizer" in has:
        assert checkpoint.optimizer["type"] == "AdamW"
        assert checkpoint.optimizer["num_parameters"] == 2
    if "model" in has:
        expected = 2 if framework == "two networks" else 1
        assert count_parameters(model_tensors(checkpoint)) == 9 * expected


def test_both_optimizers_of_two_networks(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"optim_g": adamw(), "optim_d": adamw()})
    assert [found.where for found in optimizers_of(checkpoint)] == ["optim_g", "optim_d"]


def test_the_state_of_quantized_layers_is_a_model(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 2))
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}).state_dict()
    assert not all(isinstance(value, torch.Tensor) for value in quantized.values())
    checkpoint = opened(tmp_path, quantized)
    assert checkpoint.has == ["model"]
    assert count_parameters(model_tensors(checkpoint)) == 8 * 2 + 2 + 2  # scale and zero point are buffers
    assert opened(tmp_path, {"w": torch.ones(2), "dtype": "float32", "other": 3}).has == []


SCALARS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]


@pytest.mark.parametrize("dtype", SCALARS)
@pytest.mark.parametrize("is_zip", [True, False])
def test_numbers_that_were_saved_as_tensors(tmp_path: Path, dtype: torch.dtype, is_zip: bool) -> None:
    many = torch.tensor([1, 2, 3, 100], dtype=dtype)
    state = {"model": weights(), "iter_num": torch.tensor(300), "best_val_loss": many[3], "val_metrics": {"acc": 0.5}}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    progress = open_checkpoint(tmp_path / "x.pt").progress
    assert progress == {"step": 300, "best_val_loss": 100, "acc": 0.5}


def test_the_rate_of_an_optimizer_that_keeps_it_as_a_tensor(tmp_path: Path) -> None:
    parameters = [torch.nn.Parameter(tensor) for tensor in weights().values()]
    optimizer = torch.optim.AdamW(parameters, lr=torch.tensor(0.25))
    groups = opened(tmp_path, {"optimizer": optimizer.state_dict()}).optimizer["groups"]
    assert isinstance(groups, list)
    assert groups[0]["lr"] == 0.25


def test_a_weight_is_no_step(tmp_path: Path) -> None:
    assert opened(tmp_path, {"step": torch.tensor(300), "loss": torch.tensor(1.0)}).progress == {}


def test_a_number_that_is_not_in_the_file_is_none(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, {"model": weights(), "loss": torch.tensor(1.5), "many": torch.ones(2)})
    assert isinstance(checkpoint.state, dict)
    assert number_of(checkpoint, checkpoint.state["loss"]) == 1.5
    assert number_of(checkpoint, checkpoint.state["many"]) is None
    assert number_of(checkpoint, 1.5) is None
    (tmp_path / "x.pt").write_bytes(b"")
    assert number_of(checkpoint, checkpoint.state["loss"]) is None
    (tmp_path / "x.pt").unlink()
    assert number_of(checkpoint, checkpoint.state["loss"]) is None


def test_what_is_no_part_is_not_one(tmp_path: Path) -> None:
    state = {"optim": torch.float32, "scheduler": "cosine", "opt": {"lr": 1}, "model": "vit", "rng_state": rng()}
    checkpoint = opened(tmp_path, state)
    assert checkpoint.has == ["rng"]
    assert checkpoint.hyperparameters == {"lr": 1}


def test_settings_by_themselves(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, argparse.Namespace(lr=0.5, max_steps=-1, optim="adamw", hub_token="x", _n_gpu=0))
    assert checkpoint.hyperparameters == {"lr": 0.5, "max_steps": -1, "optim": "adamw", "hub_token": "hidden"}
    assert checkpoint.progress == {}
    assert checkpoint.has == []


OPTIMIZERS: dict[str, tuple[str, State]] = {
    "AdamW": ("AdamW", {}), "Adam": ("Adam", {}), "NAdam": ("NAdam", {}), "Adamax": ("Adamax", {}),
    "RMSprop": ("RMSprop", {"momentum": 0.9}), "Adadelta": ("Adadelta", {}), "Adagrad": ("Adagrad", {}),
    "Rprop": ("Rprop", {}), "ASGD": ("ASGD", {}), "SGD with momentum": ("SGD", {"momentum": 0.9}), "SGD": ("SGD", {}),
    "RAdam": ("RAdam", {}), "Muon": ("Muon", {}), "Adafactor": ("Adafactor", {}), "LBFGS": ("LBFGS", {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_the_optimizer_by_what_it_keeps(tmp_path: Path, kind: str) -> None:
    name, settings = OPTIMIZERS[kind]
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = getattr(torch.optim, name)([parameter], lr=0.1, **settings)
    new = opened(tmp_path, {"optimizer": optimizer.state_dict()}).optimizer.get("type")
    assert new in (kind, kind.removesuffix(" with momentum")) or kind == "Adamax", "before its first step"

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (parameter**2).sum()
        value.backward()
        return value

    for _ in range(2):
        optimizer.step(loss)
    assert opened(tmp_path, {"optimizer": optimizer.state_dict()}).optimizer["type"] == kind


@pytest.mark.parametrize(
    ("named", "expected"), [("adamw", "AdamW"), ("adam", "Adam"), ("AdamW", "AdamW"), ("lamb", "lamb")]
)
def test_a_setting_that_names_the_optimizer_as_its_class(tmp_path: Path, named: str, expected: str) -> None:
    """Without `decoupled_weight_decay` Adam and AdamW are told apart by the setting alone."""
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group.pop("decoupled_weight_decay", None)
    checkpoint = opened(tmp_path, {"optimizer": state, "step": 1, "args": {"optimizer": named}})
    assert checkpoint.optimizer["type"] == expected


def test_sgd_as_a_setting_has_momentum_where_the_state_says_so(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "step": 1, "args": {"optimizer": "sgd"}}
    assert opened(tmp_path, state).optimizer["type"] == "SGD with momentum"


def test_sparse_adam_is_not_adam_and_a_first_moment_alone_is_not_lion(tmp_path: Path) -> None:
    embedding = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert opened(tmp_path, {"optimizer": optimizer.state_dict()}).optimizer["type"] == "SparseAdam"
    sophia = {"state": {0: {"step": 1, "exp_avg": torch.ones(2), "hessian": torch.ones(2)}}, "param_groups": [{}]}
    assert "type" not in opened(tmp_path, {"optimizer": sophia}).optimizer


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("rolling_step_000500.pt", {"step": 500, "step_source": "name"}),
        ("checkpoint-500.pt", {"step": 500, "step_source": "name"}),
        ("epoch=3-step=700.ckpt", {"step": 700, "step_source": "name"}),
        ("iter_0005000.pt", {"step": 5000, "step_source": "name"}),
        ("ep1-ba500-rank0.pt", {"step": 500, "step_source": "name"}),
        ("checkpoint_epoch0003_step00000900_loss1.2500.pt", {"step": 900, "step_source": "name"}),
        ("epoch_12.pth", {"epoch": 12, "epoch_source": "name"}),
        ("timestep_5.pt", {}),
        ("checkpoint_20261121_120000.pt", {}),
        ("model2.pt", {}),
        ("step_1.25.pt", {"step": 1, "step_source": "name"}),
    ],
)
def test_a_step_that_only_the_name_tells(tmp_path: Path, name: str, progress: State) -> None:
    assert opened(tmp_path, weights(), name).progress == progress


def test_the_state_is_believed_before_the_name(tmp_path: Path) -> None:
    assert opened(tmp_path, {"step": 7, "model": weights()}, "step_9.pt").progress == {"step": 7}
    # DETR's checkpoint0049.pth is of epoch 49.
    assert opened(tmp_path, {"epoch": 49, "model": weights()}, "checkpoint0049.pth").progress == {"epoch": 49}


def test_numbers_of_hostile_names() -> None:
    assert numbers_in_name("step" + "9" * 10_000) == {}
    assert numbers_in_name("step_٣.pt") == {}
    assert numbers_in_name("") == {}


def test_finding_them_imports_nothing_slow() -> None:
    code = (
        "import sys; import ckpt_tui.checkpoints.facts, ckpt_tui.checkpoints.lightning;"
        "print(*{'typing', 'pathlib', 'numpy', 'json', 'datetime', 'tempfile'} & set(sys.modules))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == []
