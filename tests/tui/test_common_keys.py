"""Keys that work on every screen: copy, picture, theme; a person's own keys; help and palette made from the table."""

from __future__ import annotations

import asyncio
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.settings import Settings
from ckpt_tui.tui import copying
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.copying import Copied, clipboard_text, said
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
from ckpt_tui.tui.palette import commands, commands_of_step
from ckpt_tui.tui.picture import save_picture
from ckpt_tui.tui.screens.help import HelpScreen, found_in
from ckpt_tui.tui.screens.help import rows as help_rows
from tests.builders.run_directories import torch_zip, training_state
from tests.builders.run_states import FixedMonitor, crashed, running
from tests.builders.screen_app import seen, seen_text, until

ENV = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
HOSTILE = "\x1b]0;owned\x07<script>&\u202e[/x]\ud800\ufffe"


def app_of(state: Any, directory: Path, **keywords: Any) -> CkptTuiApp:
    monitor: Any = FixedMonitor(state)
    monitor.directory = str(directory)
    return CkptTuiApp(str(directory), monitor=monitor, env=ENV, **keywords)


# -- copying -------------------------------------------------------------------------------------------------------


def test_what_goes_to_the_clipboard_is_visible_and_bounded() -> None:
    text = clipboard_text(Copied("line", f"first\n{HOSTILE}\ttab"))
    assert all(part.isprintable() for part in text.split("\n"))
    assert text.startswith("first\n\\x1b]0;owned\\x07<script>")
    long = Copied("line", "x" * 80_000)
    assert len(clipboard_text(long)) <= copying.MAX_CHARS
    assert "its first 50,000 characters" in said(long)
    assert len(said(long)) < 140
    assert said(Copied("path", "/a/b")) == "Copied the path: /a/b"


def test_tmux_is_handed_the_text(tmp_path: Path) -> None:
    script = tmp_path / "tmux"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\ncat > {tmp_path}/got\n')
    script.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{tmp_path}:{before}"
    try:
        assert copying.to_tmux("héllo", {"TMUX": "/tmp/x,1,0"})
        assert not copying.to_tmux("other", {})
    finally:
        os.environ["PATH"] = before
    assert (tmp_path / "got").read_text() == "héllo"
    assert (tmp_path / "said").read_text().split() == ["load-buffer", "-w", "-"]


async def test_c_copies_what_is_at_the_cursor(tmp_path: Path) -> None:
    (tmp_path / "rolling_step_000250.pt").write_bytes(torch_zip(training_state(250)))
    app = app_of(crashed(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.catalog is not None and "rolling" in seen_text(app))
        await pilot.press("c")
        await pilot.pause()
        assert app.clipboard.startswith(str(tmp_path))
        assert "Copied the path" in seen(app)[-1]
        await pilot.press("left")
        assert "Copied the path" not in seen(app)[-1], "the next key brings the keys back"
        await pilot.press("c")
        assert app.clipboard.startswith("step ")
        await pilot.press("question_mark")
        await pilot.pause()
        await pilot.press("c")
        assert app.clipboard.startswith("r  resume  Relaunch from the newest valid")


# -- pictures ------------------------------------------------------------------------------------------------------


async def test_a_picture_lies_where_the_person_is_and_never_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cwd = tmp_path / "run", tmp_path / "here"
    run.mkdir()
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    app = app_of(running(name=HOSTILE), run)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: "script" in seen_text(app))
        await pilot.press("P", "P")
        await until(pilot, lambda: "ckpt-tui-overview-2.svg" in seen(app)[-1])
    assert sorted(os.listdir(cwd)) == ["ckpt-tui-overview-1.svg", "ckpt-tui-overview-2.svg"]
    assert os.listdir(run) == []
    text = (cwd / "ckpt-tui-overview-1.svg").read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg", "style", "defs", "clipPath", "rect", "text", "g", "circle",
    }  # fmt: skip
    assert "owned" in text
    assert "url(http" not in text.replace('"', ""), "nothing is fetched when somebody looks at it"


