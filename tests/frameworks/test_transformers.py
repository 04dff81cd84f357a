"""What transformers.Trainer really saves is read as transformers and torch read it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

pytest.importorskip("transformers")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from ckpt_tui.checkpoints.facts import count_parameters, model_name, model_tensors
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.moments import moments_of
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.resumable import check_resume
from tests.builders.truth import check_file, loaded, values_of


def tiny_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=2, n_head=2))


class Samples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.arange(8) + index, "labels": torch.arange(8) + index}


def train(directory: Path, model: object, **settings: object) -> Trainer:
    """Three steps on the CPU with a save and an evaluation after two."""
    torch.set_num_threads(1)
    arguments = TrainingArguments(
        output_dir=str(directory), max_steps=3, save_steps=2, logging_steps=1, eval_strategy="steps", eval_steps=2,
        per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-3, **settings,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Samples(), eval_dataset=Samples())
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run that has ended: checkpoint-2, checkpoint-3 and the final model."""
    directory = tmp_path_factory.mktemp("run")
    trainer = train(directory, tiny_model(), load_best_model_at_end=True, metric_for_best_model="loss", hub_token="x")
    trainer.save_model()
    return directory


@pytest.fixture
def saved(run: Path, tmp_path: Path) -> Path:
    """A copy of checkpoint-2 that a test may damage."""
    return Path(shutil.copytree(run / "checkpoint-2", tmp_path / "checkpoint-2"))


def _missing(checkpoint: Checkpoint) -> set[str]:
    return {finding.where for finding in checkpoint.findings if finding.code == "missing-part"}


def test_every_tensor_is_what_transformers_saved(run: Path) -> None:
    checkpoint = open_checkpoint(run / "checkpoint-2")
    assert sniff(run / "checkpoint-2") == checkpoint.format == "hf-trainer"
    assert checkpoint.findings == []
    directory = run / "checkpoint-2"
    counted = [check_file(checkpoint, directory, file) for file in ("model.safetensors", "optimizer.pt")]
    model = GPT2LMHeadModel.from_pretrained(directory)
    assert counted[0] == len(model.state_dict()) - 1  # lm_head.weight is tied, and left out
    assert counted[1] == 3 * len(list(model.parameters()))
    assert count_parameters(model_tensors(checkpoint)) == sum(p.numel() for p in model.parameters())
    by_name = {tensor.name: tensor for tensor in model_tensors(checkpoint)}
    assert torch.equal(values_of(checkpoint, by_name["transformer.wte.weight"]), model.lm_head.weight.detach())


def test_progress_is_that_of_the_trainer_state(run: Path) -> None:
    state = json.loads((run / "checkpoint-2" / "trainer_state.json").read_text())
    progress = open_checkpoint(run / "checkpoint-2").progress
    assert progress["step"] == state["global_step"] == 2
    assert progress["epoch"] == state["epoch"] == pytest.approx(2 / 3)
    assert progress["train_loss"] == next(e["loss"] for e in state["log_history"] if e["step"] == 2)
    assert progress["val_loss"] == next(e["eval_loss"] for e in state["log_history"] if "eval_loss" in e)
    assert progress["best_metric"] == progress["val_loss"]
    assert progress["best_checkpoint"] == str(run / "checkpoint-2")
    assert progress["max_steps"] == 3


def test_moments_are_under_no_other_parameters_name(run: Path, saved: Path) -> None:
    """safetensors sorts the weights (bias before weight, h.10 before h.2), the optimizer has the model's order."""
    assert moments_of(open_checkpoint(run / "checkpoint-2"))[1] is False
    model = tiny_model()
    (saved / "model.safetensors").unlink()
    torch.save(model.state_dict(), saved / "pytorch_model.bin")
    moments, are_named = moments_of(open_checkpoint(saved))
    assert are_named
    trainer = Trainer(model=model, args=TrainingArguments(output_dir=str(saved), report_to=[], use_cpu=True))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    assert [entry.parameter for entry in moments] == [names[id(p)] for group in groups for p in group["params"]]


