"""The rows about the trainer: the event writer, a safe save against the raw disk, what saves cost a training."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

# The defaults of the trainer: 1.3 million parameters, 16 MB of state.
_TRAIN = [PYTHON, "-m", "trainer", "--seed", "1", "--eval_freq", "100000", "--log_freq", "10"]
_OTHERS = {
    "torch_save": "torch.save, not durable", "recipe": "save, load, rename: not durable",
    "dcp": "DCP async_save", "lightning": "Lightning AsyncCheckpointIO",
}  # fmt: skip
# What has to happen before a first step: loading torch, and reading the file.
_IMPORT_AND_READ = "import sys, torch; open(sys.argv[1], 'rb').read()"


def rows(repeats: int, scratch: Path) -> Iterator[Row]:
    microseconds = min(float(_run([PYTHON, "-c", _WRITER])) for _ in range(repeats))
    yield Row("event writer, one step line", f"{microseconds:.1f} us", "-", "-", "<= 20 us", microseconds <= 20)
    yield from _saving_rows(scratch)
    yield from _throughput_rows(repeats, scratch)
    yield _resume_row(repeats, scratch)


def _saving_rows(scratch: Path) -> Iterator[Row]:
    measured = json.loads(_run([PYTHON, "-m", "tests.bench.saving", str(scratch)]))
    methods, megabytes = measured["methods"], measured["bytes"] / 1e6
    seconds = {name: method["median"] for name, method in methods.items()}

    def row(what: str, ours: str, other: str, other_s: float, budget: float | None) -> Row:
        ratio = seconds[ours] / other_s
        return Row(
            what, f"{seconds[ours] * 1e3:.0f} ms", f"{other} {other_s * 1e3:.0f} ms", f"{ratio:.2f}",
            f"<= {budget}" if budget is not None else "-", ratio <= budget if budget is not None else None,
        )  # fmt: skip

    copy = min(seconds["memcpy"], seconds["torch_copy"])
    yield row(f"stall of a save of {megabytes:.0f} MB in the background", "asynchronous", "memcpy", copy, 2)
    yield row("... against the disk", "asynchronous", "raw write + fsync", seconds["raw"], 0.15)
    what = "safe save while training waits (copied, flushed, read back, renamed)"
    yield row(what, "synchronous", "raw write + fsync", seconds["raw"], 1.5)
    for name, told in _OTHERS.items():
        if name in seconds:
            ours = "asynchronous" if name in ("dcp", "lightning") else "synchronous"
            yield row("... against other ways to save", ours, told, seconds[name], None)


def _throughput_rows(repeats: int, scratch: Path) -> Iterator[Row]:
    sides: dict[int, list[float]] = {50: [], 100_000: []}
    event_bytes = file_bytes = 0
    for _ in range(repeats):
        for every, paces in sides.items():
            pace, *sizes = _steps_per_second(scratch, every)
            paces.append(pace)
            if every == 50:
                event_bytes, file_bytes = sizes
    with_saves, without = (statistics.median(paces) for paces in sides.values())
    yield Row(
        "training with a save every 50 steps", f"{with_saves:.1f} steps/s", f"without saves {without:.1f} steps/s",
        f"{with_saves / without:.3f}", ">= 0.97", with_saves / without >= 0.97,
    )  # fmt: skip
    yield Row(
        "one save event with all its names",
        f"{event_bytes / 1e6:.1f} MB written", f"one file {file_bytes / 1e6:.1f} MB", f"{event_bytes / file_bytes:.2f}",
        "<= 2.2", event_bytes / file_bytes <= 2.2,
    )  # fmt: skip


def _steps_per_second(scratch: Path, every: int) -> tuple[float, int, int]:
    """Pace of a short training from its own log; bytes that its last rolling save wrote, and of one file."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        directory = Path(name)
        _run([*_TRAIN, "--out", name, "--max_steps", "300", "--checkpoint_freq", str(every)])
        events = _events(directory)
        points = [(event["ts"], event["step"]) for event in events if event["event"] == "step" and event["step"] >= 50]
        pace = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
        saved = [event for event in events if event["event"] == "checkpoint_saved"][-1]
        # Bytes that several names share were written once.
        written = {(directory / path).stat().st_ino: (directory / path).stat().st_size for path in saved["names"]}
        return pace, sum(written.values()), saved["bytes"]


def _resume_row(repeats: int, scratch: Path) -> Row:
    """From the start of the process to the first new step in the log, against loading torch and reading the file."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        directory = Path(name)
        train = [
            *_TRAIN[:-1],
            "1",
            "--out",
            name,
            "--checkpoint_freq",
            "0",
            "--resume",
            "auto",
            "--schedule",
            "constant",
        ]
        _run([*train, "--max_steps", "2"])
        ours, other = [], []
        for number in range(repeats):
            started = time.time()
            _run([*train, "--max_steps", str(3 + number)])
            steps = [event["ts"] for event in _events(directory) if event["event"] == "step"]
            ours.append(steps[-1] - started)
            started = time.time()
            _run([PYTHON, "-c", _IMPORT_AND_READ, str(directory / "latest.pt")])
            other.append(time.time() - started)
        ratio = statistics.median(ours) / statistics.median(other)
    return Row(
        "resume to the first new step", f"{statistics.median(ours):.2f} s",
        f"import torch and read the file {statistics.median(other):.2f} s", f"{ratio:.2f}", "<= 1.5", ratio <= 1.5,
    )  # fmt: skip


def _events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        raise SystemExit(f"{command} ended with {done.returncode}")
    return done.stdout
