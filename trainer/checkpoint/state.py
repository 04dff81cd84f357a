"""What a checkpoint holds: everything that an exact resume needs, in plain types and tensors only.

Nothing here is an object that a pickle would have to rebuild, so `torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FORMAT_VERSION = 1
# What differs between two runs that trained the same: left out of the fingerprint.
_NOT_TRAINING_STATE = frozenset({"timestamp", "args", "checkpoint_type", "pytorch_version"})


def seed_everything(seed: int) -> None:
    """Every generator of the process, also those that the loop does not use: they are saved, so they must agree."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Every random generator of the process. numpy's and Python's as plain lists and a tensor of their words."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "state": list(words), "gauss": gauss},
        "numpy": {
            "name": str(name), "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)), "position": int(position),
            "has_gauss": int(has_gauss), "cached_gaussian": float(cached),
        },
        "torch": torch.get_rng_state(),
        "torch_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }  # fmt: skip


def load_rng_state(state: Mapping[str, Any]) -> None:
    """Put every generator back. Call it last: building models and data draws from them."""
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["state"]), python["gauss"]))
    np.random.set_state(
        (
            numpy["name"], numpy["keys"].numpy().astype(np.uint32), numpy["position"], numpy["has_gauss"],
            numpy["cached_gaussian"],
        )
    )  # fmt: skip
    torch.set_rng_state(state["torch"])
    if state["torch_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["torch_cuda"])


def serialise(state: Mapping[str, Any]) -> memoryview:
    """The bytes of a checkpoint file, made once however many names it gets."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getbuffer()


def stamp() -> dict[str, Any]:
    """The fields that say when and by what it was written."""
    return {"timestamp": time.time(), "pytorch_version": str(torch.__version__), "format_version": FORMAT_VERSION}


def load(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, without running anything that it contains.

    Raises whatever torch raises for a damaged file, and ValueError for a file that is not a checkpoint of ours.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not {"step", "model", "optimizer", "rng_state"} <= state.keys():
        raise ValueError("it is not a checkpoint of this trainer")
    if int(state.get("format_version", 0)) > FORMAT_VERSION:
        raise ValueError(f"it has format {state['format_version']}, this trainer knows {FORMAT_VERSION}: update it")
    return state


def fingerprint(state: Mapping[str, Any]) -> str:
    """sha256 over the training state, free of times and paths: equal for two runs that trained the same."""
    digest = hashlib.sha256()
    _feed(digest, {key: value for key, value in state.items() if key not in _NOT_TRAINING_STATE})
    return digest.hexdigest()


def _feed(digest: Any, value: object) -> None:
    if isinstance(value, Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        digest.update(b"{")
        for key in sorted(value, key=str):
            digest.update(f"{key}:".encode())
            _feed(digest, value[key])
        digest.update(b"}")
    elif isinstance(value, (list, tuple)):
        digest.update(b"[")
        for item in value:
            _feed(digest, item)
        digest.update(b"]")
    elif isinstance(value, float):
        digest.update(value.hex().encode() + b";")
    else:
        digest.update(f"{value!r};".encode())
