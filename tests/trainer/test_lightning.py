"""lightning.Trainer with our callback and CheckpointIO: killed, damaged, full, signalled; and the viewer on it."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from tests.builders.forked import forked
from tests.builders.told import ckpt_tui, events
from trainer.checkpoint import publish as publish_module
from trainer.errors import UsageError
from trainer.integrations import lightning_io
from trainer.integrations.lightning import LightningCallback
from trainer.integrations.lightning_io import BadFileError, DurableCheckpointIO


class Noisy(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """22 samples that are augmented with the global random numbers, as people do."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.arange(4.0) * (index + 1) / 22 + 0.1 * torch.randn(4)


class Regression(lightning.LightningModule):
    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))

    def training_step(self, batch: torch.Tensor, _index: int) -> torch.Tensor:
        loss = (self.layers(batch) - batch.sum(1, keepdim=True)).pow(2).mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, _index: int) -> None:
        self.log("val_loss", (self.layers(batch) - batch.sum(1, keepdim=True)).pow(2).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)}

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(Noisy(), batch_size=2, shuffle=True)

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2)


class At(Callback):
    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.step = -1
            self.act()


class StopError(Exception):
    pass


def stop() -> None:
    raise StopError


def make(
    directory: Path, *others: Callback, every: int = 4, **settings: Any
) -> tuple[lightning.Trainer, LightningCallback, Regression]:
    """11 batches, so 6 steps an epoch; 3 epochs, 18 steps."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    ours = LightningCallback(str(directory))
    saver = ModelCheckpoint(directory, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[ours, saver, *others], plugins=[ours.checkpoint_io], accumulate_grad_batches=2, log_every_n_steps=1,
        default_root_dir=directory, num_sanity_val_steps=1, **settings,
    )  # fmt: skip
    return trainer, ours, Regression()


def fit(directory: Path, *others: Callback, **settings: Any) -> dict[str, torch.Tensor]:
    """Train from the newest; gives the weights."""
    trainer, ours, module = make(directory, *others, **settings)
    trainer.fit(module, ckpt_path=ours.newest())
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("straight") / "run"
    return out, fit(out)


@pytest.mark.parametrize(("at", "every"), [(2, 1), (6, 1), (7, 1), (13, 4)])
def test_a_resume_is_exact(at: int, every: int, straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    """Within an epoch and at its ends; with dropout, shuffling, augmentation, accumulation, a schedule, validation."""
    with pytest.raises(StopError):
        fit(tmp_path, At(at, stop), every=every)
    assert same(fit(tmp_path, every=every), straight[1])


@pytest.mark.long
@pytest.mark.parametrize("every", [1, 3, 4])
@pytest.mark.parametrize("at", range(1, 18))
def test_a_resume_is_exact_at_every_step(
    at: int, every: int, straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    test_a_resume_is_exact(at, every, straight, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("at", [4, 5, 6, 8, 9, 11])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("saver", [
    {"monitor": "val_loss", "save_top_k": -1, "filename": "{step}-{val_loss:.3f}"},
    {"every_n_epochs": 1, "save_top_k": -1, "filename": "{step}"},
    {"every_n_train_steps": 1, "save_top_k": 1, "save_last": True, "filename": "{step}"},
])  # fmt: skip
def test_a_resume_is_exact_however_it_is_saved(
    saver: dict[str, Any], num_workers: int, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved after a validation within an epoch, after an epoch, at each step; loaded by workers."""
    monkeypatch.setattr(
        Regression, "train_dataloader",
        lambda self: torch.utils.data.DataLoader(Noisy(), batch_size=2, shuffle=True, num_workers=num_workers),
    )  # fmt: skip
    settings: dict[str, Any] = {"val_check_interval": 4, "every": 100}  # between two steps
    undisturbed = fit(tmp_path / "a", ModelCheckpoint(tmp_path / "a", **saver), **settings)
    with pytest.raises(StopError):
        fit(tmp_path / "b", ModelCheckpoint(tmp_path / "b", **saver), At(at, stop), **settings)
    assert same(fit(tmp_path / "b", ModelCheckpoint(tmp_path / "b", **saver), **settings), undisturbed)


