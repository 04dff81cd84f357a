"""transformers.Trainer with our callback: killed, damaged, full, signalled; and what the viewer makes of it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from tests.builders.forked import forked
from tests.builders.told import ckpt_tui, events
from trainer.checkpoint.lock import DirectoryLock
from trainer.errors import UsageError
from trainer.integrations.huggingface import HuggingFaceCallback
from trainer.integrations.sealing import newest_valid


class Samples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 26

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(8) * (index + 1)) % 32
        return {"input_ids": tokens, "labels": tokens}


class At(TrainerCallback):  # type: ignore[misc]
    """Does something after a step, as the outside world does."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.act()


def make(directory: Path, *others: TrainerCallback, **settings: Any) -> tuple[Trainer, HuggingFaceCallback]:
    """13 batches an epoch, shuffled, with dropout and accumulation: 7 steps an epoch, 18 in all."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    callback = HuggingFaceCallback()
    arguments = TrainingArguments(
        output_dir=str(directory),
        **{
            "max_steps": 18, "save_steps": 4, "logging_steps": 1, "per_device_train_batch_size": 2, "report_to": [],
            "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2, "gradient_accumulation_steps": 2,
            "eval_strategy": "steps", "eval_steps": 8, "warmup_steps": 3, "save_total_limit": 3, **settings,
        },
    )  # fmt: skip
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Samples(), eval_dataset=Samples(), callbacks=[callback, *others]
    )
    return trainer, callback


def kill_when_durable(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not (path / "manifest.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def losses(out: Path) -> dict[int, float]:
    return {e.step: e.metrics["loss"] for e in events(out, "step")}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("straight") / "run"
    trainer, callback = make(out)
    callback.train(trainer)
    return out, weights(trainer)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a process that was killed after step 14: saved at 4, 8 and 12."""
    out = tmp_path_factory.mktemp("killed") / "run"

    def train() -> None:
        trainer, callback = make(out, At(14, lambda: kill_when_durable(out / "checkpoint-12")))
        callback.train(trainer)

    said = out.parent / "said"
    assert forked(train, said) == -signal.SIGKILL, said.read_text()
    return out


def test_the_log_tells_the_run_and_the_viewer_reads_it(straight: tuple[Path, dict[str, torch.Tensor]]) -> None:
    out, _ = straight
    start, *_, end = events(out)
    assert (start.name, start.total_steps, start.start_step, start.resumed_from) == ("run_start", 18, 0, None)
    assert (start.config["learning_rate"], start.steps_per_epoch) == (0.01, 6)
    assert start.config["save_total_limit"] == 3
    assert set(start.versions) >= {"torch", "transformers", "ckpt-tui"}
    assert list(losses(out)) == list(range(1, 19))
    assert {"loss", "lr", "grad_norm", "step_seconds"} <= set(events(out, "step")[3].metrics)
    assert [event.step for event in events(out, "eval")] == [8, 16, 18]
    assert isinstance(events(out, "eval")[0].metrics["val_loss"], float)
    assert len(events(out, "epoch_end")) == 3
    saved = events(out, "checkpoint_saved")
    assert [(event.path, event.step) for event in saved] == [(f"checkpoint-{n}", n) for n in (4, 8, 12, 16, 18)]
    assert all(event.digest.startswith("crc32:") and event.bytes > 10_000 for event in saved)
    assert all(0 < event.stall_seconds <= event.save_seconds for event in saved)
    assert [event.path for event in events(out, "checkpoint_removed")] == ["checkpoint-4", "checkpoint-8"]
    assert (end.name, end.status, end.step) == ("run_end", "finished", 18)

    status = ckpt_tui("status", str(out))
    assert (status["state"], status["step"], status["total_steps"], status["bad_lines"]["count"]) == (
        "finished",
        18,
        18,
        0,
    )
    listed = ckpt_tui("list", str(out), "--check", "full")
    rows = [row for kind in listed["checkpoints"].values() for row in kind]
    assert {row["name"]: (row["step"], row["validity"]) for row in rows} == {
        f"checkpoint-{step}": (step, "valid") for step in (12, 16, 18)
    }
    assert listed["resume_would_take"] == "checkpoint-18"
    [judged] = ckpt_tui("validate", str(out / "checkpoint-16"))["results"]
    assert judged["levels"] == {"structure": "pass", "integrity": "pass", "numbers": "pass", "resume": "pass"}


