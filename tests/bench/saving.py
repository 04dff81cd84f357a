"""One measurement in a process of its own: a safe save against a raw write and fsync of the same bytes, in turn."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.publish import publish

ROUNDS = 7


def main() -> None:
    """Prints {"bytes", "safe_s", "raw_s"}: medians. Both sides write bytes that are in memory already."""
    torch.manual_seed(0)
    data = checkpoint_state.serialised({"model": {f"w{i}": torch.randn(1024, 1024) for i in range(60)}})
    safe, raw = [], []
    with tempfile.TemporaryDirectory(dir=sys.argv[1]) as scratch:
        directory = Path(scratch)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            descriptor = os.open(directory / "raw.pt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            view = memoryview(data)
            while len(view):
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            os.close(descriptor)
            raw.append(time.perf_counter() - started)
            (directory / "raw.pt").unlink()

            started = time.perf_counter()
            publish(str(directory), ["safe.pt"], data)
            safe.append(time.perf_counter() - started)
    print(
        json.dumps({"bytes": len(data), "safe_s": statistics.median(safe), "raw_s": statistics.median(raw)})
    )  # fmt: skip


if __name__ == "__main__":
    main()
