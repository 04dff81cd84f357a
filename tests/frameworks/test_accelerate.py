"""What Accelerate's save_state() really saves is read as torch and safetensors read it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from ckpt_tui.checkpoints.facts import count_parameters, model_name, model_tensors
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.resumable import check_resume
from tests.builders.truth import check_file, values_of


class Progress:
    """An object that a script registers, as it must to have its step saved."""

    def state_dict(self) -> dict[str, object]:
        return {"global_step": 4, "best": torch.ones(2)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """checkpoint_0 with safetensors, checkpoint_1 with pickles, of two models and a registered object."""
    directory = tmp_path_factory.mktemp("run")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    naming = ProjectConfiguration(project_dir=str(directory), automatic_checkpoint_naming=True)
    accelerator = Accelerator(cpu=True, project_config=naming)
    first, second = torch.nn.Linear(4, 3), torch.nn.Linear(2, 2)
    adam = torch.optim.AdamW(first.parameters())
    sgd = torch.optim.SGD(second.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(adam, lambda _: 1.0)
    loader = torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=2, shuffle=True)
    first, second, adam, sgd, scheduler, loader = accelerator.prepare(first, second, adam, sgd, scheduler, loader)
    accelerator.register_for_checkpointing(Progress())
    for batch in loader:
        accelerator.backward(first(batch).sum() + second(batch[:, :2]).sum())
        adam.step()
        sgd.step()
        scheduler.step()
    accelerator.save_state()
    accelerator.save_state(safe_serialization=False)
    return directory / "checkpoints"


@pytest.fixture
def saved(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "checkpoint_0", tmp_path / "checkpoint_0"))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("checkpoint_0", ("model.safetensors", "model_1.safetensors")),
        ("checkpoint_1", ("pytorch_model.bin", "pytorch_model_1.bin")),
    ],
)
def test_every_tensor_is_what_accelerate_saved(run: Path, name: str, weights: tuple[str, ...]) -> None:
    checkpoint = open_checkpoint(run / name)
    assert sniff(run / name) == checkpoint.format == "accelerate"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    counted = [check_file(checkpoint, run / name, file) for file in (*weights, "optimizer.bin", "optimizer_1.bin")]
    assert counted == [2, 2, 6, 2]
    assert count_parameters(model_tensors(checkpoint)) == 15 + 6
    assert checkpoint.has == ["model", "optimizer", "scheduler", "rng"]
    assert checkpoint.optimizer["type"] == "AdamW"


def test_the_step_is_that_of_the_registered_object_and_not_of_the_accumulation(run: Path) -> None:
    checkpoint = open_checkpoint(run / "checkpoint_0")
    assert checkpoint.progress == {"step": 4}


def test_the_step_in_the_name_is_said_to_be_from_the_name(saved: Path) -> None:
    (saved / "custom_checkpoint_0.pkl").unlink()
    assert open_checkpoint(saved).progress == {}  # checkpoint_0: it counts saves, not steps
    named = saved.rename(saved.parent / "step_500")
    assert open_checkpoint(named).progress == {"step": 500, "step_source": "name"}


@pytest.mark.parametrize(
    ("file", "meaning"),
    [
        ("model.safetensors", "counted from 0"),
        ("optimizer.bin", "counted from 0"),
        ("random_states_0.pkl", "dropout"),
    ],
)
def test_a_missing_part_is_named(saved: Path, file: str, meaning: str) -> None:
    (saved / file).unlink()
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "accelerate"
    (finding,) = checkpoint.findings
    assert (finding.code, finding.where) == ("missing-part", file)
    assert meaning in finding.message


def test_the_random_states_of_every_process_are_expected(saved: Path) -> None:
    shutil.copy(saved / "random_states_0.pkl", saved / "random_states_2.pkl")
    (finding,) = open_checkpoint(saved).findings
    assert finding.where == "random_states_1.pkl"


def test_without_an_optimizer_it_cannot_be_resumed_exactly(saved: Path) -> None:
    for file in ("optimizer.bin", "optimizer_1.bin"):
        (saved / file).unlink()
    checkpoint = open_checkpoint(saved)
    assert "moments start at zero" in checkpoint.findings[0].message
    assert check_resume(checkpoint).outcome == "fail"


@pytest.mark.parametrize("state", [{"w": torch.ones(2)}, {"shadow": {"w": torch.ones(2)}}])
def test_the_tensors_of_a_registered_object_are_not_the_model(saved: Path, state: dict[str, object]) -> None:
    torch.save(state, saved / "custom_checkpoint_0.pkl")
    checkpoint = open_checkpoint(saved)
    assert {tensor.file for tensor in model_tensors(checkpoint)} == {"model.safetensors", "model_1.safetensors"}
    assert "custom_checkpoint_0.pkl" in {tensor.file for tensor in checkpoint.tensors}


def test_the_updates_of_averaged_weights_are_not_steps(saved: Path) -> None:
    state = {"decay": 0.999, "num_updates": 3, "shadow": {"w": torch.ones(2)}}
    torch.save(state, saved / "custom_checkpoint_0.pkl")
    checkpoint = open_checkpoint(saved)
    assert "step" not in checkpoint.progress
    assert "ema" in checkpoint.has
    assert {tensor.file for tensor in model_tensors(checkpoint)} == {"model.safetensors", "model_1.safetensors"}


def test_fsdp_keeps_sharded_weights_and_optimizer_in_directories(saved: Path) -> None:
    weights = {"a.weight": torch.randn(3, 2), "a.bias": torch.randn(3)}
    for file in ("model.safetensors", "model_1.safetensors", "optimizer.bin", "optimizer_1.bin"):
        (saved / file).unlink()
    moments = {name: {"exp_avg": tensor * 2, "exp_avg_sq": tensor * 3} for name, tensor in weights.items()}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.5, "params": list(weights)}]}
    dcp.save({"model": weights}, checkpoint_id=saved / "pytorch_model_fsdp_0")
    dcp.save({"optimizer": optimizer}, checkpoint_id=saved / "optimizer_0")
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "accelerate"
    assert checkpoint.findings == []
    ours = {model_name(checkpoint, tensor): tensor for tensor in model_tensors(checkpoint)}
    assert set(ours) == set(weights)
    for name, expected in weights.items():
        assert torch.equal(values_of(checkpoint, ours[name]), expected)
    assert checkpoint.optimizer["num_parameters"] == 2


def test_deepspeed_keeps_its_part_in_a_directory(saved: Path) -> None:
    for file in ("model.safetensors", "model_1.safetensors", "optimizer.bin", "optimizer_1.bin"):
        (saved / file).unlink()
    samples = Path(__file__).parents[1] / "samples" / "deepspeed" / "zero2" / "global_step3"
    shutil.copytree(samples, saved / "pytorch_model")
    (saved / "latest").write_text("pytorch_model")
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "accelerate"
    assert checkpoint.findings == []
    assert {"model", "optimizer", "rng"} <= set(checkpoint.has)


def test_directories_in_directories_are_not_followed_without_end(saved: Path) -> None:
    folder = saved
    for _ in range(30):
        folder = Path(shutil.copytree(saved, folder / "optimizer_0", ignore=shutil.ignore_patterns("optimizer_0")))
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "accelerate"
    assert not any(tensor.file.startswith("optimizer_0/optimizer_0") for tensor in checkpoint.tensors)


def test_models_in_folders_as_diffusers_scripts_keep_them(saved: Path) -> None:
    for file in ("model.safetensors", "model_1.safetensors"):
        (saved / file).unlink()
    for folder in ("unet", "unet_ema"):
        (saved / folder).mkdir()
        save_file({"w": torch.ones(4)}, saved / folder / "diffusion_pytorch_model.safetensors")
        (saved / folder / "config.json").write_text('{"_class_name": "UNet"}')
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "accelerate"
    assert checkpoint.findings == []
    assert [tensor.file for tensor in model_tensors(checkpoint)] == ["unet/diffusion_pytorch_model.safetensors"]
    assert "ema" in checkpoint.has
