"""A tiny training in this process: seconds where a process of its own takes as long to import torch."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoint.lock import DirectoryLock
from trainer.config import parse
from trainer.loop import Training


class NoSignals:
    """Nobody asks for anything."""

    stop = None
    stopped_at = 0.0

    def take_save_request(self) -> bool:
        return False


def corpus_in(directory: Path) -> Path:
    """A text of a few hundred short sequences."""
    corpus = directory / "corpus.txt"
    corpus.write_text("to be or not to be, " * 300)
    return corpus


def tiny_training(out: Path, data: Path, *options: str) -> Training:
    """20 steps with a save each 5 and an evaluation each 10, if `options` do not say otherwise."""
    out.mkdir(exist_ok=True)
    request = parse(
        ["--out", str(out), "--data", str(data), "--n_layer", "1", "--n_head", "1", "--n_embd", "8",
         "--block_size", "8", "--batch_size", "2", "--max_steps", "20", "--eval_freq", "10", "--eval_batches", "1",
         "--checkpoint_freq", "5", "--threads", "1", *options]
    )  # fmt: skip
    lock = DirectoryLock(request.out)
    try:
        return Training(request, NoSignals())  # type: ignore[arg-type]
    finally:
        lock.release()
