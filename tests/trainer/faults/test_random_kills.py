"""SIGKILL at random times, again and again: what comes out is bit by bit what an undisturbed training gives."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import BadLine, CheckpointSaved, Event, RunStart
from tests.trainer.faults.nursery import REPO, Nursery
from trainer.checkpoint.publish import digest_of_file
from trainer.checkpoint.state import fingerprint, read_file

# A save at every step, with everything that a save can be; dropout and accumulation, so that exactness is not for free.
TRAINING = [
    "--n_layer", "1", "--n_head", "1", "--n_embd", "16", "--block_size", "8", "--batch_size", "4",
    "--mini_batch_size", "2", "--dropout", "0.1", "--eval_freq", "4", "--eval_batches", "1", "--checkpoint_freq", "1",
    "--keep_checkpoints", "3", "--max_steps", "48", "--threads", "1", "--seed", "3", "--warmup_steps", "5",
]  # fmt: skip


def state_hash(run: Path) -> str:
    return fingerprint(read_file(str(run / "latest.pt"))[0])


def check_log(run: Path) -> int:
    """No session began before what had been told to be durable, and no line is missing; gives the sessions' number."""
    found = [decode(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    # A kill may cut a line; the next session ends it.
    events = [event for event in found if isinstance(event, Event)]
    assert sum(isinstance(line, BadLine) for line in found) == len(found) - len(events)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    durable, num_sessions = 0, 0
    for event in events:
        if isinstance(event, RunStart):
            num_sessions += 1
            assert event.start_step >= durable, f"session {event.session} lost steps"
        elif isinstance(event, CheckpointSaved):
            assert event.step >= durable
            durable = event.step
    return num_sessions


def check_directory(run: Path) -> None:
    assert not list(run.glob("**/.tmp-*"))
    assert not (run / "quarantine").exists(), "nothing was ever damaged"
    rows = {row["path"]: row for row in json.loads((run / "registry.json").read_bytes())["checkpoints"]}
    assert set(rows) == {path.name for path in run.glob("*.pt")}
    assert all(row["digest"] == digest_of_file(str(run / name)) for name, row in rows.items())


def killed_again_and_again(
    nursery: Nursery, corpus: Path, scratch: Path, num_kills: int, seed: int, num_steps: int = 48
) -> None:
    straight, run = scratch / "straight", scratch / "run"
    training = [*TRAINING, "--max_steps", str(num_steps)]
    whole = nursery.run(["--out", str(straight), "--data", str(corpus), *training])
    assert whole.code == 0, whole.output
    rng = random.Random(seed)
    num_killed = 0
    command = ["--out", str(run), "--data", str(corpus), *training, "--resume", "auto"]
    for _ in range(num_kills):
        # From before the first line to some saves later; so short that it does not come to its end at once.
        ended = nursery.run(command, kill_after_cpu_s=rng.uniform(0.0, 0.2 * whole.cpu_seconds * 48 / num_steps))
        assert ended.was_killed or ended.code == 0, ended.output
        num_killed += ended.was_killed
    last = nursery.run(command)
    assert last.code == 0, last.output
    assert state_hash(run) == state_hash(straight)
    assert check_log(run) > 3, "too few were killed while they trained"
    assert num_killed > num_kills // 3
    check_directory(run)


def test_killed_at_random_times_it_comes_out_the_same(nursery: Nursery, corpus: Path, scratch: Path) -> None:
    killed_again_and_again(nursery, corpus, scratch, num_kills=20, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_killed_hundreds_of_times(nursery: Nursery, corpus: Path, tmp_path: Path, seed: int) -> None:
    killed_again_and_again(nursery, corpus, tmp_path, num_kills=60, seed=seed, num_steps=300)


@pytest.mark.long
def test_fresh_processes_killed_at_random_times(corpus: Path, nursery: Nursery, scratch: Path) -> None:
    """As above with `python -m trainer` itself: what a fork of a warm process might hide. (One such kill is in
    `test_training_runs`.)"""
    straight, run = scratch / "straight", scratch / "run"
    assert nursery.run(["--out", str(straight), "--data", str(corpus), *TRAINING]).code == 0
    command = [
        sys.executable, "-m", "trainer", "--out", str(run), "--data", str(corpus), *TRAINING, "--resume", "auto",
    ]  # fmt: skip
    rng = random.Random(5)
    for _ in range(5):
        process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if "writing to" in line:
                break
        time.sleep(rng.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state_hash(run) == state_hash(straight)
    check_log(run)
    check_directory(run)
