"""Real torch.save files, and zips made by hand around any pickle."""

from __future__ import annotations

import argparse
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


def training_state() -> dict[Any, Any]:
    """Everything a trainer saves, with views, shared and odd tensors in it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    grid = torch.arange(64.0).reshape(8, 8)
    return {
        "step": 7,
        "epoch": 1,
        "val_loss": 1.5,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.5, path=Path("/a/b"), scalar=np.float64(2.5)),
        "rng_state": {"numpy": np.random.get_state(), "python": random.getstate(), "torch": torch.get_rng_state()},
        "timestamp": 1.7e9,
        "view": grid[2:4, ::2],
        "transposed": grid.t(),
        "parameter": torch.nn.Parameter(grid),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "pytorch_version": torch.__version__,
        "dtypes": {
            str(dtype): torch.zeros(3).to(dtype)
            for dtype in (
                torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
                torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.bool, torch.complex64,
            )
        },
        1: (grid,),
    }  # fmt: skip


def save_bytes(state: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, pickle_protocol=protocol)
    return buffer.getvalue()


def zip_of(pickled: bytes, names: tuple[str, ...] = ("archive/data.pkl",)) -> bytes:
    """A torch-like archive around any pickle, as often as there are names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, pickled)
        archive.writestr(f"{names[0].rpartition('/')[0]}/version", "3\n")
    return buffer.getvalue()
