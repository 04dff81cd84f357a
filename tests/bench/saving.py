"""`python -m tests.bench.saving SCRATCH`: a safe save of about 100 MB against raw write + fsync of the same bytes.

Prints JSON: bytes, safe_s, raw_s (medians, both sides in turn), serialize_s (the part of safe_s before the disk).
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

REPEATS = 7


def main(scratch: str) -> None:
    import torch

    from trainer.checkpoint.publish import publish
    from trainer.checkpoint.state import Buffer

    state = {
        f"layer.{i}": {"weight": torch.randn(512, 1024), "exp_avg": torch.randn(512, 1024), "step": torch.tensor(5.0)}
        for i in range(25)
    }
    buffer = Buffer()
    torch.save(state, buffer)  # memory that later saves use again
    safe, raw, serialize = [], [], []
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        for number in range(REPEATS):
            started = time.perf_counter()
            buffer.clear()
            torch.save(state, buffer)
            serialize.append(time.perf_counter() - started)
            publish(directory, ["rolling.pt", "latest.pt"], buffer.view(), previous={"latest_backup.pt": "latest.pt"})
            safe.append(time.perf_counter() - started)

            # As many files stay as on the other side: memory of a file that just went is quicker than any other.
            path = Path(directory) / f"raw-{number % 3}"
            path.unlink(missing_ok=True)
            started = time.perf_counter()
            fd = os.open(path, os.O_WRONLY | os.O_CREAT)
            view = buffer.view()
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
            os.close(fd)
            raw.append(time.perf_counter() - started)
    result = {
        "bytes": len(buffer.view()),
        "safe_s": statistics.median(safe),
        "raw_s": statistics.median(raw),
        "serialize_s": statistics.median(serialize),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
