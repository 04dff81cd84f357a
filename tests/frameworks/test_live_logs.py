"""What the installed frameworks write while they train, read as a person would: the directory is all we are given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.events.schema import Event, RunStart
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.services import foreign_log
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.monitor import RunMonitor, read_run
from ckpt_tui.sources import awaited
from ckpt_tui.sources.registry import open_source


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, labels: object = None) -> dict[str, torch.Tensor]:
        out = self.layer(x)
        return {"loss": (out**2).mean(), "logits": out}


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A Trainer over 12 steps: a log every 2, an evaluation and a checkpoint every 4, TensorBoard, its output."""
    import contextlib
    import io

    from transformers import Trainer, TrainingArguments

    directory = tmp_path_factory.mktemp("hf") / "out"
    data = [{"x": torch.randn(4), "labels": 0} for _ in range(32)]
    args = TrainingArguments(
        str(directory), max_steps=12, logging_steps=2, save_steps=4, eval_strategy="steps", eval_steps=4,
        per_device_train_batch_size=4, report_to=["tensorboard"], use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        trainer = Trainer(Tiny(), args, train_dataset=data, eval_dataset=data[:8])
        trainer.train()
    truth = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
    evals = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    return directory, {"loss": truth, "val_loss": evals}


def curve(state: RunState, name: str) -> dict[int, float]:
    segments = state.series[name].segments
    return {step: value for one in segments for step, value in zip(one.steps, one.last, strict=True)}


def test_a_trainers_event_files(hugging_face: tuple[Path, dict[str, Any]]) -> None:
    directory, truth = hugging_face
    assert open_source(str(directory)).path == str(directory / "runs")
    state = read_run(str(directory))
    assert curve(state, "loss") == pytest.approx(truth["loss"])
    assert curve(state, "val_loss") == pytest.approx(truth["val_loss"])
    assert (state.step, state.total_steps, state.phase) == (12, 12, Phase.FINISHED)
    assert [(save.path, save.step) for save in state.saves] == [
        ("checkpoint-4", 4), ("checkpoint-8", 8), ("checkpoint-12", 12),
    ]  # fmt: skip
    assert state.at_risk is not None
    assert (state.at_risk.checkpoint, state.at_risk.steps) == ("checkpoint-12", 0)
    assert state.config["max_steps"] == 12, "the arguments that transformers writes into the event file"
    assert read_catalog(str(directory)).resume_would_take == "checkpoint-12"


def test_a_trainers_state(hugging_face: tuple[Path, dict[str, Any]]) -> None:
    directory, truth = hugging_face
    state = read_run(str(directory / "checkpoint-8" / "trainer_state.json"))
    assert curve(state, "loss") == pytest.approx({step: loss for step, loss in truth["loss"].items() if step <= 8})
    assert (state.step, state.total_steps) == (8, 12)


def test_a_trainers_output(tmp_path: Path) -> None:
    """In a process of its own, whose output goes to a file, as `python train.py > train.log 2>&1` does."""
    import subprocess
    import sys

    script = (
        "import torch, time\ntorch.set_num_threads(1)\n"
        "from transformers import Trainer, TrainingArguments\nfrom tests.frameworks.test_live_logs import Tiny\n"
        "data = [{'x': torch.randn(4), 'labels': 0} for _ in range(32)]\n"
        f"args = TrainingArguments({str(tmp_path / 'out')!r}, max_steps=12, logging_steps=2, save_strategy='no',\n"
        "    eval_strategy='steps', eval_steps=4, per_device_train_batch_size=4, report_to='none', use_cpu=True)\n"
        "trainer = Trainer(Tiny(), args, train_dataset=data, eval_dataset=data[:8])\ntrainer.train()\n"
        "import json; json.dump(trainer.state.log_history, open('history.json', 'w'))\n"
    )
    with (tmp_path / "train.log").open("wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        subprocess.run(
            [sys.executable, "-c", script],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env=environment,
            check=True,
            timeout=300,
        )
    import json

    history = json.loads((tmp_path / "history.json").read_text())
    truth = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    state = read_run(str(tmp_path / "train.log"))
    assert curve(state, "loss") == pytest.approx(truth, rel=1e-3), "transformers prints four digits"
    assert sorted(curve(state, "val_loss")) == [4, 8, 12]
    assert (state.step, state.total_steps, state.phase) == (12, 12, Phase.FINISHED)


def test_lightnings_csv_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at after every write: the first evaluation makes Lightning write the file again with another header."""
    import lightning
    from lightning.pytorch.loggers import CSVLogger
    from torch.utils.data import DataLoader, TensorDataset

    monkeypatch.setattr(awaited, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(foreign_log, "LOOK_EVERY_S", 0.0)
    monitor = RunMonitor(str(tmp_path))  # before there is anything
    seen: list[int] = []

    class Module(lightning.LightningModule):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = Tiny()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            loss = self.model(batch[0])["loss"]
            self.log("train_loss", loss)
            truth[self.trainer.global_step + 1] = loss.item()
            return loss

        def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
            self.log("val_loss", self.model(batch[0])["loss"])

        def on_train_batch_end(self, *args: object) -> None:
            seen.append(monitor.poll().step)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    truth: dict[int, float] = {}
    data = DataLoader(TensorDataset(torch.randn(24, 4)), batch_size=4)
    lightning.Trainer(
        default_root_dir=tmp_path, max_epochs=3, accelerator="cpu", log_every_n_steps=2, enable_progress_bar=False,
        logger=CSVLogger(str(tmp_path), flush_logs_every_n_steps=4), enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(Module(), data, data)  # fmt: skip
    state = monitor.poll()
    assert seen[-1] > 0, "it was seen while it trained"
    assert state.step == 18
    assert curve(state, "loss") == pytest.approx({step: truth[step] for step in range(2, 19, 2)})
    assert sorted(curve(state, "val_loss")) == [6, 12, 18], "an evaluation at the end of each epoch"
    assert state.series["loss"].num_points == 9, "nothing is counted twice"
    assert state.config == {"width": 4}
    (save,) = [save for save in state.saves if not save.removed]
    assert (save.path, save.step) == ("lightning_logs/version_0/checkpoints/epoch=2-step=18.ckpt", 18)
    assert state.notices == ()
    assert read_catalog(str(tmp_path)).resume_would_take == save.path


def test_torchs_summary_writer_while_it_writes(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    writer.add_text("note", "hello")
    writer.add_histogram("weights", torch.arange(1000.0), 0)
    source = open_source(str(tmp_path))
    events: list[Any] = []
    for step in range(1, 51):
        writer.add_scalar("loss", 1 / step, step)
        writer.add_scalar("val/loss", 2 / step, step)
        if step % 7 == 0:
            writer.flush()
            events += source.poll().events
    writer.add_scalar("loss", float("nan"), 51)
    writer.close()
    events += source.poll().events
    told = [event for event in events if isinstance(event, Event) and not isinstance(event, RunStart)]
    assert {event.step: event.metrics["loss"] for event in told if event.step < 51} == pytest.approx(
        {step: 1 / step for step in range(1, 51)}
    )
    assert told[-1].metrics["loss"] != told[-1].metrics["loss"]
    assert all(event.ts > 1.7e9 for event in told)
