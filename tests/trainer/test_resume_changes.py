"""A resume with other settings, another model, other data or another machine: what is taken, named and refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainer.changes import Effect, changes
from trainer.checkpoint.environment import differences, environment
from trainer.checkpoint.fit import MisfitError, check_fit, load_optimizer
from trainer.config import Config


def args(**other: Any) -> dict[str, Any]:
    return {**Config().as_args(), **other}


def test_nothing_changed_is_exact() -> None:
    same = changes(args(), Config(), is_same_data=True)
    assert same.is_exact
    assert same.sentences() == []
    assert same.refusal == ""


def test_each_change_is_told_with_what_it_does() -> None:
    config = Config(lr=1e-3, batch_size=16, checkpoint_freq=50, log_freq=5)
    found = changes(args(), config, is_same_data=True)
    assert found.sentences() == [
        "changed --batch_size 8 -> 16: breaks exactness",
        "changed --lr 0.002 -> 0.001: changes the course",
        "changed, safe: --checkpoint_freq 250 -> 50, --log_freq 10 -> 5",
    ]
    assert not found.is_exact
    assert changes(args(), Config(log_freq=5)).is_exact


def test_impossible_ones_are_refused_with_the_reason() -> None:
    found = changes(args(), Config(n_embd=32, lora_rank=4))
    assert found.refusal == (
        "it was trained with --n_embd 160, and this is 32: every weight has another shape; "
        "it was trained with --lora_rank 0, and this is 4: its adapters have another shape"
    )


def test_data_count_by_content(tmp_path: Any) -> None:
    (tmp_path / "a.txt").write_text("a")
    moved = Config(data=(str(tmp_path / "a.txt"),))
    assert changes(args(data=["/elsewhere/a.txt"]), moved, is_same_data=True).is_exact
    found = changes(args(data=[str(tmp_path / "a.txt")]), moved, is_same_data=False)
    assert found.sentences() == [f"changed --data {tmp_path}/a.txt -> other content: breaks exactness"]


def test_what_a_checkpoint_does_not_know_had_its_default() -> None:
    older = args()
    del older["lora_alpha"], older["ema"]
    assert changes(older, Config()).is_exact
    assert [change.name for change in changes(older, Config(ema=0.9)).of(Effect.EXACTNESS)] == ["ema"]
    newer = changes(args(of_the_future=3), Config())
    assert newer.sentences() == ["the checkpoint has settings that this trainer does not know: --of_the_future"]


def test_another_metric_begins_a_best_anew_and_plateau_goes_by_evaluations() -> None:
    assert changes(args(), Config(monitor_mode="max")).is_other_best
    assert changes(args(), Config(eval_freq=10)).is_exact
    assert not changes(args(schedule="plateau"), Config(schedule="plateau", eval_freq=10)).is_exact


def built(width: int = 3, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Any]:
    model = nn.Sequential(nn.Linear(4, width, bias=bias), nn.Linear(width, 2)).to(dtype)
    optimizer = torch.optim.AdamW([{"params": [p]} for p in model.parameters()])
    model(torch.ones(1, 4, dtype=dtype)).sum().backward()
    optimizer.step()
    return model, optimizer


def state_of(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def test_a_state_that_fits_is_let_through() -> None:
    model, optimizer = built()
    check_fit(state_of(*built()), model, optimizer)


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (lambda: built(5), r"other shapes: 0.weight \(5, 4\) \(here \(3, 4\)\), 0.bias .* and 3 more"),
        (lambda: built(bias=False), "the checkpoint lacks 0.bias of the model"),
        (lambda: built(bias=False), "the optimizer's state has 3 parameter groups, here there are 4"),
        (lambda: built(dtype=torch.float64), r"other dtypes, to which loading would round: 0.weight torch.float64"),
    ],
    ids=["shapes", "missing", "groups", "dtypes"],
)
def test_a_misfit_is_said_by_name(saved: Any, message: str) -> None:
    model, optimizer = built()
    with pytest.raises(MisfitError, match=message):
        check_fit(state_of(*saved()), model, optimizer)


def test_what_the_model_does_not_have_and_moments_of_other_shapes_are_said() -> None:
    model, optimizer = built()
    state = state_of(model, optimizer)
    state["model"]["more.weight"] = torch.ones(1)
    state["optimizer"]["state"][2]["exp_avg"] = torch.ones(7)
    with pytest.raises(MisfitError, match=r"the model has no more\.weight") as error:
        check_fit(state, model, optimizer)
    assert "of the optimizer: state.2.exp_avg (7,) (its parameter here (2, 3))" in str(error.value)


def test_moments_keep_the_dtype_that_they_were_saved_in() -> None:
    """torch casts them to the dtype of their weights: of moments in fp32, all but 8 bits of each were lost."""
    model, optimizer = built(dtype=torch.bfloat16)
    state = optimizer.state_dict()
    precise = torch.full((3, 4), 1 / 3)
    state["state"][0]["exp_avg"] = precise
    load_optimizer(optimizer, state)
    loaded = optimizer.state[next(model.parameters())]
    assert loaded["exp_avg"].dtype == torch.float32
    assert torch.equal(loaded["exp_avg"], precise)
    assert loaded["exp_avg_sq"].dtype == torch.bfloat16
    # A copy: training on does not change what was loaded from.
    loaded["exp_avg"].zero_()
    assert torch.equal(precise, torch.full((3, 4), 1 / 3))


def test_another_place_is_named() -> None:
    here = environment()
    assert differences(here, here) == []
    before = {**here, "torch": "1.0.0", "threads": 77, "deterministic": not here["deterministic"], "gpus": ["A", "B"]}
    told = differences(before, here)
    assert f"torch 1.0.0 -> {here['torch']}" in told
    assert f"threads 77 -> {here['threads']}" in told
    assert f"deterministic algorithms on -> {'on' if here['deterministic'] else 'off'}" in told
    assert "GPUs A, B -> none" in told
    assert len(told) == 4
    assert differences(None, here) == ["the checkpoint does not say on what it was made"]
