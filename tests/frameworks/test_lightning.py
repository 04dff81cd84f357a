"""What Lightning's Trainer really saves is read as torch reads it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

import lightning
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint

from ckpt_tui.checkpoints.facts import count_parameters, model_name, model_tensors
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.moments import moments_of
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.resumable import check_resume
from tests.builders.truth import tensors_in, values_of
from tests.builders.validation import validate


class Regression(lightning.LightningModule):
    def __init__(self, lr: float = 0.1, dim: int = 4, two: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = not two
        self.layer = torch.nn.Linear(dim, 1)

    def training_step(self, batch: torch.Tensor, _index: int) -> torch.Tensor:
        loss = self.layer(batch).pow(2).mean()
        if not self.automatic_optimization:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.layer(batch).pow(2).mean())
                optimizer.step()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, _index: int) -> None:
        self.log("val_loss", self.layer(batch).pow(2).mean())

    def configure_optimizers(self) -> object:
        first = torch.optim.AdamW([self.layer.weight], lr=self.hparams["lr"])
        second = torch.optim.SGD([self.layer.bias], lr=0.1, momentum=0.9)
        if self.hparams["two"]:
            return [first, second]
        return {"optimizer": first, "lr_scheduler": torch.optim.lr_scheduler.StepLR(first, 1)}


class Numbers(lightning.LightningDataModule):
    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> object:
        return torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2)

    def val_dataloader(self) -> object:
        return torch.utils.data.DataLoader(torch.ones(4, 4), batch_size=2)

    def state_dict(self) -> dict[str, object]:
        return {"cursor": 5}

    def load_state_dict(self, state: dict[str, object]) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of four batches: a checkpoint after each, one in the middle of an epoch, and last.ckpt."""
    directory = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for two in (False, True):
        folder = directory / ("two" if two else "one")
        best = ModelCheckpoint(folder, monitor="val_loss", save_last=True, save_top_k=2, filename="{epoch}-{step}")
        middle = ModelCheckpoint(folder, every_n_train_steps=3, save_top_k=-1, filename="middle-{step}")
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[best, EarlyStopping("val_loss"), middle], default_root_dir=directory, precision="32-true",
        )  # fmt: skip
        trainer.fit(Regression(two=two), datamodule=Numbers())
        trainer.save_checkpoint(folder / "weights.ckpt", weights_only=True)
    return directory


def test_of_an_averaged_run_the_average_is_not_taken_for_what_is_trained(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[
            EMAWeightAveraging(decay=0.5), ModelCheckpoint(tmp_path, every_n_train_steps=3, filename="averaged"),
        ],
        default_root_dir=tmp_path,
    )  # fmt: skip
    saved = tmp_path / "averaged.ckpt"
    trainer.fit(Regression(), datamodule=Numbers())
    truth, checkpoint = _truth(saved), open_checkpoint(saved)
    assert {part.role: part.prefix for part in checkpoint.parts if part.role in ("model", "ema")} == {
        "model": "current_model_state.", "ema": "state_dict.",
    }  # fmt: skip
    assert {"model", "ema", "optimizer"} <= set(checkpoint.has)
    assert count_parameters(model_tensors(checkpoint)) == 5, "the average is not counted beside it"
    _check_tensors(checkpoint)
    current, average = truth["current_model_state"], truth["state_dict"]
    assert not torch.equal(current["layer.weight"], average["layer.weight"])  # type: ignore[index]
    found, is_named = moments_of(checkpoint)
    assert is_named, "as many tensors of a shape as the optimizer has: without the average"
    assert found[0].parameter == "layer.weight"


def _truth(path: Path) -> dict[str, object]:
    found = torch.load(path, weights_only=False)
    assert isinstance(found, dict)
    return found


def _check_tensors(checkpoint: Checkpoint) -> None:
    truth = tensors_in(_truth(Path(checkpoint.path)))
    ours = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert set(ours) == set(truth)
    for name, expected in truth.items():
        assert ours[name].shape == tuple(expected.shape)
        assert torch.equal(values_of(checkpoint, ours[name]), expected)


