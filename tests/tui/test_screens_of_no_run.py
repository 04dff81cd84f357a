"""`inspect --screen` and `diff --screen`: one screen by itself, which ends like the command without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.commands.on_screen import run_app
from ckpt_tui.errors import CkptError
from ckpt_tui.tui.diff_app import DiffApp
from ckpt_tui.tui.inspect_app import InspectApp
from ckpt_tui.tui.screens.help import rows as help_rows
from tests.builders.safetensors_by_hand import write_safetensors
from tests.builders.screen_app import seen, seen_text, settled


async def test_the_screen_by_itself_for_a_checkpoint_of_no_run(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "w.safetensors", [1.0, 2.0])
    app = InspectApp(str(tmp_path / "w.safetensors"), env={"TERM": "xterm-256color", "LANG": "C.UTF-8"})
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "w.safetensors" in seen(app)[0]
        assert "q quit" in seen(app)[-1]
        await pilot.press("question_mark")
        await settled(pilot)
        assert "On the screen: Inspect a checkpoint" in seen_text(app)
        assert "roll back" not in str(list(help_rows(names=app.reachable_screens, behind="inspect")))
        await pilot.press("escape")
        await settled(pilot)
        assert app.is_running
        await pilot.press("escape")
    assert app.return_code == 0


async def test_a_file_that_does_not_open_is_an_error_of_the_command_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.pt").write_bytes(b"no checkpoint at all")
    app = InspectApp(str(tmp_path / "words.pt"), env={"TERM": "xterm-256color", "LANG": "C.UTF-8"})
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("q")
    monkeypatch.setattr(app, "run", lambda: None)  # it has been
    with pytest.raises(CkptError, match="words"):
        run_app(app)


@pytest.mark.parametrize("command", [["inspect", "gone.pt"], ["diff", "gone.pt", "gone too.pt"]])
def test_what_is_not_there_opens_no_screen(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert main([*command, "--screen"]) == 2
    assert "there is nothing at gone.pt" in capsys.readouterr().err


def test_the_screen_wants_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_safetensors(tmp_path / "w.safetensors", [1.0])
    assert main(["inspect", str(tmp_path / "w.safetensors"), "--screen"]) == 2
    assert "No terminal" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "w.safetensors"), "--screen", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["errors"][0]["title"] == "Usage"


async def test_the_screen_by_itself_for_two_checkpoints_of_no_run(tmp_path: Path) -> None:
    for name, last in (("a", 4.0), ("b", 5.0)):
        write_safetensors(tmp_path / f"{name}.safetensors", [1.0, 2.0, 3.0, last])
    paths = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    app = DiffApp(*paths, env={"TERM": "xterm-256color", "LANG": "C.UTF-8"})
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "1 of 1 tensor" in seen_text(app)
        await pilot.press("question_mark")
        await settled(pilot)
        shown = seen(app)
        assert "On the screen: Compare two checkpoints" in shown[1], "first the keys of the screen behind"
        assert any("Compare the other way round" in line for line in shown)
        assert not any("Inspect a checkpoint" in line for line in shown), "cannot be reached from here"
        await pilot.press("escape")
        await settled(pilot)
        await pilot.press("escape")
    assert app.return_code == 0


def test_the_comparison_wants_a_terminal_and_two_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a.pt", "b.pt", "--screen"]) == 2
    assert "No terminal" in capsys.readouterr().err
    for wrong in (["a.pt"], ["a.pt", "b.pt", "--json"], ["a.pt", "--set", "lr=1"]):
        assert main(["diff", *wrong, "--screen"]) == 2
        assert "two checkpoints" in "".join(capsys.readouterr())
