"""Checkpoint objects made by hand: facts as a reader would give them, without a file."""

from __future__ import annotations

from typing import Any

from ckpt_tui.checkpoints.facts import find_parts
from ckpt_tui.checkpoints.model import (
    Checkpoint,
    Finding,
    GlobalRef,
    Severity,
    Storage,
    TensorInfo,
    TensorRef,
    Verdict,
)

HOSTILE_NAMES = (
    "[/closing].weight",
    "[@click=app.quit]x[/]",
    "\x1b]52;c;aGVsbG8=\x07",
    "\x1b[2Jcleared",
    "nul\x00byte",
    "‮reversed",
    "n" * 5000,
)


def tensor_info(name: str, shape: tuple[int, ...] = (128, 64), dtype: str = "float32", **changes: Any) -> TensorInfo:
    stride: list[int] = []
    step = 1
    for extent in reversed(shape):
        stride.insert(0, step)
        step *= extent
    fields: dict[str, Any] = {
        "name": name, "file": "", "shape": shape, "dtype": dtype, "size_bytes": step * 4, "storage": f"data/{name}",
        "stride": tuple(stride),
    }  # fmt: skip
    return TensorInfo(**{**fields, **changes})


def checkpoint_of(tensors: list[TensorInfo], **changes: Any) -> Checkpoint:
    """A checkpoint whose `model` holds `tensors` under their names without the first part."""
    storages = {
        tensor.storage: Storage(tensor.storage, "", 64 * (index + 1), tensor.size_bytes)
        for index, tensor in enumerate(tensors)
    }
    model = {tensor.name.removeprefix("model."): TensorRef(tensor, index) for index, tensor in enumerate(tensors)}
    fields: dict[str, Any] = {
        "path": "/run/rolling_step_008250.pt",
        "format": "torch-zip",
        "size_bytes": sum(tensor.size_bytes for tensor in tensors),
        "tensors": tensors,
        "storages": storages,
        "state": {"step": 8250, "model": model, "args": {"lr": 6e-4, "batch_size": 32}},
        "globals": [GlobalRef("torch._utils._rebuild_tensor_v2", Verdict.KNOWN, "rebuilds a tensor", "data.pkl")],
        "progress": {"step": 8250, "epoch": 4, "train_loss": 1.481, "val_loss": 1.467, "saved_at": 1_763_690_000.0},
        "hyperparameters": {"lr": 6e-4, "batch_size": 32, "betas": [0.9, 0.95]},
        "has": ["model"],
    }  # fmt: skip
    checkpoint = Checkpoint(**{**fields, **changes})
    checkpoint.parts = checkpoint.parts or find_parts(checkpoint, "")
    return checkpoint


def small_gpt(num_layers: int = 4) -> Checkpoint:
    """A small GPT's state as the trainer writes it, tied embedding included."""
    names: list[tuple[str, tuple[int, ...]]] = [("model.wte.weight", (256, 128)), ("model.wpe.weight", (256, 128))]
    for layer in range(num_layers):
        names += [
            (f"model.h.{layer}.ln_1.weight", (128,)),
            (f"model.h.{layer}.attn.qkv.weight", (384, 128)),
            (f"model.h.{layer}.attn.proj.weight", (128, 128)),
            (f"model.h.{layer}.mlp.up.weight", (512, 128)),
            (f"model.h.{layer}.mlp.down.weight", (128, 512)),
        ]
    tensors = [tensor_info(name, shape) for name, shape in names]
    tensors.append(tensor_info("model.lm_head.weight", (256, 128), storage="data/model.wte.weight"))
    return checkpoint_of(
        tensors,
        findings=[Finding("trailing-data", Severity.WARNING, "byte 81,220", "12 bytes follow it", "Compare its size.")],
        optimizer={"type": "AdamW", "groups": [{"lr": 6e-4, "betas": [0.9, 0.95], "weight_decay": 0.1}]},
    )


def hostile_checkpoint() -> Checkpoint:
    """Every text that a file can carry, as bad as it gets."""
    tensors = [tensor_info("model." + name) for name in HOSTILE_NAMES]
    texts = {name: name for name in HOSTILE_NAMES}
    return checkpoint_of(
        tensors,
        path="/run/[/closing].pt",
        format="torch-zip",
        state={"model": {tensor.name: TensorRef(tensor) for tensor in tensors}, **texts},
        globals=[GlobalRef(name, Verdict.DANGEROUS, name, name) for name in HOSTILE_NAMES],
        findings=[Finding("code", Severity.ERROR, name, name, name) for name in HOSTILE_NAMES],
        hyperparameters={**texts, "huge": 10**6000, "infinite": float("inf")},
        progress={"step": 10**6000, "epoch": "\x1b[31m", "train_loss": 10**400, "saved_at": 1e300},
        optimizer={"type": HOSTILE_NAMES[2], "groups": [texts]},
        metadata={"\x1b[0m": ["\x07"]},
    )
