"""Directories with a file for each part, and the settings in YAML beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.resumable import check_resume
from ckpt_tui.checkpoints.simple_yaml import SimpleYaml
from tests.builders import frameworks
from tests.builders.truth import check_file


def test_the_dir_layout(tmp_path: Path) -> None:
    frameworks.checkpoint_dir(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert sniff(tmp_path) == checkpoint.format == "checkpoint-dir"
    assert checkpoint.findings == []
    assert [check_file(checkpoint, tmp_path, file) for file in ("model.pt", "optimizer.pt", "dataloader.pt")] == [
        2,
        6,
        1,
    ]
    expected = {"step": 40, "epoch": 1, "train_loss": 2.5, "best_metric": 2.25, "val_loss": 2.25}
    assert checkpoint.progress == expected
    assert checkpoint.hyperparameters == {"n_layer": 2, "learning_rate": 0.001, "data": {"files": ["a", "b"]}}
    assert checkpoint.has == ["model", "optimizer", "scheduler", "rng", "dataloader"]
    assert check_resume(checkpoint).outcome == "pass"
    assert count_parameters(model_tensors(checkpoint)) == 8


@pytest.mark.parametrize(
    ("file", "meaning"),
    [
        ("model.pt", "nothing can be loaded"),
        ("optimizer.pt", "moments start at zero"),
        ("train_state.json", "first batch"),
    ],
)
def test_a_missing_part_is_named_with_its_cost(tmp_path: Path, file: str, meaning: str) -> None:
    frameworks.checkpoint_dir(tmp_path)
    (tmp_path / file).unlink()
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "checkpoint-dir"
    (finding,) = checkpoint.findings
    assert finding.where == file
    assert meaning in finding.message
    assert check_resume(checkpoint).outcome == "fail"


def test_a_training_state_in_model_pt_is_seen(tmp_path: Path) -> None:
    state = {"model": {"w": torch.ones(2)}, "step": 9}
    torch.save(state, tmp_path / "model.pt")
    torch.save({"state": {}, "param_groups": []}, tmp_path / "optimizer.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.progress["step"] == 9
    assert [tensor.name for tensor in model_tensors(checkpoint)] == ["model.w"]


def test_torchtune_keeps_its_recipe_beside_the_shards(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4)}, tmp_path / "model-00001-of-00001.safetensors")
    index = {"metadata": {"total_size": 16}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}
    frameworks.write_json(tmp_path / "model.safetensors.index.json", index)
    (tmp_path / "recipe_state").mkdir()
    moments = {"state": {"w": {"exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}
    recipe = {"seed": 1, "epochs_run": 2, "steps_run": 70, "total_epochs": 3, "optimizer": moments}
    torch.save(recipe, tmp_path / "recipe_state" / "recipe_state.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "checkpoint-dir"
    assert checkpoint.findings == []
    assert (checkpoint.progress["step"], checkpoint.progress["epoch"]) == (70, 2)
    assert checkpoint.has == ["model", "optimizer"]


def test_speechbrain_says_its_epoch_in_yaml(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "model.ckpt")
    torch.save({"state": {}, "param_groups": []}, tmp_path / "optimizer.ckpt")
    (tmp_path / "CKPT.yaml").write_text("# yamllint disable\nepoch: 3\nloss: 1.5\nend-of-epoch: true\n")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.progress == {"epoch": 3, "train_loss": 1.5}


def test_a_run_directory_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("latest.pt", "best_model.pt", "rolling_step_000500.pt"):
        torch.save({"model": {"w": torch.ones(1)}, "step": 1}, tmp_path / name)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert sniff(tmp_path) is None
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pt")
    assert sniff(tmp_path) is None


def test_metrics_of_a_gigabyte_are_not_read_whole(tmp_path: Path) -> None:
    frameworks.checkpoint_dir(tmp_path)
    (tmp_path / "train_state.json").write_text('{"step": 40}')
    with open(tmp_path / "metrics.csv", "wb") as file:
        file.write(b"step,train_loss\n")
        file.seek(1 << 30)
        file.write(b"\n40,1.75\n41,1.\n41")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.progress["train_loss"] == 1.0
    assert checkpoint.progress["step"] == 40


YAML = """\
# settings
lr: 0.001
betas: [0.9, 0.999]
names: ["a, b", 'it''s # not a comment', plain]  # a comment
empty:
none: null
nested:
  deep:
    flag: true
    items:
    - 1
    - two
    - .inf
  path: /a/b c
map: {x: 1, y: two}
'quoted key': -3
text: "say \\"hi\\""
url: http://host:80/x
last: off
"""


def test_yaml_as_pyyaml_reads_it() -> None:
    yaml = pytest.importorskip("yaml")
    truth = yaml.safe_load(YAML.replace("last: off", "last: no_word"))
    found = SimpleYaml(YAML.replace("last: off", "last: no_word"))
    assert found.entries == truth
    assert found.num_unread == 0


def test_what_pyyaml_writes_of_settings() -> None:
    yaml = pytest.importorskip("yaml")
    settings = {
        "a": 1, "b": 1.5, "c": "text: with colon", "d": None, "e": True, "f": "true", "g": "12", "h": [], "i": {},
        "j": [1, 2.5, "x", None], "k": {"l": {"m": "n"}, "o": ["p"]}, "q": 1e-5, "r": "#x", "s": "", "t": "- x",
    }  # fmt: skip
    found = SimpleYaml(yaml.safe_dump(settings))
    assert found.entries == settings
    assert found.num_unread == 0


def test_yaml_that_is_not_read_is_counted(tmp_path: Path) -> None:
    text = "a: 1\nb: |\n  x: 2\n  y\nc: !!python/object:os.system {}\nd: &anchor 3\ne: 4\nf:\n- g: 1\n  h: 2\n"
    found = SimpleYaml(text)
    assert {"a": 1, "e": 4}.items() <= found.entries.items()
    assert "b" not in found.entries
    assert found.num_unread == 7
    frameworks.checkpoint_dir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    (finding,) = open_checkpoint(tmp_path).findings
    assert finding.code == "not-read"
    assert "7 lines" in finding.message


@pytest.mark.parametrize(
    "text", ["a:\n" * 3, " " * 5000 + "a: 1", "- - - -", "[[[[[", ": :", "'", "a: '", "\t- x", "{"]
)
def test_odd_yaml_ends(text: str) -> None:
    SimpleYaml(text)


def test_yaml_nested_without_end_is_not_followed() -> None:
    found = SimpleYaml("\n".join(" " * depth + "k:" for depth in range(5000)))
    assert found.num_unread > 4000
