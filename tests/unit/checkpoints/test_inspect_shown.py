"""What `inspect` prints of an ordinary training checkpoint, and how much of an extraordinary one."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import pytest
import torch

from ckpt_tui.cli import main
from tests.builders import frameworks
from tests.builders.torch_files import save_bytes


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")

    def show(state: object, *options: str) -> str:
        path = tmp_path / "latest.pt"
        path.write_bytes(save_bytes(state))
        assert main(["inspect", str(path), *options]) == 0
        return capsys.readouterr().out

    return show


def _training(**settings: object) -> dict[str, object]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    model.register_buffer("mask", torch.ones(7))
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=6e-4, betas=(0.9, 0.95)
    )
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return {
        "step": 12_500, "epoch": 0.034, "train_loss": 1.48211, "model": model.state_dict(),
        "optimizer": optimizer.state_dict(), "args": argparse.Namespace(**settings),
    }  # fmt: skip


def test_numbers_are_as_a_person_types_them(inspect) -> None:  # type: ignore[no-untyped-def]
    settings = {
        "dropout": 0.0, "lr": 0.001, "min_lr": 1e-5, "betas": (0.9, 0.95), "max_steps": 15000, "data": [],
        "computed": 0.1 + 0.2, "compile": True, "decay": None,
    }  # fmt: skip
    shown = inspect(_training(**settings))
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    for row in (
        "dropout 0.0", "lr 0.001", "min_lr 1e-5", "betas 0.9 0.95", "max_steps 15000", "data []", "computed 0.3",
        "compile True", "decay None",
    ):  # fmt: skip
        assert row in rows
    assert "step 12,500 epoch 0.03 train_loss 1.482" in rows
    assert "group 0: 2 tensors lr 0.0006 betas 0.9 0.95 weight_decay 0.1" in rows
    assert "group 1: 2 tensors lr 0.0006 betas 0.9 0.95 weight_decay 0.0" in rows
    assert rows[0].startswith("latest.pt torch zip ")


def test_moments_are_joined_to_the_parameters_names(inspect) -> None:  # type: ignore[no-untyped-def]
    data = json.loads(inspect(_training(), "--json"))["data"]
    assert data["format"] == "torch-zip"
    assert data["optimizer"]["by_name"] is True
    joined = {entry["parameter"]: entry["tensors"] for entry in data["optimizer"]["moments"]}
    # Matrices come first in the optimizer, so the numbers are not in the model's order; the buffer has none.
    assert list(joined) == ["0.weight", "1.weight", "0.bias", "1.bias"]
    assert joined["0.bias"] == {"exp_avg": "optimizer.state.2.exp_avg", "exp_avg_sq": "optimizer.state.2.exp_avg_sq"}


@pytest.mark.parametrize("columns", [60, 80])
def test_statistics_fit_the_terminal(inspect, monkeypatch, columns: int) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", str(columns))
    state = {f"model.layers.{i}.attention.weight": torch.randn(1234, 5) * 1e-7 for i in range(3)}
    shown = inspect(state, "--stats")
    assert "min" in shown
    assert "nan  inf" in shown
    assert max(map(len, shown.splitlines())) <= columns


def test_without_a_model_none_is_counted(inspect) -> None:  # type: ignore[no-untyped-def]
    shown = inspect([{"w": torch.ones(2)}, {"v": torch.ones(3)}])
    assert "no part of it is known to be a model, 2 tensors in all" in shown
    shown = inspect({"epoch": 3})
    assert "parameters" not in shown
    assert "torch.load(weights_only=True) takes it" in shown
    assert "no tensors in it" in shown


def test_two_networks_and_their_optimizers(inspect) -> None:  # type: ignore[no-untyped-def]
    nets = {"G": torch.nn.Linear(4, 5), "D": torch.nn.Linear(5, 1)}
    state: dict[str, object] = {name: net.state_dict() for name, net in nets.items()}
    state["optG"] = torch.optim.Adam(nets["G"].parameters(), lr=0.5).state_dict()
    state["optD"] = torch.optim.SGD(nets["D"].parameters(), lr=0.25).state_dict()
    rows = [" ".join(line.split()) for line in inspect(state).splitlines()]
    assert [row for row in rows if row.startswith(("G ", "D "))] == ["G 25 100 B", "D 6 24 B"]
    first = rows.index("optimizer optG: Adam")
    assert rows[first + 2] == "optimizer optD: SGD"
    assert "lr 0.25" in rows[first + 3]
    found = json.loads(inspect(state, "--json"))["data"]["optimizer"]
    assert [found["name"], *(other["name"] for other in found["others"])] == ["optG", "optD"]


def test_modules_below_a_wrapper_are_told_apart(inspect) -> None:  # type: ignore[no-untyped-def]
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    wrapped = {f"_orig_mod.module.{name}": tensor for name, tensor in model.state_dict().items()}
    rows = [" ".join(line.split()) for line in inspect({"model": wrapped}).splitlines()]
    assert "_orig_mod.module.0 25 100 B" in rows
    assert "_orig_mod.module.1 18 72 B" in rows


def test_everything_at_once_fits_into_about_sixty_lines(inspect) -> None:  # type: ignore[no-untyped-def]
    state = _training(**{f"setting_{i}": i for i in range(40)})
    state["model"] = {f"m{i}.weight": torch.ones(2) for i in range(100)}
    for group in range(30):
        state["optimizer"]["param_groups"].append({"params": [], "lr": group})  # type: ignore[index]
    shown = inspect(state).splitlines()
    assert len(shown) <= 60
    assert max(map(len, shown)) <= 80
    assert sum("more: --all" in line for line in shown) == 4
    assert len(inspect(state, "--all").splitlines()) > 250


def test_keys_that_look_alike_are_both_in_the_json(inspect) -> None:  # type: ignore[no-untyped-def]
    state = json.loads(inspect({"1": "text", 1: "number", b"1": "bytes"}, "--json"))["data"]["state"]
    assert state == {"1": "text", "1 (int #1)": "number", "1 (bytes #2)": "bytes"}


def test_what_stands_beside_a_state_dict_is_left_out_but_judged(inspect) -> None:  # type: ignore[no-untyped-def]
    weights = torch.nn.Linear(2, 2).state_dict()
    weights._metadata[""]["where"] = Path("/a")
    data = json.loads(inspect({"model": weights}, "--json"))["data"]
    assert list(data["state"]["model"]) == ["weight", "bias"]
    assert "pathlib.PosixPath" in [ref["name"] for ref in data["globals"]]


class _Runs:
    """Names a function that runs commands; unpickling it would run one."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def test_what_may_not_be_loaded_is_said_before_anything_else(inspect) -> None:  # type: ignore[no-untyped-def]
    shown = inspect({"model": {"w": torch.ones(2)}, "x": _Runs()}).splitlines()
    assert shown[0].endswith("DANGEROUS")
    assert shown[1] == "safe to list, not safe to load: a full unpickler would reach"
    assert shown[2].startswith("  dangerous: posix.system: runs commands")
    assert "torch.load(weights_only=True) refuses it: posix.system" in shown