def test_settings_are_those_of_the_training_arguments(run: Path) -> None:
    checkpoint = open_checkpoint(run / "checkpoint-2")
    arguments = torch.load(run / "checkpoint-2" / "training_args.bin", weights_only=False)
    ours = checkpoint.hyperparameters
    for key in (
        "learning_rate",
        "max_steps",
        "per_device_train_batch_size",
        "seed",
        "adam_beta2",
        "fp16",
        "save_steps",
    ):
        assert ours[key] == getattr(arguments, key)
    for key in ("optim", "lr_scheduler_type", "save_strategy", "logging_strategy", "hub_strategy"):
        assert ours[key] == getattr(arguments, key).value
    assert ours["accelerator_config"] == vars(arguments.accelerator_config)
    assert ours["hub_token"] == "hidden"
    assert not any(key.startswith("_") for key in ours)
    assert ours["n_embd"] == 8  # of config.json: it says what model it is


def test_it_has_all_that_a_resume_needs(run: Path) -> None:
    checkpoint = open_checkpoint(run / "checkpoint-2")
    assert checkpoint.has == ["model", "optimizer", "scheduler", "rng", "dataloader"]
    assert checkpoint.safety == "safe"
    assert checkpoint.optimizer["type"] == "AdamW"
    assert checkpoint.optimizer["num_parameters"] == len(list(tiny_model().parameters()))
    assert check_resume(checkpoint).outcome == "pass"


@pytest.mark.parametrize(
    ("file", "meaning"),
    [
        ("optimizer.pt", "moments start at zero"),
        ("scheduler.pt", "learning rate starts over"),
        ("rng_state.pth", "dropout and shuffling"),
        ("trainer_state.json", "first batch"),
        ("model.safetensors", "nothing can be loaded"),
    ],
)
def test_a_missing_part_is_named_with_its_cost(saved: Path, file: str, meaning: str) -> None:
    (saved / file).unlink()
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "hf-trainer"
    (finding,) = checkpoint.findings
    assert finding.where == ("weights" if file == "model.safetensors" else file)
    assert meaning in finding.message
    assert check_resume(checkpoint).outcome == "fail"


def test_the_random_states_of_every_process_are_expected(saved: Path) -> None:
    (saved / "rng_state.pth").rename(saved / "rng_state_0.pth")
    assert _missing(open_checkpoint(saved)) == set()
    shutil.copy(saved / "rng_state_0.pth", saved / "rng_state_2.pth")
    assert _missing(open_checkpoint(saved)) == {"rng_state_1.pth"}


def test_not_a_number_in_the_history_is_a_number_that_is_none(saved: Path) -> None:
    path = saved / "trainer_state.json"
    state = json.loads(path.read_text())
    state["log_history"].append({"loss": math.nan, "step": 2})
    path.write_text(json.dumps(state))
    assert "NaN" in path.read_text()
    loss = open_checkpoint(saved).progress["train_loss"]
    assert isinstance(loss, float)
    assert math.isnan(loss)


def test_data_that_is_not_skipped_is_no_data_position(tmp_path: Path) -> None:
    train(tmp_path, tiny_model(), ignore_data_skip=True)
    assert "dataloader" not in open_checkpoint(tmp_path / "checkpoint-3").has


def test_the_final_model_is_not_one_to_resume_from(run: Path) -> None:
    checkpoint = open_checkpoint(run)
    assert checkpoint.format == "hf-trainer"
    assert checkpoint.has == ["model"]
    assert [finding.code for finding in checkpoint.findings] == ["weights-only"]
    assert check_resume(checkpoint).outcome == "not-applicable"
    assert checkpoint.size_bytes == sum(path.stat().st_size for path in run.iterdir() if path.is_file())


