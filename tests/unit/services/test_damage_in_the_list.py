"""The list of runs and `compare` know of damage that validation found, and of files that the log does not tell of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.run.state import Phase
from ckpt_tui.services import catalog, known_files
from ckpt_tui.services.damage import read_judged_run
from ckpt_tui.services.runs import RunSummary, RunsWatch, read_runs
from tests.builders.run_directories import damage as damage_file
from tests.builders.run_directories import let_age, run_directory

NEWEST = ("latest.pt", "rolling_step_000400.pt", "rolling_last_backup.pt")


def crashed_run(directory: Path) -> Path:
    """Its newest three files are damaged; the newest that is good is of step 300, of 437 trained."""
    directory.mkdir()
    run_directory(directory)
    for name in NEWEST:
        damage_file(directory / name)
    for path in directory.glob("*.pt"):
        let_age(path)
    return directory


def only_run(root: Path) -> RunSummary:
    (summary,) = read_runs(str(root)).runs
    return summary


class Ticks:
    """A clock that is moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_list_counts_what_is_lost_from_what_is_known_to_be_good(tmp_path: Path) -> None:
    directory = crashed_run(tmp_path / "run")
    before = only_run(tmp_path)
    assert (before.phase, before.at_risk_steps, before.damaged) == (Phase.CRASHED, 37, ())
    state, _ = read_judged_run(str(directory))
    after = only_run(tmp_path)
    assert state.at_risk is not None
    assert after.at_risk_steps == state.at_risk.steps == 137
    assert set(after.damaged) <= set(NEWEST)
    assert "latest.pt" in after.damaged


def test_what_is_validated_while_the_list_is_watched_comes_into_it(tmp_path: Path) -> None:
    directory = crashed_run(tmp_path / "run")
    ticks = Ticks()
    watch = RunsWatch(str(tmp_path), ticks=ticks)
    while not watch.is_caught_up:
        watch.poll(5.0)
    assert watch.poll(5.0).runs[0].at_risk_steps == 37
    read_judged_run(str(directory))
    ticks.now += 10.0
    assert watch.poll(5.0).runs[0].at_risk_steps == 137
    assert "latest.pt" in watch.poll(5.0).runs[0].damaged


def test_a_file_that_was_mended_since_is_not_called_bad(tmp_path: Path) -> None:
    directory = crashed_run(tmp_path / "run")
    whole = (directory / "rolling_step_000300.pt").read_bytes()
    read_judged_run(str(directory))
    for name in NEWEST:
        (directory / name).write_bytes(whole)
        let_age(directory / name)
    assert only_run(tmp_path).damaged == ()


def test_runs_without_damage_cost_no_look_at_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    run_directory(tmp_path / "run")
    monkeypatch.setattr(catalog, "read_catalog", lambda *_, **__: pytest.fail("looked at files"))
    assert only_run(tmp_path).at_risk_steps == 37


def test_files_that_the_log_does_not_tell_of_are_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another trainer, whose log tells of losses only."""
    directory = tmp_path / "run"
    directory.mkdir()
    run_directory(directory)
    log = directory / "events.jsonl"
    log.write_bytes(b"".join(line for line in log.read_bytes().splitlines(True) if b"checkpoint_saved" not in line))
    assert only_run(tmp_path).at_risk_steps == 37
    monkeypatch.setattr(known_files, "read_known_files", lambda *_: pytest.fail("looked again"))
    assert only_run(tmp_path).at_risk_steps == 37


def test_the_plain_list_and_compare_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = crashed_run(tmp_path / "a"), crashed_run(tmp_path / "b")
    read_judged_run(str(first))
    assert main(["status", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "a: latest.pt" in printed
    assert "known to be bad." in printed
    assert "b: " not in printed
    assert main(["compare", str(first), str(second), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["data"]["runs"]
    assert [one["lost"]["steps"] for one in runs] == [137, 37]
    assert [bool(one["damaged"]) for one in runs] == [True, False]
