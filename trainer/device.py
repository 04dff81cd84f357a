"""Where a training computes."""

from __future__ import annotations

import os

import torch

from trainer.errors import UsageError


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """wanted: auto (a GPU when there is one), cpu or cuda. Processes of one machine share its GPUs in turn."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: torch finds no GPU here (see nvidia-smi, and whether torch was built with CUDA)"
        )
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    _make_repeatable()
    return device


def _make_repeatable() -> None:
    """On a GPU some operations add in whatever order their threads come, unless they are told not to.

    A resume that is exact to the bit needs it: attention's backward pass and cuBLAS are among them. Where torch has no
    such form of an operation it warns.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # finds errors in operations, at a price