def test_saving_only_the_model_is_said(tmp_path: Path) -> None:
    train(tmp_path, tiny_model(), save_only_model=True)
    checkpoint = open_checkpoint(tmp_path / "checkpoint-2")
    assert "save_only_model was set" in checkpoint.findings[0].message
    assert checkpoint.progress["step"] == 2


def test_pickled_weights_as_before_version_5(saved: Path) -> None:
    state = loaded(saved / "model.safetensors")
    state["lm_head.weight"] = state["transformer.wte.weight"]
    (saved / "model.safetensors").unlink()
    torch.save(state, saved / "pytorch_model.bin")
    checkpoint = open_checkpoint(saved)
    assert checkpoint.findings == []
    assert check_file(checkpoint, saved, "pytorch_model.bin") == len(state)
    assert count_parameters(model_tensors(checkpoint)) == sum(p.numel() for p in tiny_model().parameters())


def test_sharded_weights(saved: Path, tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "model", max_shard_size="3KB")
    plain = open_checkpoint(tmp_path / "model")
    assert plain.format == "sharded"
    assert plain.findings == []
    files = sorted({tensor.file for tensor in plain.tensors})
    assert len(files) > 2
    assert sum(check_file(plain, tmp_path / "model", file) for file in files) == len(model.state_dict()) - 1
    assert plain.hyperparameters["model_type"] == "gpt2"
    (saved / "model.safetensors").unlink()
    for path in (tmp_path / "model").iterdir():
        shutil.copy(path, saved)
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "hf-trainer"
    assert checkpoint.findings == []
    assert check_resume(checkpoint).outcome == "pass"
    (saved / files[1]).unlink()
    assert _missing(open_checkpoint(saved)) == {files[1]}


def test_fsdp_keeps_sharded_weights_and_optimizer_in_directories(saved: Path) -> None:
    weights = loaded(saved / "model.safetensors")
    for file in ("model.safetensors", "optimizer.pt"):
        (saved / file).unlink()
    names = list(weights)
    moments = {name: {"exp_avg": weights[name] * 2, "exp_avg_sq": weights[name] * 3} for name in names}
    optimizer = {"state": moments, "param_groups": [{"lr": 0.5, "betas": (0.9, 0.99), "params": names}]}
    # As accelerate's save_fsdp_model and save_fsdp_optimizer call it.
    dcp.save({"model": weights}, checkpoint_id=saved / "pytorch_model_fsdp_0")
    dcp.save({"optimizer": optimizer}, checkpoint_id=saved / "optimizer_0")
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "hf-trainer"
    assert checkpoint.findings == []
    ours = {model_name(checkpoint, tensor): tensor for tensor in model_tensors(checkpoint)}
    assert set(ours) == set(weights)
    for name, expected in weights.items():
        assert torch.equal(values_of(checkpoint, ours[name]), expected)
    assert checkpoint.optimizer["num_parameters"] == len(names)
    assert check_resume(checkpoint).outcome == "pass"


def test_deepspeed_keeps_its_step_in_a_directory(saved: Path) -> None:
    for file in ("optimizer.pt", "scheduler.pt"):
        (saved / file).unlink()
    samples = Path(__file__).parents[1] / "samples" / "deepspeed" / "zero2"
    shutil.copytree(samples, saved, dirs_exist_ok=True)
    checkpoint = open_checkpoint(saved)
    assert checkpoint.format == "hf-trainer"
    assert checkpoint.findings == []
    assert checkpoint.has == ["model", "optimizer", "scheduler", "rng", "dataloader"]
    assert {tensor.file for tensor in model_tensors(checkpoint)} == {"model.safetensors"}  # not once more from ZeRO
    assert any(tensor.file.startswith("global_step3/") for tensor in checkpoint.tensors)
    (saved / "latest").unlink()
    assert _missing(open_checkpoint(saved)) == {"latest"}
    (saved / "model.safetensors").unlink()
    assert "model" in open_checkpoint(saved).has
