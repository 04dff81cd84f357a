"""NaN and Inf: found and counted per tensor, in every float that torch has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.builders.validation import codes, full_state, save, validate, words_of

FLOAT_TYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_nan_is_found_and_counted_in_every_float(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    tensor = torch.randn(30, 40, dtype=torch.complex64 if dtype.is_complex else torch.float32)
    tensor[3, 4] = tensor[20, 1] = float("nan")
    path = tmp_path / f"w.{kind}"
    weights = {"good": torch.randn(10).to(dtype), "bad": tensor.to(dtype)}
    if kind == "pt":
        torch.save(weights, path)
    elif dtype in (torch.complex64, torch.float8_e4m3fnuz):
        pytest.skip("safetensors does not write it")
    else:
        save_file(weights, path)
    validation = validate(path)
    assert (validation.verdict, validation.levels["numbers"]) == ("nonfinite", "fail")
    finding = next(f for f in validation.findings if f.code == "nonfinite")
    assert (finding.where, finding.message) == ("bad", "2 NaN of 1,200, the first at [3, 4]")


def test_nan_in_the_optimizer(tmp_path: Path) -> None:
    state = full_state()
    state["optimizer"]["state"][1]["exp_avg_sq"][7] = float("inf")  # type: ignore[index]
    validation = validate(save(tmp_path / "rolling_step_000500.pt", state))
    assert validation.verdict == "nonfinite"
    assert "optimizer.state.1.exp_avg_sq: 1 Inf of 30, the first at [7]" in words_of(validation)


def test_every_name_of_a_tied_tensor_is_counted(tmp_path: Path) -> None:
    weights = {"wte": torch.full((3, 3), float("nan"))}
    weights["lm_head"] = weights["wte"]
    validation = validate(save(tmp_path / "w.pt", weights))
    assert [f.where for f in validation.findings] == ["wte", "lm_head"]


def test_nan_that_no_tensor_shows_is_no_finding(tmp_path: Path) -> None:
    base = torch.full((1000,), float("nan"))
    base[:10] = 1
    validation = validate(save(tmp_path / "w.pt", {"head": base[:10]}))
    assert (validation.verdict, validation.findings) == ("valid", ())


def test_an_attention_mask_may_be_infinite(tmp_path: Path) -> None:
    mask = torch.triu(torch.full((8, 8), float("-inf")), 1)
    validation = validate(save(tmp_path / "w.pt", {"attn.mask": mask, "w": torch.ones(3)}))
    assert (validation.verdict, codes(validation)) == ("valid", {"mask"})
    one = torch.zeros(8)
    one[3] = float("inf")
    assert validate(save(tmp_path / "v.pt", {"w": one})).verdict == "nonfinite"


def test_infinite_metrics_are_a_warning(tmp_path: Path) -> None:
    state = full_state()
    state["loss_history"] = torch.tensor([1.0, float("nan")])
    state["train_loss"] = float("nan")
    validation = validate(save(tmp_path / "rolling_step_000500.pt", state))
    assert (validation.verdict, codes(validation)) == ("valid", {"nonfinite-metric"})
    assert len(validation.findings) == 2


def test_without_floats_numbers_do_not_apply(tmp_path: Path) -> None:
    assert validate(save(tmp_path / "w.pt", {"ids": torch.arange(10)})).levels["numbers"] == "not-applicable"
