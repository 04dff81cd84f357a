"""Settings that are changed for a resume: bad ones are a clear error before anything, each other one has its effect."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services.overrides import parse_assignments, typed
from ckpt_tui.services.resume import plan_resume
from tests.builders.run_directories import ARGS, run_directory, write_log
from tests.builders.trees import tree_of

RECORDED = {
    "lr": 6e-4, "max_steps": 1000, "ema": False, "schedule": "cosine", "betas": [0.9, 0.95], "warmup": None,
    "optim.wd": 0.1, "model.width": 4, "data.width": 5, "dropout": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("lr", "1e-4", ("lr", 1e-4)), ("--lr", "1e-4", ("lr", 1e-4)), ("LR", "0", ("lr", 0)),
        ("max-steps", "2e3", ("max_steps", 2000)), ("dropout", "0.1", ("dropout", 0.1)),
        ("ema", "true", ("ema", True)), ("ema", "0", ("ema", False)), ("schedule", "1", ("schedule", "1")),
        ("betas", "0.9,0.99", ("betas", [0.9, 0.99])), ("warmup", "5", ("warmup", 5)), ("warmup", "x", ("warmup", "x")),
        ("wd", "0.2", ("optim.wd", 0.2)), ("optim.wd", "0.2", ("optim.wd", 0.2)),
        ("data.width", "6",
        ("data.width", 6)),
        ("lr", "none", ("lr", None)),
    ],
)  # fmt: skip
def test_value_is_read_as_the_recorded_kind(key: str, text: str, expected: tuple[str, object]) -> None:
    wanted, said = typed({key: text}, RECORDED, is_own=True)
    assert wanted == dict([expected])
    assert said == []
    assert type(next(iter(wanted.values()))) is type(expected[1])


@pytest.mark.parametrize(
    ("key", "text", "title", "words"),
    [
        ("lr", "fast", "Not a number", "it was 0.0006"),
        ("lr", "", "Not a number", "it was 0.0006"),
        ("lr", "true", "Not a number", "it was 0.0006"),
        ("lr", "nan", "Out of range", "nan"), ("lr", "-1", "Out of range", "-1"), ("lr", "inf", "Out of range", "inf"),
        ("max_steps", "-5", "Out of range", "-5"),
        ("ema", "0.5", "Not true or false", "it was False"), ("ema", "maybe", "Not true or false", "maybe"),
        ("width", "6", "Several settings have that name", "model.width"),
        ("lrr", "1", "No such setting", "lrr"), ("schedule", "a\0b", "Not a value", "zero byte"),
        ("resume", "best", "Not a setting", "--resume"), ("out", "x", "Not a setting", "--out"),
    ],
)  # fmt: skip
def test_value_that_cannot_be_is_an_error(key: str, text: str, title: str, words: str) -> None:
    recorded = {**RECORDED, "resume": "", "out": "run"}
    with pytest.raises(CkptError) as caught:
        typed({key: text}, recorded, is_own=True)
    assert caught.value.title == title
    assert words in caught.value.message


def test_setting_of_another_script_may_be_new_and_that_is_said() -> None:
    wanted, said = typed({"--learning": "1", "max_stepz": "5"}, RECORDED, is_own=False)
    assert wanted == {"learning": 1, "max_stepz": 5}
    assert said[0] == "learning is not among the recorded settings: it is added."
    assert "Did you mean max_steps?" in said[1]


@pytest.mark.parametrize(
    ("texts", "words"),
    [(["lr"], "KEY=VALUE"), (["=1"], "KEY=VALUE"), (["--=1"], "KEY=VALUE"), (["lr=1", "lr=2"], "twice: 1 and 2"),
     (["max_steps=1", "--max-steps=2"], "twice")],
)  # fmt: skip
def test_assignments_that_make_no_sense_are_errors(texts: list[str], words: str) -> None:
    with pytest.raises(CkptError) as caught:
        parse_assignments(texts)
    assert words in caught.value.message


def test_assignments() -> None:
    assert parse_assignments(["lr=1", " seed =2", "note=a=b"]) == {"lr": "1", "seed": "2", "note": "a=b"}


def run_of_our_trainer(directory: Path) -> Path:
    run_directory(directory, log=False)
    settings = {**ARGS, "optimizer": "adamw", "n_head": 2, "schedule": "cosine", "resume": "", "out": directory.name}
    argv = [sys.executable, "-m", "trainer", "--out", directory.name, "--n_head", "2", "--n_embd", "4"]
    write_log(directory, last_step=437, argv=argv, config=settings)
    return directory


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("schedule=linear", "--schedule: invalid choice"),
        ("batch_size=0", "--batch_size 0: must be at least 1"),
        ("seed=-1", "--seed -1: must be at least 0"),
        ("lr=fast", "lr is fast; it was 0.0006"),
        ("n_layerz=2", "no setting n_layerz"),
    ],
)
def test_what_the_trainer_refuses_is_an_error_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], assignment: str, words: str
) -> None:
    directory = run_of_our_trainer(tmp_path / "run")
    before = tree_of(directory)
    for options in (["--dry-run"], ["--yes"], ["--yes", "--json"]):
        assert main(["resume", str(directory), "--set", assignment, *options]) == 2
        said = capsys.readouterr()
        assert words in (json.loads(said.out)["errors"][0]["message"] if "--json" in options else said.err)
    assert tree_of(directory) == before


@pytest.mark.parametrize(
    ("assignment", "effect"),
    [
        ("log_interval=5", "safe"), ("lr=1e-4", "changes the course"), ("seed=2", "breaks exactness"),
        ("n_embd=8", "impossible"), ("optimizer=sgd", "impossible"), ("n_layer=2", "impossible"),
    ],
)  # fmt: skip
def test_each_change_has_its_effect_and_what_is_impossible_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], assignment: str, effect: str
) -> None:
    directory = run_directory(tmp_path / "run", log=False)
    (tmp_path / "train.py").write_text('parser.add_argument("--resume")')
    config = {**ARGS, "optimizer": "adamw"}
    write_log(directory, last_step=437, argv=[sys.executable, "train.py"], config=config)
    code = main(["resume", str(directory), "--set", assignment, "--dry-run"])
    out = capsys.readouterr().out
    assert effect in out
    assert code == (1 if effect == "impossible" else 0)
    if effect == "impossible":
        before = tree_of(directory)
        assert main(["resume", str(directory), "--set", assignment, "--yes"]) == 2
        assert "is impossible" in capsys.readouterr().err
        assert tree_of(directory) == before


def test_trainer_that_cannot_be_asked_is_not_a_reason_to_refuse(tmp_path: Path) -> None:
    """An older one has no --check: it says itself what it refuses."""
    directory = run_of_our_trainer(tmp_path / "run")
    log = directory / "events.jsonl"
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho 'trainer: unknown flag --check.' >&2\nexit 2\n")
    stand_in.chmod(0o755)
    log.write_text(log.read_text().replace(sys.executable, str(stand_in)))
    assert plan_resume(str(directory), "auto", {"seed": "-1"}).refusals == ()
    stand_in.write_text("#!/bin/sh\necho 'trainer: --seed -1: must be at least 0' >&2\nexit 2\n")
    with pytest.raises(CkptError, match="must be at least 0"):
        plan_resume(str(directory), "auto", {"seed": "-1"})
