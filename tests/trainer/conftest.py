"""Real trainings of a tiny model in processes of their own; one of them serves many checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# Dropout and accumulation are on: both must survive a kill.
TINY = [
    "--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--block_size", "32", "--dropout", "0.1", "--batch_size", "4",
    "--mini_batch_size", "2", "--eval_freq", "40", "--eval_batches", "2", "--checkpoint_freq", "30",
    "--keep_checkpoints", "3", "--max_steps", "200", "--threads", "1", "--seed", "7", "--warmup_steps", "10",
    "--print_seconds", "0",
]  # fmt: skip


class Trainer:
    """Runs `python -m trainer` on a corpus of 90 steps an epoch."""

    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus

    def command(self, out: Path, *options: str) -> list[str]:
        return [sys.executable, "-m", "trainer", "--out", str(out), *TINY, "--data", str(self.corpus), *options]

    def run(self, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(out, *options), cwd=REPO, capture_output=True, text=True, timeout=300, check=False
        )

    def start(self, out: Path, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(out, *options), cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_for(self, process: subprocess.Popen[str], text: str) -> None:
        """Read the output up to a line with `text` in it."""
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if text in line:
                return
        raise AssertionError(f"{text!r} did not come:\n{''.join(seen)}")

    def hash(self, out: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "trainer", "hash", str(out)], cwd=REPO, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    lines = (f"def function_{i}(a, b):\n    return a * {i % 7} + b\n" for i in range(400))
    corpus.write_text("".join(lines)[:12_900])
    return Trainer(corpus)


@pytest.fixture(scope="session")
def straight(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing happened to, with its output. Not to be changed: copy it."""
    out = tmp_path_factory.mktemp("straight") / "run"
    done = trainer.run(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout
