"""What frameworks really save, compared across their formats and layouts."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ckpt_tui.checkpoints.diff import Diff, diff_checkpoints
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.forked import forked

torch.set_num_threads(1)


def diff(a: Path, b: Path) -> Diff:
    return diff_checkpoints(open_checkpoint(a), open_checkpoint(b))


def changes(found: Diff) -> Counter[str]:
    return Counter(tensor.change for tensor in found.tensors if not tensor.is_in_absent_part)


@pytest.fixture(scope="module")
def hf_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint-2, checkpoint-3, and the model that was saved in the end."""
    pytest.importorskip("transformers")
    from tests.frameworks.test_transformers import tiny_model, train

    directory = tmp_path_factory.mktemp("hf")
    trainer = train(directory, tiny_model())
    trainer.save_model(str(directory / "final"))
    trainer.model.save_pretrained(directory / "sharded", max_shard_size="4kB")
    return directory


def test_a_trainers_checkpoint_against_the_next_one(hf_run: Path) -> None:
    found = diff(hf_run / "checkpoint-2", hf_run / "checkpoint-3")
    weights = [load_file(hf_run / f"checkpoint-{step}" / "model.safetensors") for step in (2, 3)]
    of_model = {t.key: t for t in found.tensors if t.part == "model"}
    assert of_model.keys() == weights[0].keys()
    for name, tensor in of_model.items():
        x, y = weights[0][name].double(), weights[1][name].double()
        assert tensor.relative_l2 == pytest.approx(((y - x).norm() / x.norm()).item(), rel=1e-9)
    moments = [t for t in found.tensors if t.part == "optimizer"]
    assert moments
    assert not any(t.parameter for t in moments), "safetensors does not tell in which order the model has them"
    assert "trainer_state.json.global_step" in {change.path for change in found.other}
    assert not found.parts


@pytest.mark.parametrize("other", ["final", "final/model.safetensors", "sharded"])
def test_a_trainers_checkpoint_against_the_model_alone(hf_run: Path, other: str) -> None:
    found = diff(hf_run / "checkpoint-3", hf_run / other)
    assert set(changes(found)) == {"same"}
    assert {"optimizer", "scheduler", "rng"} <= {part.part for part in found.parts if part.side == "a"}
    assert not [part for part in found.parts if part.side == "b"]


def test_lightning_against_the_model_alone(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    import lightning

    from tests.frameworks.test_lightning import Numbers

    class Wrapped(lightning.LightningModule):
        """As people do: the model is a part of the module."""

        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"lr": 0.1})
            self.model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1))

        def training_step(self, batch: torch.Tensor, _index: int) -> torch.Tensor:
            return self.model(batch).pow(2).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = Wrapped()
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, limit_val_batches=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, datamodule=Numbers())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.save(module.model.state_dict(), tmp_path / "b.pt")
    found = diff(tmp_path / "a.ckpt", tmp_path / "b.pt")
    assert (found.prefix_a, found.prefix_b) == ("model.", "")
    assert changes(found) == {"same": 4}
    assert {part.part for part in found.parts} >= {"optimizer"}
    with torch.no_grad():
        module.model[1].bias.add_(1)
    torch.save(module.model.state_dict(), tmp_path / "c.pt")
    assert [t.key for t in diff(tmp_path / "a.ckpt", tmp_path / "c.pt").changed_tensors] == ["1.bias"]


def _save_with_and_without_ddp(directory: Path) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    torch.save(model.state_dict(), directory / "plain.pt")
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    torch.save({"step": 3, "model": wrapped.state_dict(), "optimizer": optimizer.state_dict()}, directory / "ddp.pt")
    dist.destroy_process_group()


def test_distributed_data_parallel_against_the_model_alone(tmp_path: Path) -> None:
    assert forked(lambda: _save_with_and_without_ddp(tmp_path), tmp_path / "said") == 0, (tmp_path / "said").read_text()
    found = diff(tmp_path / "plain.pt", tmp_path / "ddp.pt")
    assert found.prefix_b == "module."
    assert changes(found) == {"same": 7}