def test_the_checkpoint_after_an_epoch(run: Path) -> None:
    path = run / "one" / "epoch=0-step=4.ckpt"
    checkpoint, truth = open_checkpoint(path), _truth(path)
    assert checkpoint.format == "lightning"
    assert checkpoint.safety == "safe"
    assert checkpoint.findings == []
    _check_tensors(checkpoint)
    progress = checkpoint.progress
    assert progress["step"] == truth["global_step"] == 4
    assert progress["epoch"] == truth["epoch"] == 0
    assert progress["batch_in_epoch"] == 4
    assert progress["monitor"] == "val_loss"
    assert progress["best_checkpoint"] == str(path)
    callbacks = truth["callbacks"]
    assert isinstance(callbacks, dict)
    assert progress["best_metric"] in [float(c["best_model_score"]) for c in callbacks.values() if c.get("monitor")]
    assert checkpoint.metadata["pytorch-lightning_version"] == lightning.__version__
    assert checkpoint.hyperparameters == {"lr": 0.1, "dim": 4, "two": False, "batch_size": 2}
    assert checkpoint.has == ["model", "optimizer", "scheduler", "dataloader"]
    assert checkpoint.optimizer["type"] == "AdamW"


def test_the_model_as_the_module_names_it(run: Path) -> None:
    checkpoint = open_checkpoint(run / "one" / "last.ckpt")
    assert checkpoint.progress["step"] == 8
    assert checkpoint.progress["epoch"] == 1
    assert checkpoint.progress["epochs_completed"] == 1
    expected = Regression().state_dict()
    ours = {model_name(checkpoint, tensor): tensor.shape for tensor in model_tensors(checkpoint)}
    assert ours == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    assert count_parameters(model_tensors(checkpoint)) == 5


def test_one_in_the_middle_of_an_epoch(run: Path) -> None:
    checkpoint = open_checkpoint(run / "one" / "middle-step=3.ckpt")
    assert (checkpoint.progress["step"], checkpoint.progress["epoch"]) == (3, 0)
    assert checkpoint.progress["batch_in_epoch"] == 3


def test_the_steps_of_two_optimizers_are_counted_together(run: Path) -> None:
    paths = sorted((run / "two").glob("epoch=0-step=*.ckpt"))
    checkpoint = open_checkpoint(paths[0])
    assert checkpoint.progress["step"] == 8  # four batches
    assert checkpoint.progress["batch_in_epoch"] == 4
    _check_tensors(checkpoint)


def test_a_callback_without_a_best_value_is_no_damage(run: Path) -> None:
    path = run / "one" / "last.ckpt"
    kept = _truth(path)["callbacks"]
    assert isinstance(kept, dict)
    assert any(torch.isinf(callback.get("kth_value", torch.ones(1))) for callback in kept.values())
    found = validate(path)
    assert (found.verdict, found.levels["numbers"]) == ("valid", "pass")


def test_the_position_of_the_data_module_and_of_the_loops(run: Path) -> None:
    checkpoint = open_checkpoint(run / "one" / "last.ckpt")
    held = {part.prefix: part.value for part in checkpoint.parts if part.role == "dataloader"}
    assert held["Numbers."] == {"cursor": 5}
    assert "loops.fit_loop." in held


def test_weights_only_have_nothing_to_resume(run: Path) -> None:
    checkpoint = open_checkpoint(run / "one" / "weights.ckpt")
    assert checkpoint.format == "lightning"
    assert checkpoint.has == ["model"]
    assert checkpoint.progress["step"] == 8
    assert check_resume(checkpoint).outcome == "not-applicable"


def test_a_loss_scaler_is_found_by_the_name_of_its_plugin(run: Path, tmp_path: Path) -> None:
    state = _truth(run / "one" / "last.ckpt")
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    scaler.scale(torch.ones(1))
    state["MixedPrecision"] = scaler.state_dict()
    torch.save(state, tmp_path / "x.ckpt")
    assert "scaler" in open_checkpoint(tmp_path / "x.ckpt").has
