"""The level resume: what an exact resume lacks, what does not agree, and what is no fault of the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.builders.validation import ALL_PASS, codes, full_state, save, validate, words_of


def without(*keys: str) -> dict[str, object]:
    return {key: value for key, value in full_state().items() if key not in keys}


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (without("rng_state"), "rng-missing"),
        (without("dataloader_state"), "data-position-missing"),
        (without("optimizer"), "optimizer-missing"),
        (without("model"), "model-missing"),
        (without("step"), "step-missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_missing_for_an_exact_resume_is_named(state: dict[str, object], code: str, tmp_path: Path) -> None:
    validation = validate(save(tmp_path / "latest.pt", state))
    assert (validation.verdict, validation.levels) == ("incomplete", {**ALL_PASS, "resume": "fail"})
    assert codes(validation) == {code}


def test_a_missing_scheduler_is_only_noted(tmp_path: Path) -> None:
    validation = validate(save(tmp_path / "latest.pt", without("scheduler")))
    assert (validation.verdict, codes(validation)) == ("valid", {"scheduler-missing"})


def test_the_step_agrees_with_name_and_records(whole: Path, tmp_path: Path) -> None:
    assert validate(whole, expected_step=500).verdict == "valid"
    validation = validate(whole, expected_step=750)
    assert (validation.verdict, codes(validation)) == ("incomplete", {"step-mismatch"})
    renamed = tmp_path / "rolling_step_000750.pt"
    shutil.copy2(whole, renamed)
    assert "the state says step 500, its name says 750" in words_of(validate(renamed))


def test_moments_of_another_model(tmp_path: Path) -> None:
    state = full_state()
    for moment in ("exp_avg", "exp_avg_sq"):
        state["optimizer"]["state"][2][moment] = torch.zeros(20, 31)  # type: ignore[index]
    validation = validate(save(tmp_path / "latest.pt", state))
    assert codes(validation) == {"optimizer-shape"}
    assert "optimizer.state.2.exp_avg has shape [20, 31]" in words_of(validation)
    state = full_state()
    state["optimizer"]["state"][2]["exp_avg_sq"] = torch.zeros(4)  # type: ignore[index]
    assert codes(validate(save(tmp_path / "latest.pt", state))) == {"optimizer-shape"}


def test_groups_frozen_parameters_and_buffers_are_no_mismatch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 2))
    model[0].weight.requires_grad = False
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim == 1]
    for groups in ([{"params": decay}, {"params": rest}], [p for p in model.parameters() if p.requires_grad]):
        optimizer = torch.optim.AdamW(groups)
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()
        state = {**full_state(), "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        validation = validate(save(tmp_path / "latest.pt", state))
        assert validation.verdict == "valid", words_of(validation)


# --- writers that keep less


def training_state(**more: object) -> dict[str, object]:
    """What most scripts save: model and optimizer, no random states, no data position."""
    whole = full_state()
    return {"model": whole["model"], "optimizer": whole["optimizer"], **more}


@pytest.mark.parametrize(
    ("state", "lacks"),
    [
        # nanoGPT
        (training_state(iter_num=500, best_val_loss=1.5, config={"lr": 1e-3}, model_args={"n_layer": 2}), []),
        # torch's tutorial
        ({"model_state_dict": full_state()["model"], "optimizer_state_dict": full_state()["optimizer"], "epoch": 3,
          "loss": 1.0}, ["no step, only the epoch is known, 3"]),
        (training_state(), ["no step, not even an epoch is said"]),
    ],
    ids=["nanogpt", "tutorial", "bare"],
)  # fmt: skip
def test_what_its_writer_never_keeps_is_no_fault_of_the_file(
    state: dict[str, object], lacks: list[str], tmp_path: Path
) -> None:
    validation = validate(save(tmp_path / "ckpt.pt", state))
    assert (validation.verdict, validation.levels) == ("valid", {**ALL_PASS, "resume": "not-applicable"})
    assert codes(validation) <= {"not-exact", "scheduler-missing"}
    words = words_of(validation)
    for part in ["can be resumed from, but not exactly", "no random number states", "no data position", *lacks]:
        assert part in words


def test_a_trainer_that_keeps_everything_is_held_to_it(tmp_path: Path) -> None:
    state = {**training_state(step=500), "format_version": 1, "checkpoint_type": "regular"}
    of_its_own = {**state, "args": {"lr": 1.0}, "loss_history": []}
    validation = validate(save(tmp_path / "latest.pt", of_its_own))
    assert (validation.verdict, validation.levels["resume"]) == ("incomplete", "fail")
    assert {"rng-missing", "data-position-missing"} <= codes(validation)
    assert validation.lacks == ()  # nor does it resume from that
    # A loop of somebody's own that it saves for: what it was given is all there is to go on from.
    validation = validate(save(tmp_path / "latest.pt", {**state, "rng_state": {"torch": torch.get_rng_state()}}))
    assert (validation.verdict, validation.levels["resume"]) == ("valid", "not-applicable")
    assert "exact only where the data follow from the step or from the random numbers" in words_of(validation)


def test_lightning_keeps_its_loops_but_no_random_states(tmp_path: Path) -> None:
    whole = full_state()
    state = {
        "pytorch-lightning_version": "2.6.0", "epoch": 1, "global_step": 500, "state_dict": whole["model"],
        "optimizer_states": [whole["optimizer"]], "lr_schedulers": [], "callbacks": {},
        "loops": {"fit_loop": {"epoch_progress": {"current": {"completed": 1}}}},
    }  # fmt: skip
    validation = validate(save(tmp_path / "epoch=1-step=500.ckpt", state))
    assert (validation.format, validation.verdict, validation.step) == ("lightning", "valid", 500)
    assert codes(validation) == {"not-exact"}
    assert "data position" not in words_of(validation)


def test_what_contradicts_is_a_fault_whoever_wrote_it(tmp_path: Path) -> None:
    state = training_state(iter_num=500)
    for moment in ("exp_avg", "exp_avg_sq"):
        state["optimizer"]["state"][2][moment] = torch.zeros(20, 31)  # type: ignore[index]
    validation = validate(save(tmp_path / "ckpt.pt", state))
    assert (validation.verdict, validation.levels["resume"]) == ("incomplete", "fail")
    assert codes(validation) >= {"not-exact", "optimizer-shape"}
    state = training_state(iter_num=500)
    validation = validate(save(tmp_path / "checkpoint_step600.pt", state))
    assert (validation.verdict, validation.levels["resume"]) == ("incomplete", "fail")


def test_accelerate_numbers_its_saves_and_safetensors_sorts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"z": torch.nn.Linear(4, 3), "a": torch.nn.Linear(5, 2)})
    optimizer = torch.optim.AdamW(model.parameters())
    (model["z"](torch.randn(2, 4)).sum() + model["a"](torch.randn(2, 5)).sum()).backward()
    optimizer.step()
    directory = tmp_path / "checkpoint_0"
    directory.mkdir()
    save_file(model.state_dict(), directory / "model.safetensors")
    save(directory / "optimizer.bin", optimizer.state_dict())
    save(directory / "random_states_0.pkl", {"step": 4, "torch_manual_seed": torch.get_rng_state()})
    validation = validate(directory)
    assert (validation.format, validation.verdict) == ("accelerate", "valid"), words_of(validation)
    assert codes(validation).isdisjoint({"step-mismatch", "moment-order"})


def test_a_training_state_without_its_optimizer_is_incomplete(tmp_path: Path) -> None:
    state = {key: value for key, value in training_state(iter_num=5).items() if key != "optimizer"}
    validation = validate(save(tmp_path / "ckpt.pt", {**state, "scheduler": {"last_epoch": 5, "_step_count": 6}}))
    assert (validation.verdict, validation.levels["resume"]) == ("incomplete", "fail")
    assert "optimizer-missing" in codes(validation)