def test_what_stands_in_the_way_of_weights_only(inspect) -> None:  # type: ignore[no-untyped-def]
    state = _training()
    assert "refuses it: argparse.Namespace" in inspect(state)
    found = json.loads(inspect(state, "--json"))["data"]["weights_only"]
    assert found == {"loads": False, "refuses": ["argparse.Namespace"], "reason": ""}
    del state["args"]
    assert "torch.load(weights_only=True) takes it" in inspect(state)
    assert json.loads(inspect(state, "--json"))["data"]["weights_only"]["loads"] is True


def test_a_filter_that_matches_nothing_says_so(inspect) -> None:  # type: ignore[no-untyped-def]
    assert "no tensor's name matches *attn*" in inspect(_training(), "--filter", "*attn*")


def test_components_stand_below_what_they_belong_to_and_count_once(inspect) -> None:  # type: ignore[no-untyped-def]
    state = {"s": torch.eye(4).to_sparse(), "w": torch.ones(2)}
    shown = inspect(state)
    assert "18 parameters and buffers in the model, 2 tensors in all" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["s", "4", "x", "4", "float32", "sparse_coo", "64", "B"] in rows
    assert "  s.indices" in shown
    tensors = json.loads(inspect(state, "--json"))["data"]["tensors"]
    assert [(t["name"], t["layout"], t["component"]) for t in tensors] == [
        ("s", "sparse_coo", False), ("s.indices", "strided", True), ("s.values", "strided", True),
        ("w", "strided", False),
    ]  # fmt: skip