@pytest.mark.parametrize("component", ["rng_state", "epoch_rng_state", "num_batches"])
def test_without_a_part_of_the_state_it_is_not(
    component: str, straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """The control: each part that we add is needed."""
    with pytest.raises(StopError):
        fit(tmp_path, At(9, stop), every=8)
    path = tmp_path / "step=8.ckpt"
    state = torch.load(path, weights_only=True)
    ours = state["callbacks"]["LightningCallback"]
    ours[component] = {"rng_state": ours["epoch_rng_state"], "epoch_rng_state": None, "num_batches": 0}[component]
    torch.save(state, path)
    assert not same(fit(tmp_path), straight[1])


def test_killed_and_the_newest_damaged_it_comes_out_the_same_and_the_viewer_reads_it(
    straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    code = forked(lambda: fit(out, At(14, lambda: kill_when_durable(out))), said)
    assert code == -signal.SIGKILL, said.read_text()
    assert sorted(path.name for path in out.glob("*.ckpt")) == ["step=12.ckpt", "step=4.ckpt", "step=8.ckpt"]
    assert ckpt_tui("status", str(out))["state"] == "crashed"
    data = bytearray((out / "step=12.ckpt").read_bytes())
    data[len(data) // 2] ^= 1
    (out / "step=12.ckpt").write_bytes(data)
    assert same(fit(out), straight[1])

    starts = events(out, "run_start")
    assert (starts[0].start_step, starts[0].total_steps, starts[0].steps_per_epoch) == (0, 18, 6)
    assert (starts[1].session, starts[1].start_step) == (2, 8)
    assert starts[1].resumed_from["path"].endswith("step=8.ckpt")
    assert starts[1].resumed_from["digest"] == events(out, "checkpoint_saved")[1].digest
    assert starts[0].config["lr"] == 0.05
    assert len(list((out / "quarantine").glob("step=12_*.ckpt"))) == 1
    losses = {e.step: e.metrics["loss"] for e in events(out, "step")}
    assert losses == {e.step: e.metrics["loss"] for e in events(straight[0], "step")}
    assert list(losses) == [*range(1, 15), *range(15, 19)]
    assert [event.step for event in events(out, "eval")] == [6, 12, 12, 18]
    assert [event.epoch for event in events(out, "epoch_end")] == [1, 2, 2, 3]
    assert (events(out)[-1].name, events(out)[-1].status) == ("run_end", "finished")

    status = ckpt_tui("status", str(out))
    assert (status["state"], status["step"], status["total_steps"]) == ("finished", 18, 18)
    listed = ckpt_tui("list", str(out), "--check", "full")
    rows = {row["name"]: (row["step"], row["validity"]) for kind in listed["checkpoints"].values() for row in kind}
    assert rows == {f"step={step}.ckpt": (step, "valid") for step in (4, 8, 12, 16)}
    assert listed["resume_would_take"] == "step=16.ckpt"
    registry = json.loads((out / "registry.json").read_bytes())["checkpoints"]
    assert {row["path"]: row["step"] for row in registry} == {name: step for name, (step, _) in rows.items()}


def kill_when_durable(out: Path) -> None:
    deadline = time.monotonic() + 120
    while not (out / "step=12.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_is_loaded_was_proven(straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    path = Path(shutil.copy(straight[0] / "step=8.ckpt", tmp_path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    trainer, _, module = make(tmp_path)
    with pytest.raises(BadFileError, match="the checksum of its record"):
        trainer.fit(module, ckpt_path=str(path))


def test_a_full_disk_costs_a_save_and_keeps_what_was_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, num = publish_module.write_proven, 0

    def write(path: str, *arguments: Any, **options: Any) -> Any:
        nonlocal num
        if ".ckpt" in path:
            num += 1
            if num in (2, 3):
                raise publish_module.PublishError("write", OSError(errno.ENOSPC, "No space left on device"))
        return real(path, *arguments, **options)

    monkeypatch.setattr(publish_module, "write_proven", write)
    saver = ModelCheckpoint(tmp_path, filename="only-{step}", every_n_train_steps=4, save_top_k=1)
    fit(tmp_path, saver, every=1000)
    failed = events(tmp_path, "checkpoint_failed")
    assert [(event.path, event.stage) for event in failed] == [
        ("only-step=8.ckpt", "write"), ("only-step=12.ckpt", "write")
    ]  # fmt: skip
    assert [event.path for event in events(tmp_path, "checkpoint_saved")] == ["only-step=4.ckpt", "only-step=16.ckpt"]
    assert (tmp_path / "only-step=16.ckpt").exists()
    assert events(tmp_path, "run_end")[0].status == "finished"


def test_the_old_file_goes_once_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save in flight: its values are those of its step, the next one waits, and a removal waits for it."""
    may_write, real = threading.Event(), lightning_io.publish

    def publish(directory: str, names: Any, data: Any, **options: Any) -> Any:
        if names[0].endswith(".ckpt"):
            assert may_write.wait(120)
        return real(directory, names, data, **options)

    monkeypatch.setattr(lightning_io, "publish", publish)
    io = DurableCheckpointIO(str(tmp_path))
    weights = torch.arange(4.0)
    old, new = tmp_path / "step=1.ckpt", tmp_path / "step=2.ckpt"
    may_write.set()
    io.save_checkpoint({"global_step": 1, "state_dict": {"w": weights}}, old)
    io.wait()
    may_write.clear()
    weights += 1
    io.save_checkpoint({"global_step": 2, "state_dict": {"w": weights}}, new)
    weights += 100  # as the next step does
    io.remove_checkpoint(old)
    assert old.exists()
    assert not new.exists()
    may_write.set()
    io.wait()
    assert not old.exists()
    assert torch.equal(torch.load(new)["state_dict"]["w"], torch.arange(4.0) + 1)
    found = io.newest()
    assert (found.path, found.step) == (str(new), 2)
    # What is not finite is not saved, and what it was to replace stays.
    io.save_checkpoint({"global_step": 3, "state_dict": {"w": weights * math.nan}}, tmp_path / "step=3.ckpt")
    io.remove_checkpoint(new)
    io.wait()
    assert new.exists()
    assert io.failed == [str(tmp_path / "step=3.ckpt")]
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint({}, new, storage_options={})


def test_files_that_nobody_indexed_are_ordered_by_their_step(
    straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """By the number in the name or in the file, never by time; links and what lies in quarantine are no candidates."""
    for name, step in (("a.ckpt", 12), ("b.ckpt", 4), ("epoch=0-step=8.ckpt", 8)):
        (tmp_path / "deep").mkdir(exist_ok=True)
        shutil.copy(straight[0] / f"step={step}.ckpt", tmp_path / "deep" / name)
        time.sleep(0.01)
    (tmp_path / "last.ckpt").symlink_to(tmp_path / "deep" / "b.ckpt")
    io = DurableCheckpointIO(str(tmp_path))
    assert io.newest().path == str(tmp_path / "deep" / "a.ckpt")
    os.truncate(tmp_path / "deep" / "a.ckpt", 5000)
    found = io.newest()
    assert (found.step, found.rejected[0][0]) == (8, "deep/a.ckpt")
    assert "not a whole zip file" in found.rejected[0][1]
    assert (tmp_path / found.rejected[0][2]).exists()
    assert DurableCheckpointIO(str(tmp_path / "none")).newest().path is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_ends_the_process_and_goes_on_exactly(
    number: signal.Signals, straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        fit(tmp_path, At(9, lambda: os.kill(os.getpid(), number)))
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) == before
    [saved] = [event for event in events(tmp_path, "checkpoint_saved") if event.kind == "emergency"]
    status = "preempted" if number == signal.SIGTERM else "interrupted"
    assert (saved.path, events(tmp_path, "run_end")[0].status) == (f"emergency-step={saved.step}.ckpt", status)
    assert same(fit(tmp_path), straight[1])
    assert events(tmp_path, "run_start")[1].start_step == saved.step


def test_a_start_that_fails_leaves_the_run_where_it_was(
    straight: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[0], out)
    trainer, ours, module = make(out)
    module.layers = torch.nn.Linear(4, 2)
    with pytest.raises(RuntimeError, match="state_dict"):
        trainer.fit(module, ckpt_path=ours.newest())
    assert [(event.name, event.step) for event in events(out)[-2:]] == [("error", 16), ("run_end", 16)]
    status = ckpt_tui("status", str(out))
    assert (status["state"], status["step"], status["at_risk"]["checkpoint_step"]) == ("failed", 16, 16)
    assert status["at_risk"]["checkpoint"] is not None


def test_an_error_is_told_and_the_directory_is_free_again(tmp_path: Path) -> None:
    with pytest.raises(StopError):
        fit(tmp_path, At(5, stop))
    [error] = events(tmp_path, "error")
    assert (error.type, error.step) == ("StopError", 5)
    assert events(tmp_path, "run_end")[0].status == "failed"
    _, ours, _ = make(tmp_path)
    _, other, _ = make(tmp_path)
    ours.newest()
    with pytest.raises(UsageError, match="Another process trains"):
        other.newest()
    ours._let_go()
