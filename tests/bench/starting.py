"""The row about resuming: from the start of the process to the first new step, against what nobody can do without."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import PYTHON, REPO, Row

# 20 million parameters and AdamW's moments, 0.24 GB; a step of 32 tokens.
_SETTINGS = [
    "--n_layer", "6", "--n_head", "8", "--n_embd", "512", "--block_size", "32", "--batch_size", "1",
    "--eval_batches", "1",
    "--eval_freq", "100000", "--checkpoint_freq", "0", "--log_freq", "1", "--max_steps", "1000000",
]  # fmt: skip
_FLOOR = "import sys, torch\nwith open(sys.argv[1], 'rb') as file:\n    file.read()"


def rows(repeats: int, scratch: Path) -> Iterator[Row]:
    out = scratch / "resume"
    shutil.rmtree(out, ignore_errors=True)
    _first_step_after(out, [])
    latest = out / "latest.pt"
    size_bytes = latest.stat().st_size
    ours, floor = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([PYTHON, "-c", _FLOOR, str(latest)], check=True, cwd=REPO)
        floor.append(time.perf_counter() - started)
        ours.append(_first_step_after(out, ["--resume", "auto"]))
    shutil.rmtree(out)
    mine, other = statistics.median(ours), statistics.median(floor)
    yield Row(
        f"resume from {size_bytes / 1e6:.0f} MB to the first new step",
        f"{mine:.2f} s",
        f"import torch + read of the file {other:.2f} s",
        f"{mine / other:.2f}",
        "<= 1.5",
        mine / other <= 1.5,
    )


def _first_step_after(out: Path, options: list[str]) -> float:
    """Start a training, wait for its first step, have it save and end; seconds from the start to that step."""
    log = out / "events.jsonl"
    seen = log.stat().st_size if log.exists() else 0
    started = time.time()
    command = [PYTHON, "-m", "trainer", "--out", str(out), *_SETTINGS, *options]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL)
    first = None
    while first is None:
        assert process.poll() is None, f"the trainer ended with {process.returncode}"
        time.sleep(0.005)
        lines = log.read_bytes()[seen:].split(b"\n")[:-1] if log.exists() else []
        first = next((json.loads(line)["ts"] for line in lines if b'"event":"step"' in line), None)
    process.terminate()
    process.wait(timeout=120)
    return first - started
