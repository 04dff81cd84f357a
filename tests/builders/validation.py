"""A whole training state of the bundled trainer's layout, and short words for judging what becomes of it."""

from __future__ import annotations

import os
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from ckpt_tui.checkpoints.validate import LEVELS, Validation, validate_checkpoint

ALL_PASS = dict.fromkeys(LEVELS, "pass")


def full_state(step: int = 500) -> dict[str, object]:
    """A training state as the bundled trainer lays it out, of a tiny model with tied weights."""
    torch.manual_seed(step)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.ReLU(), torch.nn.Linear(30, 20))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(4, 40)).sum().backward()
    optimizer.step()
    weights = dict(model.state_dict())
    weights["tied"] = weights["0.weight"]
    return {
        "step": step,
        "epoch": 1,
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"last_epoch": step, "_step_count": step + 1},
        "rng_state": {"torch": torch.get_rng_state()},
        "dataloader_state": {"train": {"position": 17}},
        "args": {"lr": 1e-3},
        "val_loss": 1.5,
    }


def keep_time(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (time.time() - 1000,) * 2)


def save(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def validate(path: Path, **options: object) -> Validation:
    return validate_checkpoint(str(path), **options)  # type: ignore[arg-type]


def codes(validation: Validation) -> set[str]:
    return {finding.code for finding in validation.findings}


def words_of(validation: Validation) -> str:
    return "\n".join(f"{f.where}: {f.message}" for f in validation.findings)


def records(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, where its data begins, size) of every record, as Python's zipfile sees them."""
    raw = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack("<2H", raw[info.header_offset + 26 : info.header_offset + 30])
            yield info.filename, info.header_offset + 30 + name + extra, info.file_size
