"""Errors in the midst of a training: what is told, what is saved, and that a resume comes to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.trainer.test_trouble import Sessions
from trainer.config import Config
from trainer.ema import Ema
from trainer.failures import advice
from trainer.loop import Training


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    return Sessions(tmp_path, monkeypatch)


def raising(error: BaseException, at_step: int = 7) -> Callable[[Training, torch.Tensor], torch.Tensor]:
    """In the second pass of the batch after `at_step`."""
    num_passes = 0

    def change(training: Training, loss: torch.Tensor) -> torch.Tensor:
        nonlocal num_passes
        num_passes += training.progress.step == at_step
        if num_passes == 2:
            raise error
        return loss

    return change


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        KeyboardInterrupt(),
    ],
    ids=["python", "cuda", "cpu", "other", "interrupt"],
)
def test_an_error_in_a_batch_saves_what_was_before_it(error: BaseException, sessions: Sessions) -> None:
    options = ("--mini_batch_size", "1")
    assert sessions.session("straight", lambda _, loss: loss, *options)[0] == 0
    code, _ = sessions.session("run", raising(error), *options)
    found = sessions.events("run")
    end, saved = found[-1], [event for event in found if event.name == "checkpoint_saved"][-1]
    assert (saved.kind, saved.step) == ("emergency", 7)
    assert end.name == "run_end"
    if isinstance(error, KeyboardInterrupt):
        assert (code, end.status) == (130, "interrupted")
    else:
        assert (code, end.status) == (1, "failed")
        [told] = [event for event in found if event.name == "error"]
        assert (told.type, told.message) == (type(error).__name__, str(error))
        assert ("--grad_checkpointing" in end.reason) == ("mat1" not in str(error))
    assert sessions.session("run", lambda _, loss: loss, *options)[0] == 0
    assert sessions.result("run") == sessions.result("straight")


def test_the_advice_names_what_is_left_to_try() -> None:
    assert "--mini_batch_size 4 (now 8 sequences in one pass" in advice(MemoryError(), Config())
    assert "--mini_batch_size 2 (now 4" in advice(MemoryError(), Config(mini_batch_size=4))
    little = advice(MemoryError(), Config(batch_size=1, grad_checkpointing=True, precision="bf16"))
    assert little == "Memory ran out. Go on with `--resume auto` and a smaller model."
    assert advice(ValueError("out of memory"), Config()) == ""


def test_an_error_in_an_evaluation_leaves_the_weights_and_the_evaluation(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came while the averages were in the place of the weights."""
    from trainer import evaluation

    options = ("--ema", "0.9")
    assert sessions.session("straight", lambda _, loss: loss, *options)[0] == 0
    real = evaluation.Stepper.loss

    def failing(stepper: evaluation.Stepper, *batch: torch.Tensor) -> torch.Tensor:
        if not stepper.model.training:
            raise MemoryError
        return real(stepper, *batch)

    monkeypatch.setattr(evaluation.Stepper, "loss", failing)
    code, training = sessions.session("run", lambda _, loss: loss, *options)
    assert (code, training.progress.step) == (1, 10)
    monkeypatch.setattr(evaluation.Stepper, "loss", real)
    assert sessions.session("run", lambda _, loss: loss, *options)[0] == 0
    assert [event.step for event in sessions.events("run") if event.name == "eval"] == [10, 20]
    assert sessions.result("run") == sessions.result("straight")


@pytest.mark.parametrize("failing", [1, 3, 6])
def test_weights_are_themselves_again_where_memory_ran_out_while_the_averages_came(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    averages = Ema(model, 0.9)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(7.0)
    before = [{name: value.clone() for name, value in model.state_dict().items()}, averages.state_dict()["weights"]]
    before[1] = {name: value.clone() for name, value in before[1].items()}
    clone, num_clones = torch.Tensor.clone, 0

    def scarce(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal num_clones
        num_clones += 1
        if num_clones == failing:
            raise torch.OutOfMemoryError("the GPU is full")
        return clone(tensor)

    monkeypatch.setattr(torch.Tensor, "clone", scarce)
    with pytest.raises(torch.OutOfMemoryError), averages.in_place_of_weights():
        pass
    if failing > len(before[0]):  # it ran out on the way back: what is in the model belongs to no step
        with pytest.raises(AssertionError):
            averages.state_dict()
        return
    for saved, now in zip(before, (model.state_dict(), averages.state_dict()["weights"]), strict=True):
        assert all(torch.equal(value, now[name]) for name, value in saved.items())


def test_an_error_while_the_weights_change_saves_nothing(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.precision import Precision

    assert sessions.session("straight")[0] == 0
    real = Precision.update
    num_updates = 0

    def failing(precision: Precision, optimizer: torch.optim.Optimizer) -> None:
        nonlocal num_updates
        num_updates += 1
        real(precision, optimizer)
        if num_updates == 8:
            raise RuntimeError("the GPU fell off the bus")

    monkeypatch.setattr(Precision, "update", failing)
    assert sessions.session("run")[0] == 1
    found = sessions.events("run")
    assert found[-1].reason.endswith("not saved: it came while the weights were being updated")
    assert max(event.step for event in found if event.name == "checkpoint_saved") == 5
    monkeypatch.setattr(Precision, "update", real)
    assert sessions.session("run")[0] == 0
    assert sessions.result("run") == sessions.result("straight")


def test_an_error_within_a_save_is_told_and_does_not_hide(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.checkpoint.checkpointer import Checkpointer

    def failing(*_: object) -> None:
        raise TypeError("a state that cannot be saved")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", failing)
        patch.setattr(Checkpointer, "save_now", failing)
        assert sessions.session("run")[0] == 1
    [told] = [event for event in sessions.events("run") if event.name == "error"]
    assert (told.step, told.type) == (5, "TypeError")
    assert "could not save: TypeError: a state that cannot be saved" in sessions.events("run")[-1].reason


def test_too_little_time_for_the_emergency_save_is_told_before_it_is_tried(sessions: Sessions) -> None:
    from tests.trainer.test_trouble import Signals

    signals = Signals(lambda training: training.progress.step >= 12)
    code, _ = sessions.session("run", lambda _, loss: loss, "--grace_seconds", "0", signals=signals)
    assert code == 143
    [told, saved] = [event for event in sessions.events("run") if event.step == 12 and event.name != "step"][:2]
    assert (told.name, told.signal) == ("signal", "SIGTERM")
    assert told.action.startswith("saves and stops; emergency_missed: a save takes ")
    assert (saved.name, saved.kind) == ("checkpoint_saved", "emergency")
    code, _ = sessions.session("other", lambda _, loss: loss, signals=Signals(lambda one: one.progress.step >= 12))
    assert [event.action for event in sessions.events("other") if event.name == "signal"] == ["saves and stops"]
