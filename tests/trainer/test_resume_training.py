"""A real training resumed in one process: what is said and logged, and what is refused with nothing changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Best, Event, RunStart
from ckpt_tui.services.restore import carry_out, plan_restore
from tests.builders.training import corpus_in, tiny_training
from trainer.checkpoint.state import fingerprint, load
from trainer.errors import UsageError
from trainer.loop import Training
from trainer.model import GPT

Make = Callable[..., Training]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    corpus = corpus_in(tmp_path)

    def made(*options: str, out: str = "run", data: Path = corpus) -> Training:
        return tiny_training(tmp_path / out, data, "--sync_saves", "--print_seconds", "0", *options)

    return made


def starts(training: Training) -> list[RunStart]:
    lines = Path(training.directory, "events.jsonl").read_bytes().splitlines()
    return [event for line in lines if isinstance(event := decode(line), RunStart)]


def events(training: Training) -> list[Event]:
    lines = Path(training.directory, "events.jsonl").read_bytes().splitlines()
    return [event for line in lines if isinstance(event := decode(line), Event)]


def test_the_same_place_and_settings_are_exact_and_said_to_be(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    training = make()
    assert training.run() == 0
    resumed = make("--resume", "rolling_step_000010.pt")
    assert "resumed from step 10 (rolling_step_000010.pt), exactly" in capsys.readouterr().out
    [_, start] = starts(resumed)
    assert start.resumed_from == {
        "path": "rolling_step_000010.pt", "digest": start.resumed_from["digest"], "step": 10,
        "wanted": "rolling_step_000010.pt", "is_exact": True, "differences": [],
    }  # fmt: skip
    assert [segment["start_step"] for segment in start.lineage] == [0, 10]
    whole = fingerprint(load(os.path.join(training.directory, "latest.pt")))
    assert resumed.run() == 0
    assert fingerprint(load(os.path.join(training.directory, "latest.pt"))) == whole


def test_another_torch_and_another_machine_are_named(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make().run()
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    monkeypatch.setattr("trainer.checkpoint.environment._cpu_name", lambda: "Abacus 3000")
    resumed = make("--resume", "auto", "--max_steps", "21")
    told = capsys.readouterr().out
    assert "; the resume may differ in the last bits: " in told
    assert " -> 9.9.9" in told
    assert "-> Abacus 3000" in told
    assert "exactly" not in told
    assert starts(resumed)[-1].resumed_from["is_exact"] is False


def test_other_data_are_named_and_moved_ones_are_not(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make().run()
    moved = tmp_path / "moved.txt"
    moved.write_text("to be or not to be, " * 300)
    make("--resume", "auto", data=moved)
    assert "exactly" in capsys.readouterr().out
    moved.write_text("to do or not to do, " * 300)
    make("--resume", "auto", data=moved)
    told = capsys.readouterr().out
    assert "changed --data " in told
    assert "breaks exactness" in told
    assert "with other --data" in told


def test_a_model_of_other_keys_is_refused_with_nothing_changed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make()
    training.run()
    before = {path.name: path.read_bytes() for path in Path(training.directory).iterdir() if path.suffix == ".pt"}
    log = Path(training.directory, "events.jsonl").read_bytes()
    real = GPT.__init__

    def other(model: GPT, config: object) -> None:
        real(model, config)  # type: ignore[arg-type]
        model.extra = torch.nn.Linear(2, 2)

    monkeypatch.setattr(GPT, "__init__", other)
    with pytest.raises(UsageError, match=r"the checkpoint lacks extra\.weight, extra\.bias of the model") as error:
        make("--resume", "auto")
    assert "Resume with the settings it was trained with" in str(error.value)
    after = {path.name: path.read_bytes() for path in Path(training.directory).iterdir() if path.suffix == ".pt"}
    assert after == before
    assert Path(training.directory, "events.jsonl").read_bytes() == log


def test_another_metric_begins_its_best_anew(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make().run()
    resumed = make("--resume", "auto", "--monitor", "train_loss", "--max_steps", "30")
    assert resumed.progress.best is None
    assert "the best so far is of another metric" in capsys.readouterr().out
    assert resumed.run() == 0
    assert resumed.progress.best is not None


def test_a_rejected_one_is_in_the_log_and_its_events_come_after_the_start(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    training = make()
    training.run()
    with open(os.path.join(training.directory, "latest.pt"), "r+b") as file:
        file.truncate(1000)
    resumed = make("--resume", "auto")
    told = capsys.readouterr().out
    assert "rejected latest.pt: it is not a whole zip file" in told
    moved = [event.path for event in events(resumed) if event.name == "checkpoint_quarantined"]
    # Every name that shares those bytes; the independent copy of the best is what it goes on from.
    assert moved == ["latest.pt", "rolling_step_000020.pt", "best_model.pt"]
    assert "resumed from step 20 (rolling_last_backup.pt), exactly" in told
    second = [event.name for event in events(resumed) if event.session == 2]
    assert second[0] == "run_start"
    start = starts(resumed)[-1]
    assert start.rejected[0]["path"] == "latest.pt"
    assert start.rejected[0]["damage"] == "cut"


def test_what_was_finished_elsewhere_is_saved_here_before_it_counts_as_finished(make: Make, tmp_path: Path) -> None:
    assert make(out="other").run() == 0
    other = tmp_path / "other" / "latest.pt"
    training = make("--resume", str(other))
    assert training.run() == 0
    assert fingerprint(load(os.path.join(training.directory, "latest.pt"))) == fingerprint(load(str(other)))


def test_a_lucky_best_that_was_taken_back_is_no_longer_in_the_way_of_real_ones(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {10: 3.0, 20: 0.5, 30: 2.5, 40: 2.7}
    monkeypatch.setattr(
        "trainer.loop.evaluate", lambda stepper, *_: {"val_loss": scores[training.progress.step]}
    )  # fmt: skip
    training = make()
    assert training.run() == 0
    directory = Path(training.directory)
    carry_out(plan_restore(str(directory), ["best_model_previous.pt"]))
    registry = json.loads((directory / "registry.json").read_bytes())
    assert registry["best"] == {"metric": "val_loss", "mode": "min", "value": 3.0}

    training = make("--resume", "auto", "--max_steps", "30")
    assert "the best so far is 3 again" in capsys.readouterr().out
    assert training.run() == 0
    assert load(str(directory / "best_model.pt"))["step"] == 30
    assert load(str(directory / "best_model_previous.pt"))["step"] == 10
    # Also from one that was saved before it was taken back, which still says 0.5; and 2.7 is no better than 2.5.
    training = make("--resume", "rolling_step_000020.pt", "--max_steps", "30")
    assert training.progress.best == 3.0
    training = make("--resume", "rolling_step_000030.pt", "--max_steps", "40")
    assert training.progress.best == 2.5
    assert training.run() == 0
    bests = [(event.step, event.value, event.previous) for event in events(training) if isinstance(event, Best)]
    assert bests == [(10, 3.0, None), (20, 0.5, 3.0), (30, 2.5, 3.0)]
    # The same once more in earnest: it counts.
    scores[30] = 0.5
    training = make("--resume", "rolling_step_000020.pt", "--max_steps", "30")
    assert training.run() == 0
    assert make("--resume", "rolling_step_000030.pt").progress.best == 0.5
