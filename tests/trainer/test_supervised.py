"""The real trainer under `ckpt-tui supervise`, killed for real: the same bits at the end, also under torchrun."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event, RunEnd, RunStart, Supervised
from tests.builders.marked import end_marked
from tests.builders.training import corpus_in

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
TORCHRUN = Path(sys.executable).with_name("torchrun")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SETTINGS = (
    "--n_layer", "1", "--n_head", "1", "--n_embd", "16", "--block_size", "16", "--batch_size", "2", "--eval_freq", "50",
    "--eval_batches", "1", "--checkpoint_freq", "25", "--threads", "1", "--log_freq", "1",
)  # fmt: skip


def trainer(out: Path, num_steps: int) -> list[str]:
    corpus = corpus_in(out.parent)
    return ["-m", "trainer", "--out", str(out), "--data", str(corpus), "--max_steps", str(num_steps), *SETTINGS]


def fingerprint(out: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "hash", str(out)], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def events(out: Path) -> list[Event]:
    log = out / "events.jsonl"
    lines = log.read_bytes().splitlines() if log.exists() else []
    return [event for line in lines if isinstance(event := decode(line), Event)]


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


class Keeper:
    """A supervisor at work; ended with all that it started."""

    def __init__(self, out: Path, command: list[str], *options: str) -> None:
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ckpt_tui", "supervise", str(out), "--pause", "0.1s", *options, "--", *command],
            cwd=out.parent, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        end_marked(self.record.get("mark", "none"))

    @property
    def record(self) -> dict[str, str]:
        path = self.out / "supervisor.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=300)
        return self.process.returncode, said

    def wait_for_step(self, session: int, step: int) -> int:
        """Wait for it; gives the pid of rank 0."""

        def is_there() -> bool:
            return any(
                event.session >= session and event.step >= step and event.name == "step" for event in events(self.out)
            )

        wait_for(is_there, f"never came to step {step} of session {session}")
        return next(e.pid for e in reversed(events(self.out)) if isinstance(e, RunStart))


def actions(out: Path) -> list[str]:
    return [event.action for event in events(out) if isinstance(event, Supervised)]


@pytest.mark.parametrize(("seed", "layout"), [(0, "file"), (1, "file"), (2, "dir"), (3, "dir")])
def test_killed_at_random_times_it_comes_out_the_same(tmp_path: Path, seed: int, layout: str) -> None:
    straight, kept = tmp_path / "straight", tmp_path / "kept"
    how = ("--checkpoint_format", layout)
    subprocess.run(
        [sys.executable, *trainer(straight, 1200), *how], env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True
    )
    chance = random.Random(seed)
    with Keeper(kept, [sys.executable, *trainer(kept, 1200), *how]) as supervised:
        for session in range(1, 4):
            pid = supervised.wait_for_step(session, 0)
            if session == 2:  # three ends in a row without a new checkpoint, and it gives up, rightly
                wait_for(
                    lambda: any(e.session == 2 and e.name == "checkpoint_saved" for e in events(kept)), "no checkpoint"
                )
            time.sleep(chance.uniform(0.0, 0.5))
            os.kill(pid, signal.SIGKILL)
        code, said = supervised.ended()
    assert code == 0, said
    assert actions(kept) == ["restart"] * 3 + ["finished"]
    assert fingerprint(kept) == fingerprint(straight)
    seqs = [event.seq for event in events(kept)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_torchrun_is_started_again_as_a_whole_and_saves_when_it_is_stopped(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [str(TORCHRUN), "--nproc_per_node", "2", *trainer(out, 100_000)]
    with Keeper(out, command) as supervised:
        os.kill(supervised.wait_for_step(1, 30), signal.SIGKILL)
        supervised.wait_for_step(2, 40)
        supervised.process.send_signal(signal.SIGTERM)
        code, said = supervised.ended()
    assert actions(out) == ["restart", "stopped"], said
    assert code != 0
    assert "stopped by SIGTERM: preempted" in said
    end = events(out)[-2]
    assert isinstance(end, RunEnd)
    assert "saved emergency_step" in end.reason


def test_restarts_are_left_to_torchrun_where_it_makes_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [str(TORCHRUN), "--nproc_per_node", "2", "--max_restarts", "1", *trainer(out, 1500)]
    with Keeper(out, command) as supervised:
        os.kill(supervised.wait_for_step(1, 30), signal.SIGKILL)
        supervised.wait_for_step(2, 40)
        code, said = supervised.ended()
    assert code == 0, said
    assert "Restarts are left to torchrun (--max_restarts 1 in its command)" in said
    assert actions(out) == ["finished"]
    assert len([event for event in events(out) if isinstance(event, RunStart)]) == 2


def test_when_torchrun_has_used_up_its_restarts_supervise_makes_none(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [str(TORCHRUN), "--nproc_per_node", "1", "--max_restarts", "1", *trainer(out, 100_000)]
    with Keeper(out, command) as supervised:
        for session in (1, 2):
            os.kill(supervised.wait_for_step(session, 30), signal.SIGKILL)
        code, said = supervised.ended()
    assert code == 1
    assert "torchrun is in charge of restarts" in said
    assert actions(out) == ["gave_up"]


def test_workers_that_outlive_their_torchrun_are_looked_after_to_their_end(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [str(TORCHRUN), "--nproc_per_node", "1", *trainer(out, 1500)]
    with Keeper(out, command) as supervised:
        supervised.wait_for_step(1, 30)
        os.kill(int(supervised.record["child_pid"]), signal.SIGKILL)
        code, said = supervised.ended()
    assert code == 0, said
    assert "which trains here, goes on" in said
    assert actions(out) == ["finished"]


def test_a_damaged_latest_is_walked_around_by_both(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with Keeper(out, [sys.executable, *trainer(out, 1200)]) as supervised:
        pid = supervised.wait_for_step(1, 60)
        os.kill(pid, signal.SIGSTOP)
        data = bytearray((out / "latest.pt").read_bytes())
        data[len(data) // 2] ^= 0xFF
        (out / "latest.pt").write_bytes(data)  # and under its other names
        os.kill(pid, signal.SIGKILL)
        code, said = supervised.ended()
    assert code == 0, said
    assert " is damaged" in said
    assert actions(out) == ["restart", "finished"]