def test_a_picture_goes_elsewhere_when_the_person_is_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, home = tmp_path / "run", tmp_path / "home"
    (run / "deep").mkdir(parents=True)
    home.mkdir()
    monkeypatch.chdir(run / "deep")
    monkeypatch.setenv("HOME", str(home))
    assert save_picture("<svg/>", "overview", str(run)) == str(home / "ckpt-tui-overview-1.svg")
    monkeypatch.setenv("HOME", str(run))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(run))
    with pytest.raises(CkptError, match="the run's own directory"):
        save_picture("<svg/>", "overview", str(run))
    assert os.listdir(run) == ["deep"]


def test_a_picture_is_never_written_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ckpt-tui-x-1.svg").symlink_to(tmp_path / "precious")
    assert save_picture("<svg/>", "x", None).endswith("ckpt-tui-x-2.svg")
    assert not (tmp_path / "precious").exists()


def test_half_a_picture_is_not_left_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CkptError, match="File too large"):
            save_picture("x" * 100_000, "overview", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


# -- a person's own keys -------------------------------------------------------------------------------------------


async def test_remapped_keys_work_and_footer_help_and_palette_say_them(tmp_path: Path) -> None:
    settings = Settings(keymap={"app.help": "f1", "view.events": "x", "chart.axis": "e", "app.quit": "Q"})
    app = app_of(running(), tmp_path, settings=settings)
    async with app.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: "x events" in seen(app)[-1])
        assert "f1 help" in seen(app)[-1]
        assert "Q quit" in seen(app)[-1]
        titles = {command.title: command.words for command in commands(app)}
        assert titles["View: events"].endswith("(x)")
        await pilot.press("question_mark")
        await pilot.pause()
        assert not isinstance(app.screen, HelpScreen), "the old key is free"
        await pilot.press("f1")
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("slash", *"raw events")
        await pilot.pause()
        assert "x            events" in seen_text(app)
        assert "2 keys with: raw events" in seen(app)[0]
        await pilot.press("escape", "escape")
        await pilot.pause()
        assert not isinstance(app.screen, HelpScreen)


# -- help ----------------------------------------------------------------------------------------------------------


def test_help_begins_with_where_a_person_is() -> None:
    here = help_rows(behind="events")
    assert here[0][2] == "On the screen: Raw events"
    assert ("/", "filter", "Only lines that hold these words; Esc clears") in here[:12]
    assert sum(row[2] == "On the screen: Raw events" for row in here) == 1
    assert ("r", "resume", "Relaunch from the newest valid, or from this") not in help_rows(True)


def test_help_finds_words_under_their_headings() -> None:
    rows = help_rows()
    found = found_in(rows, "LOG y")
    assert [row for row in found if row[1] == "log y"]
    assert found[0][2] == "Chart"
    assert found_in(rows, "no such words") == []
    assert found_in(rows, "  ") == rows


# -- palette -------------------------------------------------------------------------------------------------------