def test_killed_and_the_newest_damaged_it_comes_out_bit_by_bit_the_same(
    killed: Path, straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(killed, tmp_path / "run"))
    assert ckpt_tui("status", str(out))["state"] == "crashed"
    # One bit of a weight: no library that loads it would see that.
    with open(out / "checkpoint-12" / "model.safetensors", "r+b") as file:
        file.seek(-40, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    trainer, callback = make(out)
    callback.train(trainer)
    resumed = events(out, "run_start")[-1]
    assert (resumed.session, resumed.start_step, resumed.resumed_from["path"]) == (2, 8, "checkpoint-8")
    assert list((out / "quarantine").glob("checkpoint-12_*_checksum"))
    expected = straight[1]
    assert all(torch.equal(value, expected[name]) for name, value in weights(trainer).items())
    assert losses(out) == losses(straight[0])


def test_a_save_that_was_cut_short_is_never_taken(killed: Path, tmp_path: Path) -> None:
    """What a kill leaves at each point of a save: files missing, none sealed."""
    cuts = [(), ("trainer_state.json",), ("trainer_state.json", "optimizer.pt", "model.safetensors")]
    for number, gone in enumerate(cuts):
        out = Path(shutil.copytree(killed, tmp_path / str(number)))
        for file in ("manifest.json", *gone):
            (out / "checkpoint-12" / file).unlink()
        trainer, callback = make(out, max_steps=9)
        callback.train(trainer)
        assert events(out, "run_start")[-1].start_step == 8
        assert not (out / "checkpoint-12").exists()


def test_checkpoints_from_before_the_callback_are_taken_for_what_they_show(killed: Path, tmp_path: Path) -> None:
    from trainer.integrations.huggingface import step_of

    for path in Path(shutil.copytree(killed, tmp_path / "run")).glob("checkpoint-*/manifest.json"):
        path.unlink()
    out = tmp_path / "run"
    assert newest_valid(str(out), step_of).step == 12
    os.truncate(out / "checkpoint-12" / "optimizer.pt", 1000)
    choice = newest_valid(str(out), step_of)
    assert (choice.step, choice.rejected[0][0]) == (8, "checkpoint-12")
    assert "optimizer.pt is not a whole zip file" in choice.rejected[0][1]
    os.truncate(out / "checkpoint-8" / "model.safetensors", 3000)
    choice = newest_valid(str(out), step_of, required=["trainer_state.json"])
    assert "its header promises" in choice.rejected[0][1]
    (out / "checkpoint-4" / "trainer_state.json").unlink()
    assert newest_valid(str(out), step_of, required=["trainer_state.json"]).path is None
    assert sum(path.is_dir() for path in (out / "quarantine").iterdir()) == 3


def test_a_full_disk_costs_a_save_and_not_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, is_full = torch.save, False

    def save(value: object, path: Any, *arguments: Any, **options: Any) -> None:
        if is_full and str(path).endswith("optimizer.pt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(value, path, *arguments, **options)

    def fill(value: bool) -> None:
        nonlocal is_full
        is_full = value

    monkeypatch.setattr(torch, "save", save)
    trainer, callback = make(tmp_path, At(5, lambda: fill(True)), At(10, lambda: fill(False)), max_steps=12)
    callback.train(trainer)
    [failed] = events(tmp_path, "checkpoint_failed")
    assert (failed.path, failed.stage, failed.kept) == ("checkpoint-8", "write", "checkpoint-4")
    assert "No space left" in failed.error
    assert sorted(path.name for path in tmp_path.glob("*checkpoint-*")) == ["checkpoint-12", "checkpoint-4"]
    assert events(tmp_path, "run_end")[0].status == "finished"


def test_a_signal_saves_stops_and_goes_on_exactly(
    straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    trainer, callback = make(tmp_path, At(10, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        callback.train(trainer)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert (events(tmp_path, "run_end")[0].status, events(tmp_path, "checkpoint_saved")[-1].step) == ("preempted", 11)
    assert trainer.args.save_total_limit == 3
    trainer, callback = make(tmp_path)
    callback.train(trainer)
    assert events(tmp_path, "run_start")[-1].start_step == 11
    assert all(torch.equal(value, straight[1][name]) for name, value in weights(trainer).items())


def test_an_error_is_told_and_raised(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    trainer, callback = make(tmp_path, At(5, fail))
    with pytest.raises(RuntimeError, match="out of memory"):
        callback.train(trainer)
    [error] = events(tmp_path, "error")
    assert (error.type, error.step) == ("RuntimeError", 5)
    assert events(tmp_path, "run_end")[0].status == "failed"
    assert "_save_checkpoint" not in vars(trainer)
    DirectoryLock(str(tmp_path)).release()


def test_a_finished_one_is_not_trained_on(
    straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[0], out)
    for _ in range(2):
        trainer, callback = make(out)
        assert callback.train(trainer).global_step == trainer.state.global_step == 18
        for name, value in weights(trainer).items():
            assert torch.equal(value, straight[1][name]), name
    assert "all 18 steps are done, nothing is trained" in capsys.readouterr().out
    assert not (out / "checkpoint-19").exists()
    trainer, callback = make(out, max_steps=20)
    assert callback.train(trainer).global_step == 20


def test_a_second_trainer_in_the_directory_is_refused(tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path))
    trainer, callback = make(tmp_path)
    with pytest.raises(UsageError, match="Another process trains"):
        callback.train(trainer)
    lock.release()


def test_the_best_stays_whatever_retention_says(tmp_path: Path) -> None:
    trainer, callback = make(
        tmp_path, load_best_model_at_end=True, metric_for_best_model="eval_loss", save_total_limit=1,
        eval_steps=4, greater_is_better=True,
    )  # fmt: skip
    callback.train(trainer)
    best = trainer.state.best_global_step
    assert best != 18
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == sorted(
        {f"checkpoint-{best}", "checkpoint-18"}
    )
    told = events(tmp_path, "best")
    assert (told[-1].step, told[-1].value) == (best, pytest.approx(trainer.state.best_metric))
