"""Errors that end a training: which of them mean that memory ran out, and what a person can do about it."""

from __future__ import annotations

import gc
import traceback

import torch

from trainer.config import Config


def is_out_of_memory(error: BaseException) -> bool:
    """Python's own, CUDA's, and that of torch's allocator on the CPU, which has no type of its own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)


def advice(error: BaseException, config: Config) -> str:
    """What to do about it, "" when nobody knows."""
    if not is_out_of_memory(error):
        return ""
    in_one_pass = config.mini_batch_size or config.batch_size
    steps = []
    if in_one_pass > 1:
        steps.append(
            f"--mini_batch_size {max(in_one_pass // 2, 1)} (now {in_one_pass} sequences in one pass; the gradients are"
            " those of the same batch)"
        )
    if not config.grad_checkpointing:
        steps.append("--grad_checkpointing")
    if config.precision == "fp32":
        steps.append("--precision bf16")
    steps.append("a smaller model")
    return f"Memory ran out. Go on with `--resume auto` and {', or '.join(steps)}."


def let_go_of_memory(error: BaseException) -> None:
    """What the frames of an error hold on to (activations, gradients) is needed no longer; a save needs memory."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
