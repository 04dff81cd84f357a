"""A training that writes 100 events a second, and viewers on a pseudo terminal beside it: bytes, CPU, time of a key."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import PYTHON, Painted, paint

EVENTS_PER_S = 100
STEPS_AHEAD = 2_000_000  # the run is far from its end

# Writes 10 lines, ten times a second: steps, and now and then an evaluation and a save.
_FEEDER = """
import json, math, os, random, socket, sys, time
path, seq, session, step, total = sys.argv[1], *map(int, sys.argv[2:6])
draw = random.Random(0)
out = open(path, "ab", buffering=0)
def line(event, **fields):
    global seq
    seq += 1
    base = {"v": 1, "event": event, "seq": seq, "ts": time.time(), "session": session, "step": step}
    return json.dumps(base | fields).encode() + b"\\n"
out.write(line("run_start", run_name="bench", config={"lr": 1e-3}, argv=[], pid=os.getpid(),
               host=socket.gethostname(), total_steps=total, start_step=step,
               resumed_from={"path": "latest.pt", "digest": ""}))
due = time.monotonic()
while True:
    lines = []
    while len(lines) < 10:
        step += 1
        loss = 1.4 + draw.gauss(0, 0.03)
        lines.append(line("step", epoch=step / 1000, loss=round(loss, 5), lr=1e-3, grad_norm=1.0,
                          tokens_per_s=round(9400.0 + draw.gauss(0, 30)), step_seconds=0.01))
        if step % 500 == 0:
            lines.append(line("eval", val_loss=round(loss + 0.05, 5), seconds=0.2))
        if step % 1000 == 0:
            lines.append(line("checkpoint_saved", path=f"rolling_step_{step:06d}.pt", kind="rolling",
                              bytes=10_400_000, digest="crc32:0", save_seconds=0.2, stall_seconds=0.2,
                              names=["latest.pt"]))
    out.write(b"".join(lines))
    due += len(lines) / RATE
    time.sleep(max(due - time.monotonic(), 0))
""".replace("RATE", str(EVENTS_PER_S))


@dataclass(frozen=True, slots=True)
class Wire:
    """What a viewer cost over some seconds."""

    cpu_share: float
    bytes_per_s: float


@contextmanager
def training(finished: Path, scratch: Path) -> Iterator[Path]:
    """A copy of a run's directory in which a training goes on, as a session more, until the block ends."""
    directory = scratch / f"live-{finished.name}-{os.getpid()}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    log = directory / "events.jsonl"
    feeder = None
    try:
        shutil.copyfile(finished / "events.jsonl", log)
        last = _cut_last_line(log)
        step = int(last["step"])
        feeder = subprocess.Popen(
            [PYTHON, "-I", "-S", "-c", _FEEDER, str(log), str(last["seq"] - 1), str(last["session"] + 1), str(step),
             str(step + STEPS_AHEAD)]
        )  # fmt: skip
        time.sleep(1.0)
        assert feeder.poll() is None, "the feeder ended"
        yield directory
    finally:
        if feeder is not None:
            feeder.send_signal(signal.SIGKILL)
            feeder.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _cut_last_line(log: Path) -> dict[str, int]:
    """Takes the end of the run away: the training goes on. Gives the line that was it."""
    with open(log, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 65536, 0))
        tail = file.read().rstrip(b"\n")
        line = tail[tail.rfind(b"\n") + 1 :]
        file.truncate(max(size - 65536, 0) + tail.rfind(b"\n") + 1)
    found: dict[str, int] = json.loads(line)
    return found


def settled(
    command: Sequence[str], until: bytes, *, columns: int = 80, rows: int = 24, timeout_s: float = 60
) -> Painted:
    """A viewer that has painted `until` and read what there was."""
    painted = paint(command, until, columns=columns, rows=rows, timeout_s=timeout_s)
    calm_down(painted, timeout_s)
    return painted


def calm_down(painted: Painted, longest_s: float = 60) -> None:
    """Until for three seconds it has hardly worked and hardly read: what there was is read. CPU alone does not tell on
    a machine that gives it little."""
    deadline = time.perf_counter() + longest_s
    calm = 0
    while calm < 3 and time.perf_counter() < deadline:
        cpu_s, num_read = painted.cpu_seconds(), painted.num_bytes_read()
        painted.read_for(1.0)
        is_calm = painted.cpu_seconds() - cpu_s < 0.15 and painted.num_bytes_read() - num_read < 500_000
        calm = calm + 1 if is_calm else 0


def wire(painted: Painted, seconds: float) -> Wire:
    before = painted.cpu_seconds()
    num_bytes = painted.read_for(seconds)
    return Wire((painted.cpu_seconds() - before) / seconds, num_bytes / seconds)


def key_seconds(painted: Painted, keys: Sequence[tuple[bytes, bytes]], num_presses: int, seed: int = 0) -> list[float]:
    """Seconds from a key to what it shows. keys: (what the key sends, bytes that only it brings), taken in turn; at
    any moment between two ticks, so that some meet the work of a tick."""
    draw = random.Random(seed)
    took = []
    for press in range(num_presses):
        key, shows = keys[press % len(keys)]
        painted.read_for(draw.uniform(0.05, 0.35))
        took.append(painted.press(key, shows))
    return took


def at_95(seconds: Sequence[float]) -> float:
    return sorted(seconds)[min(int(len(seconds) * 0.95), len(seconds) - 1)]
