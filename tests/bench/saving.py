"""One measurement in a process of its own: what a save costs, against the disk, memory and other libraries, in turn.

The state is that of a GPT of 21.5 million parameters with AdamW: 258 MB in 600 tensors.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy

ROUNDS = 7


def gpt_state(width: int = 384, num_layers: int = 12) -> dict[str, Any]:
    torch.manual_seed(0)
    layers = [torch.nn.TransformerEncoderLayer(width, 6, 4 * width, batch_first=True) for _ in range(num_layers)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"step": 1, "epoch": 0, "model": model.state_dict(), "optimizer": optimizer.state_dict()}


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


class Sides:
    """Each method of saving `state` below `directory`. A method gives the seconds that training stood still."""

    def __init__(self, directory: Path, state: dict[str, Any]) -> None:
        self.directory, self.state = directory, state
        self._sources = tensors_of(state)
        self._targets = [tensor.clone() for tensor in self._sources]
        self.in_background = Checkpointer(directory / "async", Policy(keep_rolling=1))
        self.at_once = Checkpointer(directory / "sync", Policy(is_async=False, keep_rolling=1))
        self.at_once.save(state, ())
        self.content = (directory / "sync" / "latest.pt").read_bytes()

    def memcpy(self) -> float:
        """Of each tensor, in one thread. torch's copy, in all of them, waits for the slowest at each tensor."""
        started = time.perf_counter()
        for target, source in zip(self._targets, self._sources, strict=True):
            ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
        return time.perf_counter() - started

    def torch_copy(self) -> float:
        started = time.perf_counter()
        for target, source in zip(self._targets, self._sources, strict=True):
            target.copy_(source)
        return time.perf_counter() - started

    def asynchronous(self) -> float:
        started = time.perf_counter()
        self.in_background.save(self.state, {"rolling"})
        stalled = time.perf_counter() - started
        self.in_background.wait()
        return stalled

    def synchronous(self) -> float:
        """All of it: the copy of the state, its checksums, one file, registry."""
        return _seconds(lambda: self.at_once.save(self.state, ()))

    def raw(self) -> float:
        path = self.directory / "raw"

        def write() -> None:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            view = memoryview(self.content)
            while len(view):
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            os.close(descriptor)

        try:
            return _seconds(write)
        finally:
            path.unlink()

    def torch_save(self) -> float:
        return _seconds(lambda: torch.save(self.state, self.directory / "torch.pt"))

    def recipe(self) -> float:
        """What is commonly advised: save, load to validate, rename. No flush, and it finds no flipped bit."""
        path = self.directory / "recipe.tmp"

        def save() -> None:
            torch.save(self.state, path)
            torch.load(path, weights_only=True)
            path.rename(self.directory / "recipe.pt")

        return _seconds(save)

    def dcp(self) -> float:
        from torch.distributed.checkpoint import async_save

        started = time.perf_counter()
        future = async_save(self.state, checkpoint_id=self.directory / "dcp", no_dist=True)
        stalled = time.perf_counter() - started
        future.result()
        shutil.rmtree(self.directory / "dcp")
        return stalled

    def lightning(self) -> float:
        from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

        writer = AsyncCheckpointIO(TorchCheckpointIO())
        started = time.perf_counter()
        writer.save_checkpoint(self.state, self.directory / "lightning.ckpt")
        stalled = time.perf_counter() - started
        writer.teardown()
        return stalled


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Prints {"bytes": of the file, "methods": {name: {"median": s, "best": s}}}; a library that is missing is not in
    it."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        sides = Sides(Path(scratch), gpt_state())
        names = (
            "memcpy",
            "torch_copy",
            "asynchronous",
            "raw",
            "synchronous",
            "torch_save",
            "recipe",
            "dcp",
            "lightning",
        )
        for _ in range(ROUNDS + 1):
            for name in names:
                with contextlib.suppress(ImportError):
                    seconds.setdefault(name, []).append(getattr(sides, name)())
        for checkpoints in (sides.in_background, sides.at_once):
            checkpoints.close()
        size = len(sides.content)
    # The first round makes buffers and imports libraries.
    methods = {
        name: {"median": statistics.median(values[1:]), "best": min(values[1:])}
        for name, values in seconds.items()
        if len(values) > 1
    }
    print(json.dumps({"bytes": size, "methods": methods}))


if __name__ == "__main__":
    main()
