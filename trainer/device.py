"""Where a training computes."""

from __future__ import annotations

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
    return device
