"""JSON files that are checkpoints, and those that are not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.validate import validate_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders import frameworks
from tests.builders.truth import check_file


def _write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_lists_of_numbers_are_tensors(tmp_path: Path) -> None:
    state = {
        "step": 7,
        "epoch": 1,
        "args": {"lr": 0.5, "betas": [0.9, 0.99]},
        "weights": {"w": [[1.0, 2, 3], [4, 5, 6]], "b": [1, 2], "mask": [True, False], "ragged": [[1], [2, 3]]},
        "optimizer_state": {"momentum": [[[0.5]]]},
        "loss_history": [3.0, 2.0],
    }
    path = _write(tmp_path / "state.json", state)
    checkpoint = open_checkpoint(path)
    assert sniff(path) == checkpoint.format == "json"
    assert checkpoint.progress == {"step": 7, "epoch": 1}
    assert checkpoint.hyperparameters == {"lr": 0.5, "betas": [0.9, 0.99]}
    assert checkpoint.findings == []
    found = {tensor.name: (tensor.shape, tensor.dtype, tensor.stride) for tensor in checkpoint.tensors}
    assert {name: found[name] for name in ("weights.w", "weights.b", "weights.mask")} == {
        "weights.w": ((2, 3), "float64", (3, 1)),
        "weights.b": ((2,), "int64", (1,)),
        "weights.mask": ((2,), "bool", (1,)),
    }
    assert found["weights.ragged.0"][0] == (1,)
    assert found["optimizer_state.momentum"][0] == (1, 1, 1)
    for name in ("weights.w", "optimizer_state.momentum"):
        first, _, second = name.partition(".")
        truth = torch.tensor(state[first][second], dtype=torch.float64)  # type: ignore[index]
        assert found[name] == (tuple(truth.shape), "float64", truth.stride())
    assert "loss_history" not in found
    assert checkpoint.has == ["model", "optimizer"]
    assert count_parameters(model_tensors(checkpoint)) == 6 + 2 + 2 + 1 + 2
    assert all(storage.offset is None for storage in checkpoint.storages.values())


def test_weights_that_are_one_list(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(_write(tmp_path / "state.json", {"epoch": 3, "weights": [0.5, 1.5]}))
    assert [tensor.name for tensor in model_tensors(checkpoint)] == ["weights"]


def test_nan_is_counted_while_it_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "state.json", {"epoch": 3, "weights": {"w": [1.0, math.nan, math.inf], "v": [1.0]}})
    (finding,) = open_checkpoint(path).findings
    assert (finding.code, finding.where, finding.level) == ("nonfinite", "weights.w", "numbers")
    assert "2 of 3" in finding.message


def test_a_trainer_state_alone(tmp_path: Path) -> None:
    history = [{"step": 5, "loss": 2.5, "learning_rate": 0.1}, {"step": 5, "eval_loss": math.nan}]
    state = {"best_metric": 1.5, "best_model_checkpoint": "x/checkpoint-5", "epoch": 0.5, "global_step": 5,
             "log_history": history, "max_steps": 10}  # fmt: skip
    checkpoint = open_checkpoint(_write(tmp_path / "trainer_state.json", state))
    assert checkpoint.format == "json"
    assert checkpoint.progress["step"] == 5
    assert checkpoint.progress["epoch"] == 0.5
    assert checkpoint.progress["train_loss"] == 2.5
    assert math.isnan(checkpoint.progress["val_loss"])  # type: ignore[arg-type]
    assert checkpoint.tensors == []


def test_xgboost_keeps_its_trees_in_json(tmp_path: Path) -> None:
    tree = {"split_conditions": [0.5, 0.25], "left_children": [1, -1]}
    model = {"learner": {"gradient_booster": {"model": {"trees": [tree]}}, "objective": {"name": "x"}}, "version": [2]}
    checkpoint = open_checkpoint(_write(tmp_path / "model.json", model))
    assert checkpoint.has == ["model"]
    assert len(model_tensors(checkpoint)) == 2


@pytest.mark.parametrize("pickled", [False, True])
def test_an_index_opens_its_shards(tmp_path: Path, pickled: bool) -> None:
    truth = frameworks.shards(tmp_path, pickled=pickled)
    index = next(tmp_path.glob("*.index.json"))
    checkpoint = open_checkpoint(index)
    assert sniff(index) == checkpoint.format == "sharded"
    assert checkpoint.findings == []
    files = sorted({tensor.file for tensor in checkpoint.tensors})
    assert sum(check_file(checkpoint, tmp_path, file) for file in files) == len(truth)


def test_an_index_beside_other_things_is_only_its_shards(tmp_path: Path) -> None:
    frameworks.shards(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    checkpoint = open_checkpoint(tmp_path / "model.safetensors.index.json")
    assert {tensor.name for tensor in checkpoint.tensors} == {"embed.weight", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    "value",
    [
        {"model_type": "gpt2", "architectures": ["X"], "n_layer": 2},
        {"model": "vit", "optimizer": "adamw", "epochs": 3},
        {"model": {"n_layer": 2}, "optimizer": {"lr": 0.1}, "epoch": 3},
        {"v": 1, "event": "step", "seq": 1, "step": 4, "weights": {"a": 1}},
        {"checkpoints": [{"step": 5, "state_dict": {}}]},
        {"loss": 1.0, "step": 3},
        [1, 2, 3],
        {},
    ],
)
def test_other_json_is_no_checkpoint(tmp_path: Path, value: object) -> None:
    path = _write(tmp_path / "x.json", value)
    assert sniff(path) is None
    with pytest.raises(CkptError, match="Not a checkpoint"):
        open_checkpoint(path)


def test_json_lines_are_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "weights": [1]}\n{"step": 2, "weights": [1]}\n')
    assert sniff(path) is None


@pytest.mark.parametrize("rest", ["", '{"a":', "[" * 100_000, '"w": ' + "9" * 5000 + "}"])
def test_json_that_is_torn_is_damaged(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"step": 1, "weights": {"w": [1.0]}, ' + rest)
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path)
    assert caught.value.title == "Damaged checkpoint"


def test_json_that_asks_for_a_gigabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"step": 1, "weights": [' + "[]," * 3_000_000 + "[]]}")
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path)
    assert caught.value.title == "Not readable"


def test_validate_says_that_it_cannot_vouch_for_the_numbers(tmp_path: Path) -> None:
    path = _write(tmp_path / "state.json", {"step": 3, "weights": {"w": [1.0, 2.0]}})
    result = validate_checkpoint(str(path))
    assert result.verdict == "valid"
    assert result.levels["integrity"] == "not-checked"
