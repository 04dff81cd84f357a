"""`demo` and `resume` of trainings that die at once: exit code 1, the reason in a line, what was printed last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services import demo
from tests.builders.run_directories import run_directory, write_log

pytest.importorskip("torch")


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled trainer, with a setting that it refuses as soon as it reads it."""
    monkeypatch.setitem(demo.SETTINGS, "n_layer", -1)


@pytest.mark.usefixtures("refused")
def test_demo_whose_training_dies_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--dir", str(tmp_path / "demo"), "--no-watch", "--wait", "600"]) == 1
    said = capsys.readouterr()
    assert "error: The training ended at once: exit code 2 after" in said.err
    assert "--n_layer" in said.err
    assert f"All of its output is in {tmp_path / 'demo' / 'session_1.log'}." in said.err
    assert "trainer: " in said.out


@pytest.mark.usefixtures("refused")
def test_it_is_told_in_json_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--dir", str(tmp_path / "demo"), "--wait", "600", "--json"]) == 1
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["ok"], envelope["data"]["exit_code"], envelope["data"]["done"]) == (False, 2, False)
    assert "--n_layer" in envelope["data"]["reason"]
    assert envelope["errors"][0]["title"] == "The training ended at once"
    # The directory is not spoilt by it.
    assert main(["demo", "--dir", str(tmp_path / "demo"), "--wait", "600", "--json"]) == 1
    assert (tmp_path / "demo" / "session_1.log").read_text().count("ckpt-tui starts") == 2


def test_resume_of_a_program_that_is_gone_and_of_one_that_dies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run_directory(tmp_path / "run", log=False)
    write_log(directory, last_step=437, argv=["python", "train.py"])
    arguments = ["resume", str(directory), "--yes", "--json", "--wait", "600", "--command"]
    assert main([*arguments, "sh -c 'echo no CUDA >&2; exit 9' {checkpoint}"]) == 1
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["data"]["exit_code"], envelope["data"]["last_lines"]) == (9, ["no CUDA"])
    assert not (directory / "set_aside").exists()
    assert main([*arguments, "sh -c 'exit 0' {checkpoint}"]) == 0, "one that died keeps nobody away"
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["done"], data["stage"], data["exit_code"]) == (True, "ended", 0)


@pytest.mark.parametrize("seconds", ["x", "-1", "nan", "inf", "1e99"])
@pytest.mark.parametrize("command", [["stop", "DIR", "--timeout"], ["resume", "DIR", "--wait"], ["demo", "--wait"]])
def test_seconds_that_are_none_are_refused(
    command: list[str], seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, seconds]) == 2
    assert "is not a number of seconds" in capsys.readouterr().err
