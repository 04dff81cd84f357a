"""`supervise --dry-run`: what would be started, from where, and what is refused, with nothing written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from tests.builders.frameworks import accelerate
from tests.builders.run_directories import damage, run_directory
from tests.builders.trees import tree_of

OWN = [sys.executable, "-m", "trainer", "--out"]


def planned(capsys: pytest.CaptureFixture[str], directory: Path, *command: str, code: int = 0) -> dict[str, object]:
    """The `data` of a dry run, which has changed nothing beside the directory or in it."""
    before = tree_of(directory.parent)
    options = [str(directory), "--dry-run", "--yes", "--json"]
    assert main(["supervise", *options, *(["--", *command] if command else [])]) == code
    assert tree_of(directory.parent) == before
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["data"]["done"] is False
    return dict(envelope["data"])


def test_it_goes_on_from_the_newest_valid_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "run"
    run_directory(directory)
    whole = planned(capsys, directory, *OWN, str(directory))
    assert whole["command"] == [*OWN, str(directory), "--resume", "auto"]
    assert whole["refusals"] == []
    damage(directory / str(whole["checkpoint"]))
    assert planned(capsys, directory, *OWN, str(directory))["checkpoint"] != whole["checkpoint"]


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(capsys, tmp_path / "new", *OWN, str(tmp_path / "new"))
    assert (plan["checkpoint"], plan["step"]) == (None, None)
    assert plan["sentences"][0] == "Starts from the beginning: the directory is made."  # type: ignore[index]


def test_what_would_be_refused_is_said_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "run"
    run_directory(directory)
    elsewhere = planned(capsys, directory, *OWN, str(tmp_path / "other"), code=1)
    assert "was to be supervised" in str(elsewhere["refusals"])
    unknown = planned(capsys, directory, sys.executable, "-c", "pass", code=1)
    assert "--as-is" in str(unknown["refusals"])
    for checkpoint in directory.glob("*.pt"):
        damage(checkpoint)
    nothing = planned(capsys, directory, *OWN, str(directory), code=1)
    assert "Nothing to resume from" in str(nothing["refusals"])


@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_nothing_is_kept_among_what_accelerate_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    place = tmp_path / "checkpoints"
    (place / "checkpoint_0").mkdir(parents=True)
    accelerate(place / "checkpoint_0")
    before = tree_of(tmp_path)
    assert main(["supervise", str(place), *options, "--", sys.executable, "-c", "pass"]) == 2
    assert "accelerate takes everything in" in capsys.readouterr().err
    assert tree_of(tmp_path) == before