def test_statistics_begin_with_what_is_not_finite(inspect) -> None:  # type: ignore[no-untyped-def]
    state = {f"m{number:02}.w": torch.ones(3) for number in range(40)}
    assert "no NaN and no Inf in 40 tensors" in inspect(state, "--stats")
    state["m33.w"][1] = float("nan")
    state["m37.w"][0] = float("-inf")
    shown = inspect(state, "--stats").splitlines()
    at = shown.index("2 of 40 tensors hold NaN or Inf; they come first")
    assert [line.split()[0] for line in shown[at + 2 : at + 5]] == ["m33.w", "m37.w", "m00.w"]
    assert shown[at + 2].split()[-2:] == ["1", "0"]


# Every field of SPEC section 11 with the type it has there; more may be added, none renamed.
PROMISED = {
    "path": str, "format": str, "bytes": int, "tensors": list, "num_tensors": int, "num_parameters": int,
    "progress": dict, "hyperparameters": dict, "has": list, "optimizer": dict, "globals": list, "safety": str,
    "state": dict, "findings": list,
}  # fmt: skip
PROMISED_OF_TENSOR = {
    "name": str, "file": str, "shape": list, "dtype": str, "bytes": int, "storage": str, "stride": list,
    "offset": int, "device": str, "layout": str,
}  # fmt: skip
STATISTICS = ("min", "max", "mean", "std", "norm", "zeros", "nan", "inf")


def test_the_json_keeps_its_promise(inspect, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    state = _training(lr=0.1)
    state["model"]["0.weight"][0, 0] = float("nan")  # type: ignore[index]
    answer = json.loads(inspect(state, "--json", "--stats"))
    assert answer["schema"] == "ckpt-tui/inspect/1"
    assert (answer["ok"], answer["errors"]) == (True, [])
    data = answer["data"]
    for name, kind in PROMISED.items():
        assert type(data[name]) is kind, name
    assert data["num_tensors"] == len(data["tensors"])
    raw = (tmp_path / "latest.pt").read_bytes()
    for tensor in data["tensors"]:
        for name, kind in PROMISED_OF_TENSOR.items():
            assert type(tensor[name]) is kind, name
        assert set(STATISTICS) <= set(tensor)
        if tensor["name"] == "model.1.bias":
            stored = raw[tensor["at_byte"] : tensor["at_byte"] + tensor["bytes"]]
            assert stored == state["model"]["1.bias"].numpy().tobytes()  # type: ignore[index]
    assert {t["name"]: t["nan"] for t in data["tensors"] if t["nan"]} == {"model.0.weight": 1}
    assert data["safety"] == "safe"
    assert {ref["verdict"] for ref in data["globals"]} == {"known"}
    assert data["bytes"] == len(raw)
    assert data["files"] == []


def test_a_directory_shows_its_files_and_what_is_missing(  # type: ignore[no-untyped-def]
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    frameworks.hf_trainer(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "damaged: 1 error, listed at the end" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["model-00002-of-00002.safetensors", "MISSING"] in rows
    assert ["optimizer.pt", "optimizer", "9", "4.1", "kB"] in [row[:5] for row in rows]
    assert "error: model-00002-of-00002.safetensors: a shard" in " ".join(shown.split())
    assert main(["inspect", str(tmp_path), "--json", "--filter", "optimizer.pt:*exp_avg"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert {tensor["file"] for tensor in data["tensors"]} == {"optimizer.pt"}
    files = {file["name"]: file for file in data["files"]}
    assert files["model-00002-of-00002.safetensors"]["missing"] is True
    assert files["optimizer.pt"]["roles"] == ["optimizer"]
    assert files["optimizer.pt"]["bytes"] == (tmp_path / "optimizer.pt").stat().st_size
    assert data["weights_only"]["refuses"] == ["argparse.Namespace"]


def test_a_file_of_a_directory_that_could_not_be_read_is_listed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    frameworks.hf_trainer(tmp_path)
    (tmp_path / "scheduler.pt").write_bytes(bytes(5000))
    main(["inspect", str(tmp_path)])
    assert ["scheduler.pt", "UNREADABLE"] in [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    main(["inspect", str(tmp_path), "--json"])
    files = {file["name"]: file for file in json.loads(capsys.readouterr().out)["data"]["files"]}
    assert files["scheduler.pt"]["unreadable"] is True
    assert sum(file["unreadable"] for file in files.values()) == 1
