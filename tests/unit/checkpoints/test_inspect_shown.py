"""What `inspect` prints of an ordinary training checkpoint, and how much of an extraordinary one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from ckpt_tui.cli import main
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
