"""Directories as the frameworks leave them, made by hand with torch and safetensors alone: small, quick, damageable."""

from __future__ import annotations

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
