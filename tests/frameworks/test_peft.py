"""Adapters as PEFT really saves them, alone and by transformers.Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("peft")
pytest.importorskip("transformers")

from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.resumable import check_resume
from tests.builders.truth import check_file


class Samples(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.arange(8) + index, "labels": torch.arange(8) + index}


@pytest.fixture(scope="module")
def adapted() -> object:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=2, n_head=2))
    return get_peft_model(model, LoraConfig(r=2, lora_alpha=8, target_modules=["c_attn"], task_type="CAUSAL_LM"))


@pytest.mark.parametrize("safe", [True, False])
def test_an_adapter_is_weights_with_the_settings_of_its_config(tmp_path: Path, adapted: object, safe: bool) -> None:
    adapted.save_pretrained(tmp_path, safe_serialization=safe)  # type: ignore[attr-defined]
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "sharded"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    (file,) = {tensor.file for tensor in checkpoint.tensors}
    assert file == ("adapter_model.safetensors" if safe else "adapter_model.bin")
    assert check_file(checkpoint, tmp_path, file) == 4
    trainable, _ = adapted.get_nb_trainable_parameters()  # type: ignore[attr-defined]
    assert count_parameters(model_tensors(checkpoint)) == trainable
    assert checkpoint.hyperparameters["r"] == 2
    assert checkpoint.hyperparameters["lora_alpha"] == 8
    assert checkpoint.hyperparameters["peft_type"] == "LORA"
    assert checkpoint.has == ["model"]
    assert check_resume(checkpoint).outcome == "not-applicable"


def test_an_adapter_in_training(tmp_path: Path, adapted: object) -> None:
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, save_steps=2, logging_steps=1, per_device_train_batch_size=4,
        report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    Trainer(model=adapted, args=arguments, train_dataset=Samples()).train()
    directory = tmp_path / "checkpoint-2"
    checkpoint = open_checkpoint(directory)
    assert checkpoint.format == "hf-trainer"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    assert check_file(checkpoint, directory, "adapter_model.safetensors") == 4
    assert check_file(checkpoint, directory, "optimizer.pt") == 12
    assert checkpoint.progress["step"] == 2
    assert checkpoint.hyperparameters["r"] == 2
    assert checkpoint.hyperparameters["learning_rate"] == arguments.learning_rate
    assert checkpoint.optimizer["num_parameters"] == 4
    assert check_resume(checkpoint).outcome == "pass"
    (directory / "adapter_model.safetensors").unlink()
    assert [finding.where for finding in open_checkpoint(directory).findings] == ["weights"]