async def test_the_palette_has_actions_checkpoints_and_steps_on_every_screen(tmp_path: Path) -> None:
    (tmp_path / "rolling_step_000250.pt").write_bytes(torch_zip(training_state(250)))
    app = app_of(crashed(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.catalog is not None and bool(app.checkpoint_names()))
        titles = [command.title for command in commands(app)]
        assert {"Resume from rolling 250", "Acts: undo"} <= set(titles), "by the name of what it is done to"
        assert not {"Acts: stop", "Acts: roll back"} & set(titles), "nothing is running, nothing is newer"
        assert "Inspect rolling_step_000250.pt" in titles
        assert "App: theme" in titles
        assert any("its events" in command.title for command in commands_of_step(app, 250))
        on_curves = next(command for command in commands_of_step(app, 250) if "on the curves" in command.title)
        on_curves.run()
        await until(pilot, lambda: "step 250" in seen_text(app))

        await pilot.press("e")
        await pilot.pause()
        elsewhere = [command.title for command in commands(app)]
        assert elsewhere[0] == "Lines: filter"
        assert {"View: output", "Resume from rolling 250", "Inspect rolling_step_000250.pt"} <= set(elsewhere)
        assert "Acts: roll back" not in elsewhere, "nobody shall act on a list that is not to be seen"

        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press(*"250")
        await until(pilot, lambda: "Step 250: its events" in seen_text(app))


# -- mouse ---------------------------------------------------------------------------------------------------------


async def test_the_mouse_presses_keys_of_the_last_line_and_chooses_rows(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "? help" in seen(app)[-1])
        await pilot.click(offset=(seen(app)[-1].index("help"), 23))
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen)
        await pilot.click(offset=(10, 4))
        assert seen(app)[4].startswith("> ")
        await pilot.click(offset=(seen(app)[-1].index("back"), 23))
        await pilot.pause()
        assert not isinstance(app.screen, HelpScreen)


async def test_the_palette_holds_any_key_where_it_has_no_room(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(1, 1)) as pilot:
        await pilot.press("ctrl+p")
        await pilot.pause()
        await pilot.press("s", "down", "pagedown", "pageup", "end", "home", "up", "tab")
        await pilot.press("escape")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "? help" in seen(app)[-1])


@pytest.mark.parametrize("key", ["A", "a", "e", "i", "v", "d", "question_mark", "m", "w", "o", "C", "ctrl+p"])
async def test_leaving_while_a_screen_opens_is_no_failure(tmp_path: Path, key: str) -> None:
    (tmp_path / "rolling_step_000250.pt").write_bytes(torch_zip(training_state(250)))
    app = app_of(crashed(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.catalog is not None and "rolling" in seen_text(app))
        app.simulate_key(key)
        for _ in range(5):
            await asyncio.sleep(0)
            if len(app.screen_stack) > 1:
                break
        app.exit()
    assert app.return_code == 0


@pytest.mark.parametrize("name", ["plan", "moment", "pick", "error"])
async def test_the_common_keys_work_on_dialogs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from ckpt_tui.tui.dialogs.pick import PickDialog

    monkeypatch.chdir(tmp_path)
    app = app_of(crashed(), tmp_path / "run", settings=Settings(keymap={"app.picture": "f4"}))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "? help" in seen(app)[-1])
        if name == "plan":
            app.push_screen(ConfirmDialog("Roll back", ("latest.pt is put aside.",), yes_label="Roll back"))
        elif name == "moment":
            app.overview.go_to_step(app.state.step if app.state else 0)
            await pilot.press("w")
        elif name == "pick":
            app.push_screen(PickDialog("Which", ["one", "two"]))
        else:
            app.show_error(CkptError("Gone", "nothing there", "look elsewhere"))
        await pilot.pause()
        dialog = app.screen
        assert dialog.is_modal

        await pilot.press("c")
        await pilot.pause()
        said = {"plan": "latest.pt is put aside.", "moment": "tep ", "pick": "one", "error": "nothing there"}
        assert said[name] in app.clipboard

        await pilot.press("T")
        await pilot.pause()
        assert app.look.palette == "light"

        await pilot.press("P")
        assert not list(tmp_path.glob("*.svg")), "a person's own key holds here, too"
        await pilot.press("f4")
        await pilot.pause()
        assert len(list(tmp_path.glob("*.svg"))) == 1

        await pilot.press("question_mark")
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen)
        assert seen(app)[1].strip() == "On the screen: " + type(dialog).__name__.removesuffix("Dialog")
        assert seen_text(app).count("The next theme") <= 1
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is dialog

        await pilot.press("ctrl+c", "ctrl+c")
    assert app.return_code == 130
