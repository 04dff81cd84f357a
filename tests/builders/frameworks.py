"""Directories as the frameworks leave them, made by hand with torch and safetensors alone: small, quick, damageable."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file


def shards(directory: Path, *, pickled: bool = False) -> dict[str, torch.Tensor]:
    """Two shards and their index, as transformers writes them. Gives the tensors by name."""
    torch.manual_seed(0)
    state = {"embed.weight": torch.randn(6, 4), "head.weight": torch.randn(5, 4), "head.bias": torch.randn(5)}
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    files = [f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    weight_map = {"embed.weight": files[0], "head.weight": files[1], "head.bias": files[1]}
    for file in files:
        held = {name: tensor for name, tensor in state.items() if weight_map[name] == file}
        if pickled:
            torch.save(held, directory / file)
        else:
            save_file(held, directory / file, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in state.values())
    write_json(directory / f"{stem}.{suffix}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(directory / "config.json", {"model_type": "tiny", "hidden_size": 4})
    return state


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2))


def hf_trainer(directory: Path) -> None:
    """checkpoint-N with sharded weights, the settings as a Namespace."""
    state = shards(directory)
    parameters = [torch.nn.Parameter(tensor) for tensor in state.values()]
    optimizer = torch.optim.AdamW(parameters)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    sum(parameter.sum() for parameter in parameters).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    torch.save(scheduler.state_dict(), directory / "scheduler.pt")
    torch.save({"cpu": torch.get_rng_state()[:16].clone()}, directory / "rng_state.pth")
    torch.save(argparse.Namespace(learning_rate=0.5, seed=1), directory / "training_args.bin")
    history = [{"step": 1, "loss": 2.5}, {"step": 1, "eval_loss": 3.5}]
    write_json(directory / "trainer_state.json", {"global_step": 1, "epoch": 0.5, "log_history": history})


def accelerate(directory: Path) -> None:
    """save_state() of two models and two optimizers on two processes."""
    for suffix in ("", "_1"):
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        save_file(model.state_dict(), directory / f"model{suffix}.safetensors")
        torch.save(optimizer.state_dict(), directory / f"optimizer{suffix}.bin")
        torch.save({"last_epoch": 1, "base_lrs": [1e-3]}, directory / f"scheduler{suffix}.bin")
    for rank in (0, 1):
        state = {"step": 0, "torch_manual_seed": torch.get_rng_state()[:16].clone()}
        torch.save(state, directory / f"random_states_{rank}.pkl")
    torch.save({"step": 500, "seen": torch.ones(2)}, directory / "custom_checkpoint_0.pkl")


def checkpoint_dir(directory: Path) -> None:
    """The `dir` layout: a file for each part."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save(model.state_dict(), directory / "model.pt")
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    torch.save(scheduler.state_dict(), directory / "scheduler.pt")
    position = {"shard": 1, "position": 64, "rng_state": {"torch": torch.get_rng_state()[:16].clone()}}
    torch.save(position, directory / "dataloader.pt")
    (directory / "config.yaml").write_text("n_layer: 2\nlearning_rate: 0.001\ndata:\n  files: [a, b]\n")
    write_json(directory / "train_state.json", {"step": 40, "epoch": 1, "train_loss": 2.5, "best_metric": 2.25})
    (directory / "metrics.csv").write_text("step,train_loss,val_loss\n20,3.0,3.5\n40,2.5,\n40,,2.25\n")
