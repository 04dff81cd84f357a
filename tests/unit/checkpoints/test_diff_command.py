"""`ckpt-tui diff` as a person and a script see it: other formats, modules, and the settings of a new run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.cli import main

ARGS = {"lr": 1e-3, "batch_size": 32, "n_layer": 4, "log_freq": 10, "optimizer": {"betas": [0.9, 0.95]}, "mine": 1}


def weights(scale: float = 1.0) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"h.{i}.{part}.weight": torch.randn(4, 4) * (scale if i == 2 else 1) for i in range(12) for part in "ab"}


@pytest.fixture
def training(tmp_path: Path) -> Path:
    moments = {i: {"exp_avg": torch.ones(4, 4), "exp_avg_sq": torch.ones(4, 4)} for i in range(24)}
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(range(24))}]}
    state = {"step": 7, "model": weights(), "optimizer": optimizer, "args": ARGS, "loss_history": [1.0] * 20}
    torch.save(state, tmp_path / "latest.pt")
    return tmp_path / "latest.pt"


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main(["diff", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_other_formats_and_wrappers_in_words(
    training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "export.safetensors"
    save_file({f"module.{name}": weight for name, weight in weights(2.0).items()}, exported)
    assert main(["diff", str(training), str(exported)]) == 1
    out = capsys.readouterr().out
    for words in (
        "names: `module.` taken off those of b",
        "settings: only in a, 6 settings: --all",
        "only in a: optimizer (48 tensors, 3.1 kB); progress (step); other state (loss_history)",
        "tensors: 2 changed, 22 the same",
        "model.h.2.a.weight",
        "modules: 1 of 12 changed, by relative L2; the whole model",
        "2 of 2            1",
    ):
        assert words in out, words
    assert "optimizer.state" not in out, "one line, not 48"
    code, answer = as_json(capsys, training, exported)
    data = answer["data"]
    assert (code, data["prefix_a"], data["prefix_b"]) == (1, "", "module.")
    assert data["parts"][0] == {"part": "optimizer", "only_in": "a", "num_tensors": 48, "bytes": 48 * 64, "names": []}
    module = next(module for module in data["modules"] if module["name"] == "h.2")
    assert (module["num_tensors"], module["num_changed"], module["relative_l2"]) == (2, 2, pytest.approx(1.0))
    assert (data["tensors"][0]["name_b"], data["tensors"][0]["part"]) == ("module.h.2.a.weight", "model")
    assert sum(tensor["change"] == "removed" for tensor in data["tensors"]) == 48


def test_exit_code_0_for_the_same_weights_in_another_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(weights(), tmp_path / "a.pt")
    save_file(weights(), tmp_path / "b.safetensors")
    assert main(["diff", str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors")]) == 0
    assert "no difference: settings, 24 tensors, other state" in capsys.readouterr().out


def test_settings_given_one_by_one(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(training), "--set", "lr=1e-4", "--set", "n-layer=6", "--set", "log_freq=10"]) == 1
    out = capsys.readouterr().out
    assert "settings: 2 differences" in out
    assert out.index("n_layer") < out.index("impossible") < out.index("lr "), "gravest first"
    assert "the resume fails" in out
    assert main(["diff", str(training), "--set", "lr=0.001"]) == 0
    assert "no difference" in capsys.readouterr().out


def test_settings_are_found_by_the_end_of_their_path(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer = as_json(capsys, training, "--set", "betas=0.9,0.99", "--set", "new_one=3")
    changes = {change["key"]: change for change in answer["data"]["hyperparameters"]}
    assert code == 1
    assert changes["optimizer.betas"] | {"words": ""} == {
        "key": "optimizer.betas", "change": "changed", "a": [0.9, 0.95], "b": [0.9, 0.99], "effect": "course",
        "words": "",
    }  # fmt: skip
    assert (changes["new_one"]["change"], changes["new_one"]["effect"]) == ("added", "unknown")
    assert answer["data"]["effect"] == "course"
    assert answer["data"]["tensors"] == []


FILES = {
    "json": json.dumps({**ARGS, "lr": 5e-4, "mine": 2}),
    "toml": 'lr = 5e-4\nbatch_size = 32\nn_layer = 4\nlog_freq = 10\nmine = 2\n[optimizer]\nbetas = [0.9, 0.95]\n',
    "yaml": "lr: 0.0005\nbatch_size: 32\nn_layer: 4\nlog_freq: 10\nmine: 2\noptimizer:\n  betas: [0.9, 0.95]\n",
}  # fmt: skip


@pytest.mark.parametrize("suffix", FILES)
def test_settings_in_a_file(suffix: str, training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"new.{suffix}"
    path.write_text(FILES[suffix])
    code, answer = as_json(capsys, training, path, "--set", "batch_size=64")
    assert code == 1
    found = [(change["key"], change["b"], change["effect"]) for change in answer["data"]["hyperparameters"]]
    assert found == [("batch_size", 64, "exactness"), ("lr", 5e-4, "course"), ("mine", 2, "unknown")]


def test_what_a_settings_file_leaves_out_is_said(
    training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.json").write_text('{"lr": 0.001}')
    answer = as_json(capsys, training, tmp_path / "new.json")[1]
    assert {change["change"] for change in answer["data"]["hyperparameters"]} == {"removed"}


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "nan nan", "\udce9", '{"a":' * 5000])
def test_files_that_hold_no_settings(
    content: str, training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.json").write_bytes(content.encode(errors="surrogateescape"))
    assert main(["diff", str(training), str(tmp_path / "new.json")]) == 2
    assert "Not settings" in capsys.readouterr().err


def test_nothing_to_compare_with(training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(weights(), tmp_path / "w.safetensors")
    assert main(["diff", str(tmp_path / "w.safetensors"), "--set", "lr=1"]) == 2
    assert "records no hyperparameters" in capsys.readouterr().err
    for wrong in (["--set", "lr"], ["--set", "=1"], [str(tmp_path / "w.safetensors"), "--set", "lr=1"], []):
        assert main(["diff", str(training), *wrong]) == 2
    assert "Traceback" not in capsys.readouterr().err
