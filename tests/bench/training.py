"""The rows about the trainer: the event writer, a safe save against the raw disk, what saves cost a training."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import PYTHON, REPO, Row

_WRITER = textwrap.dedent(
    """
    import json, sys, tempfile, time
    from ckpt_tui.events.writer import EventWriter
    with tempfile.TemporaryDirectory() as directory:
        writer = EventWriter(directory)
        num_lines = 20_000
        started = time.perf_counter()
        for step in range(num_lines):
            writer.step(step, loss=2.5, lr=1e-3, grad_norm=1.0, tokens_per_s=9400.0, step_seconds=0.05)
        print(json.dumps((time.perf_counter() - started) / num_lines * 1e6))
        writer.close()
    """
)

_TRAIN = [
    PYTHON, "-m", "trainer", "--n_layer", "2", "--n_head", "4", "--n_embd", "128", "--block_size", "64",
    "--batch_size", "16", "--mini_batch_size", "16", "--seed", "1", "--eval_freq", "100000", "--log_freq", "10",
]  # fmt: skip


def rows(repeats: int, scratch: Path) -> Iterator[Row]:
    microseconds = min(float(_run([PYTHON, "-c", _WRITER])) for _ in range(repeats))
    yield Row(
        "event writer, one step line",
        f"{microseconds:.1f} us",
        "-",
        "-",
        "<= 20 us",
        microseconds <= 20,
    )

    save = json.loads(_run([PYTHON, "-m", "tests.bench.saving", str(scratch)]))
    ratio = save["safe_s"] / save["raw_s"]
    yield Row(
        f"safe save of {save['bytes'] / 1e6:.0f} MB (fsync, verified, rename)",
        f"{save['safe_s'] * 1e3:.0f} ms",
        f"raw write + fsync {save['raw_s'] * 1e3:.0f} ms",
        f"{ratio:.2f}",
        "<= 1.5",
        ratio <= 1.5,
    )

    with_saves, event_bytes, file_bytes = _steps_per_second(scratch, every=50)
    without, _, _ = _steps_per_second(scratch, every=100_000)
    yield Row(
        "training with a save every 50 steps",
        f"{with_saves:.1f} steps/s",
        f"without saves {without:.1f} steps/s",
        f"{with_saves / without:.2f}",
        ">= 0.97",
        with_saves / without >= 0.97,
    )
    yield Row(
        "one save event with all its names",
        f"{event_bytes / 1e6:.1f} MB on disk",
        f"one file {file_bytes / 1e6:.1f} MB",
        f"{event_bytes / file_bytes:.2f}",
        "<= 2.2",
        event_bytes / file_bytes <= 2.2,
    )


def _steps_per_second(scratch: Path, every: int) -> tuple[float, int, int]:
    """Median pace of a short training from its own log; bytes written by one save event and by one file."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        steps = 300
        _run([*_TRAIN, "--out", directory, "--max_steps", str(steps), "--checkpoint_freq", str(every)])
        events = [json.loads(line) for line in (Path(directory) / "events.jsonl").read_text().splitlines()]
        points = [(e["ts"], e["step"]) for e in events if e["event"] == "step" and 50 <= e["step"] <= 295]
        pace = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
        seen = {}
        for path in Path(directory).iterdir():
            if path.suffix == ".pt" and path.name in ("latest.pt", "rolling_last_backup.pt"):
                status = path.stat()
                seen[status.st_ino] = status.st_size
        for path in Path(directory).glob("rolling_step_*.pt"):
            newest = max(Path(directory).glob("rolling_step_*.pt"))
            if path == newest:
                seen[path.stat().st_ino] = path.stat().st_size
        sizes = list(seen.values())
        return pace, sum(sizes), max(sizes, default=1)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        raise SystemExit(f"{command} ended with {done.returncode}")
    return done.stdout
