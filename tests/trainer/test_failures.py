"""In one process, with real training: saves that fail, numbers that are not finite, errors in the loop."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event
from tests.builders.training import corpus_in, tiny_training
from tests.trainer.faults.nursery import Nursery
from trainer import step
from trainer.checkpoint.state import BadCheckpointError, load
from trainer.loop import Training


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Training]:
    corpus = corpus_in(tmp_path)
    return lambda *options: tiny_training(tmp_path / "run", corpus, *options)


def events(training: Training) -> list[Event]:
    lines = Path(training.directory, "events.jsonl").read_bytes().splitlines()
    return [event for line in lines if isinstance(event := decode(line), Event)]


def test_a_full_disk_fails_the_save_and_not_the_training(
    make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make()
    fsync, write = os.fsync, os.write
    is_full = False

    def failing_write(fd: int, data: bytes) -> int:
        if is_full and len(data) > 4000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", failing_write)
    real_save = training.checkpoints.save

    def save(state: dict, kinds: set) -> None:
        nonlocal is_full
        training.checkpoints.wait()  # the save before this one is not to find a full disk
        is_full = state["step"] == 10
        real_save(state, kinds)

    monkeypatch.setattr(training.checkpoints, "save", save)
    assert training.run() == 0
    assert os.fsync is fsync
    [failed] = [event for event in events(training) if event.name == "checkpoint_failed"]
    assert (failed.step, failed.stage, failed.kept) == (10, "write", "latest.pt")
    assert "No space left" in failed.error
    saved = [event.step for event in events(training) if event.name == "checkpoint_saved"]
    assert saved == [5, 15, 20]
    assert load(os.path.join(training.directory, "latest.pt"))["step"] == 20
    assert not [name for name in os.listdir(training.directory) if name.startswith(".tmp")]


def test_a_loss_that_is_not_finite_is_skipped(make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch) -> None:
    training = make()
    real = step.next_byte_loss

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = real(logits, targets)
        return value * math.nan if training.model.training and training.progress.step == 7 else value

    monkeypatch.setattr(step, "next_byte_loss", loss)
    assert training.run() == 0
    [told] = [event for event in events(training) if event.name == "nonfinite"]
    assert (told.step, told.what, told.action) == (8, "loss", "skipped")
    assert load(os.path.join(training.directory, "latest.pt"))["step"] == 20


def test_weights_that_are_not_finite_are_never_saved(make: Callable[..., Training]) -> None:
    training = make()
    assert training.checkpoints.save_now(training.state.gather(), {"rolling"}) == "rolling_step_000000.pt"
    with torch.no_grad():
        training.model.norm.weight[3] = math.inf
    assert training.checkpoints.save_now(training.state.gather(), {"best"}) is None
    [failed] = [event for event in events(training) if event.name == "checkpoint_failed"]
    assert (failed.stage, failed.error) == ("snapshot", "model.norm.weight is not finite: such a state is not saved")
    assert not Path(training.directory, "best_model.pt").exists()


def test_a_training_that_diverges_ends_so(make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch) -> None:
    training = make("--max_steps", "200")
    monkeypatch.setattr(step, "next_byte_loss", lambda logits, _: logits.sum() * math.nan)
    assert training.run() == 1
    assert (events(training)[-1].name, events(training)[-1].status) == ("run_end", "diverged")
    # Nothing can be better than a number that is none.
    assert not Path(training.directory, "best_model.pt").exists()


def test_an_error_in_a_batch_is_told_and_resumed_exactly(
    make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.checkpoint.state import fingerprint

    training = make("--dropout", "0.2")
    real = step.next_byte_loss

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = real(logits, targets)
        if training.model.training and training.progress.step == 7:
            raise RuntimeError("out of memory")
        return value

    monkeypatch.setattr(step, "next_byte_loss", loss)
    assert training.run() == 1
    saved, end = [e for e in events(training) if e.name in ("checkpoint_saved", "run_end")][-2:]
    [error] = [e for e in events(training) if e.name == "error"]
    assert (error.type, error.message) == ("RuntimeError", "out of memory")
    assert "Traceback" in error.traceback
    assert (saved.kind, saved.step) == ("emergency", 7)
    assert end.status == "failed"
    monkeypatch.undo()
    resumed = make("--dropout", "0.2", "--resume", "auto")
    assert resumed.progress.step == 7
    assert resumed.run() == 0
    result = fingerprint(load(os.path.join(training.directory, "latest.pt")))
    for name in os.listdir(training.directory):
        Path(training.directory, name).unlink()
    undisturbed = make("--dropout", "0.2")
    assert undisturbed.run() == 0
    assert fingerprint(load(os.path.join(training.directory, "latest.pt"))) == result


def test_a_newer_format_is_refused_politely(make: Callable[..., Training], tmp_path: Path) -> None:
    training = make()
    torch.save({**training.state.gather(), "format_version": 99}, tmp_path / "future.pt")
    with pytest.raises(BadCheckpointError, match="newer than this trainer"):
        load(str(tmp_path / "future.pt"))


def test_a_reader_that_went_away_does_not_end_the_training(tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m trainer --out run --n_layer 1 --n_head 2 --n_embd 32 --block_size 32 --batch_size 4"
        " --max_steps 120 --eval_freq 100 --checkpoint_freq 100 --threads 1"
        " | head -1 > /dev/null; echo ${PIPESTATUS[0]}"
    )
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "0", done.stderr
    assert b'"status":"finished"' in (tmp_path / "run" / "events.jsonl").read_bytes().splitlines()[-1]


def test_a_directory_whose_name_is_not_utf8_keeps_its_steps(nursery: Nursery, tmp_path: Path) -> None:
    directory = os.fsdecode(bytes(tmp_path) + b"/run\xff")
    trained = nursery.run(
        ["--out", directory, "--n_layer", "1", "--n_head", "2", "--n_embd", "32", "--block_size", "32",
         "--batch_size", "4", "--max_steps", "60", "--eval_freq", "100", "--checkpoint_freq", "20", "--threads", "1"]
    )  # fmt: skip
    assert trained.code == 0, trained.output
    (Path(directory) / "registry.json").unlink()
    listed = nursery.run(["--out", directory, "--list_checkpoints"])
    assert listed.code == 0, listed.output
    assert "unreadable" not in listed.output
    assert "rolling_step_000060.pt" in listed.output
