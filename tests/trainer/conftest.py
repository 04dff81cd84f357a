"""Real trainings of a tiny model in processes of their own; one of them serves many checks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.held import Hold
from tests.trainer.faults.nursery import Ended, Nursery
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import find
from trainer.checkpoint.state import fingerprint

REPO = Path(__file__).parents[2]
# Dropout and accumulation are on: both must survive a kill.
TINY = [
    "--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--block_size", "32", "--dropout", "0.1", "--batch_size", "4",
    "--mini_batch_size", "2", "--eval_freq", "40", "--eval_batches", "2", "--checkpoint_freq", "30",
    "--keep_checkpoints", "3", "--max_steps", "200", "--threads", "1", "--seed", "7", "--warmup_steps", "10",
    "--print_seconds", "0",
]  # fmt: skip


class Trainer:
    """Runs the trainer on a corpus of 90 steps an epoch: forks of a process that has torch loaded, or fresh ones."""

    def __init__(self, corpus: Path, nursery: Nursery) -> None:
        self.corpus = corpus
        self._nursery = nursery

    def arguments(self, out: Path, *options: str) -> list[str]:
        return ["--out", str(out), *TINY, "--data", str(self.corpus), *options]

    def command(self, out: Path, *options: str) -> list[str]:
        """As a person types it."""
        return [sys.executable, "-m", "trainer", *self.arguments(out, *options)]

    def run(self, out: Path, *options: str) -> Ended:
        return self._nursery.run(self.arguments(out, *options))

    def run_until(self, hold: Hold, number: signal.Signals, out: Path, *options: str) -> Ended:
        """Send it a signal at that moment; gives its end."""
        self._nursery.start(self.arguments(out, *options), hold=hold)
        hold.wait()
        os.kill(self._nursery.pid, number)
        hold.go_on()
        return self._nursery.finish()

    def hash(self, out: Path) -> str:
        """As `python -m trainer hash` prints it."""
        registry = Registry(str(out))
        registry.sync()
        source = find(str(out), "auto", registry)
        assert source is not None
        return fingerprint(source.state)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Trainer:
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    lines = (f"def function_{i}(a, b):\n    return a * {i % 7} + b\n" for i in range(400))
    corpus.write_text("".join(lines)[:12_900])
    return Trainer(corpus, nursery)


@pytest.fixture(scope="session")
def straight(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing happened to, in a process of its own, with its output. Not to be changed: copy it."""
    out = tmp_path_factory.mktemp("straight") / "run"
    done = subprocess.run(trainer.command(out), cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout
