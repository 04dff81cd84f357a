"""The commands: what they ask, what they refuse, what they print. In process, on built directories."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services import demo
from tests.builders.run_directories import damage, let_age, run_directory, write_log
from tests.builders.trees import tree_of


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    directory = run_directory(tmp_path / "run", log=False)
    write_log(directory, last_step=437, argv=[sys.executable, "-m", "trainer", "--out", str(directory)])
    damage(directory / "latest.pt")
    let_age(directory / "latest.pt")
    return directory


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A person at a terminal who types one line."""

    def answer(line: str) -> None:
        typed = io.StringIO(line)
        typed.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", typed)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)

    return answer


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "no\n", "x\n", "yess\n"])
@pytest.mark.parametrize("command", [["restore"], ["rollback", "--to", "200"], ["resume"]])
def test_anything_but_yes_changes_nothing(
    damaged: Path, answering: Callable[[str], None], answer: str, command: list[str]
) -> None:
    before = tree_of(damaged)
    answering(answer)
    assert main([command[0], str(damaged), *command[1:]]) == 1
    assert tree_of(damaged) == before


def test_plan_is_read_before_the_question(
    damaged: Path, answering: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    answering("y\n")
    assert main(["restore", str(damaged)]) == 0
    said = capsys.readouterr()
    assert "rolling_step_000400.pt (step 400, valid) is copied to latest.pt." in said.err
    assert said.err.rstrip().endswith("Restore now? [y/N]")
    assert "restore done" in said.out
    assert main(["list", str(damaged), "--check", "full"]) == 0


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
@pytest.mark.parametrize("command", [["restore"], ["rollback", "--to", "200"], ["resume"]])
def test_without_a_terminal_and_without_yes_it_is_refused(
    damaged: Path, capsys: pytest.CaptureFixture[str], command: list[str], json_flag: list[str]
) -> None:
    before = tree_of(damaged)
    assert main([command[0], str(damaged), *command[1:], *json_flag]) == 2
    said = capsys.readouterr()
    assert "Not confirmed" in (said.out if json_flag else said.err)
    assert "--yes" in (said.out if json_flag else said.err)
    assert tree_of(damaged) == before


@pytest.mark.parametrize("command", [["restore"], ["rollback", "--to", "200"], ["undo"], ["resume"]])
def test_dry_run_changes_nothing_and_fits_80_columns(
    damaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    before = tree_of(damaged)
    assert main([command[0], str(damaged), *command[1:], "--dry-run", "--json"]) == 0
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["schema"], envelope["ok"]) == (f"ckpt-tui/{command[0]}/1", True)
    assert envelope["data"]["done"] is False
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main([command[0], str(damaged), *command[1:], "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # The command line of a resume stays whole: it is there to be copied.
    assert all(len(line) <= 80 for line in lines if "-m trainer" not in line), lines
    assert tree_of(damaged) == before


def test_list_has_what_scripts_were_promised(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(damaged), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert list(data["checkpoints"]) == ["latest", "rolling", "best"]
    assert {"name", "step", "epoch", "val_loss", "bytes", "saved_at", "validity"} <= set(data["checkpoints"]["best"][0])
    assert data["total_bytes"] > 0
    assert data["resume_would_take"] == "latest.pt"
    assert main(["list", str(damaged), "--check", "full", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["checkpoints"]["latest"][0]["validity"] == "damaged"
    assert data["resume_would_take"] == "rolling_step_000400.pt"


def test_list_fits_80_columns(
    damaged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (damaged / "latest_backup.pt").rename(damaged / "emergency_step_000300_20260101_101010.pt")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["list", str(damaged), "--check", "full"]) == 1
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith("latest.pt:")), out
    assert "▶  rolling_step_000400.pt" in out
    assert "✖ damaged" in out


@pytest.mark.parametrize("setting", ["lr", "=3", "--=3"])
def test_setting_that_is_none_is_a_usage_error(damaged: Path, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    assert main(["resume", str(damaged), f"--set={setting}", "--dry-run"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err


def test_refused_resume_says_why_and_dry_run_fails_too(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(damaged), "--set", "n_layer=9", "--yes"]) == 2
    assert "n_layer: 1 -> 9 is impossible" in capsys.readouterr().err
    assert main(["resume", str(damaged), "--set", "n_layer=9", "--dry-run"]) == 1


@pytest.mark.parametrize("command", [["list"], ["restore"], ["rollback", "--to", "1"], ["undo"], ["resume"], ["stop"]])
def test_place_that_is_not_there_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([command[0], str(tmp_path / "nowhere"), *command[1:]]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


class TestDemo:
    def test_without_torch_it_names_what_to_install(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = demo.importlib.util.find_spec
        monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
        assert main(["demo", "--dir", str(tmp_path / "demo"), "--no-watch"]) == 2
        assert "pip install 'ckpt-tui[trainer]'" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_directory_of_something_else_is_left_alone(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "thesis.txt").write_text("mine")
        before = tree_of(tmp_path)
        assert main(["demo", "--dir", str(tmp_path), "--no-watch"]) == 2
        assert "not empty" in capsys.readouterr().err
        assert tree_of(tmp_path) == before


@pytest.mark.parametrize("command", [["restore"], ["rollback", "--to", "400"]])
def test_how_far_a_source_was_checked_is_in_the_plan_for_scripts(
    damaged: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main([command[0], str(damaged), *command[1:], "--dry-run", "--json"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["data"]["sources"]
    assert (source["name"], source["step"], source["validity"]) == ("rolling_step_000400.pt", 400, "valid")
    assert source["levels"] == dict.fromkeys(("structure", "integrity", "numbers", "resume"), "pass")
