"""What happened here: the way back says what the list says, also where the files were looked at meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.moment import MomentDialog
from tests.builders.screen_app import until
from tests.tui import scenes
from tests.tui.test_snapshots import at_rest, drawing


@pytest.mark.asyncio
async def test_a_dialog_that_was_there_first_says_valid_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("ckpt_tui.tui.run_session.FIRST_CATALOG_DELAY_S", 3600.0)
    scene = scenes.crashed(tmp_path)
    with scene.process():
        app = CkptTuiApp(str(scene.directory), monitor=scene.monitor(), interval_s=0.05, env=scenes.ENV)
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.state is not None and app.state.num_events > 0)
            assert app.catalog is None, "this test is of what comes before the files were looked at"
            await pilot.press("w")
            assert isinstance(app.screen, MomentDialog)
            app.run_open.catalog_reader.ask(full=True)  # as the app does a moment after its first picture
            await at_rest(pilot)
            said = drawing(app)
            assert "go back to  best 3,300  valid  140 steps before" in said
    # After it was checked whole the shell's list and moment say the same.
    assert main(["status", str(scene.directory), "--at", "3440"]) == 1
    assert "go back to  best 3,300  valid  140 steps before" in capsys.readouterr().out


def test_the_list_of_the_shell_calls_valid_only_what_was_checked_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scene = scenes.crashed(tmp_path)
    for check, word in (("structure", "structure"), ("full", "valid")):
        main(["list", str(scene.directory), "--check", check])
        row = next(line for line in capsys.readouterr().out.splitlines() if "rolling_step_003250.pt" in line)
        assert word in row
        assert ("valid" in row) == (check == "full")
