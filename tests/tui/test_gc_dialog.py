"""Freeing space from the screen: every file is told with why it goes or stays, and nothing goes unasked."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.services.gc import GcFile, GcItem, GcPlan, plan_gc
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.gc import GcDialog
from ckpt_tui.tui.dialogs.history import HistoryDialog
from tests.builders.run_states import FixedMonitor, crashed
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen, seen_text, settled, until
from tests.builders.trees import tree_of
from tests.tui import scenes

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Mended and rolled back: of what lies aside some has a copy, some is the only one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = str(scenes.crashed(tmp_path).directory.resolve())
    carry_out(plan_restore(directory))
    carry_out(plan_rollback(directory, "3000"))
    return directory


def body_of(plan: GcPlan, width: int) -> list[str]:
    return str(GcDialog(plan).body(width)).splitlines()


@pytest.mark.parametrize("width", [29, 65, 83])
def test_every_file_is_told_with_its_size_and_why(run: str, width: int) -> None:
    plan = plan_gc(run)
    text = body_of(plan, width)
    words = " ".join(" ".join(text).split())
    assert all(len(one) < width for one in text)
    for item in plan.items:
        for file in item.files:
            assert file.name[-width // 3 :] in words
            assert ("goes" if file.is_chosen else "stays: ") in words
            why = f"copy: {file.copy}" if file.is_chosen and file.copy else file.why
            assert why.replace(" ", "") in words.replace(" ", "")  # a long name is broken where there is little room
    assert words.index("This deletes, and cannot be undone") < words.index("Then `undo`") < words.index("set_aside/1/")


def test_nothing_to_free_can_only_be_closed(run: str) -> None:
    plan = plan_gc(run, keep=9)
    assert plan.is_empty
    dialog: Any = GcDialog(plan)
    assert (dialog._yes_label, dialog._no_label) == ("", "Close")
    refused: Any = GcDialog(replace(plan_gc(run, every=True), refusals=("No valid checkpoint would be left.",)))
    assert refused._yes_label == ""
    assert "✖ No valid checkpoint would be left." in str(refused.body(65))


async def test_hostile_names_stay_text() -> None:
    name = "\x1b[2J[/x]‮.pt"
    file = GcFile(name, f"set_aside/1/{name}", 7, False, True, "has a copy", 5, "valid", f"[b]{name}")
    item = GcItem("deed", "set_aside/1/", 0.0, 7, 7, True, "", 1, "\x1b]0;x\x07", (file.place,), (file,))
    app = ScreenApp(GcDialog(GcPlan("/tmp/x", (item,), 7, ("Removes 1 file.",))))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert_nothing_hostile(app)
        assert "[/x]" in seen_text(app)


@pytest.mark.parametrize("is_running", [False, True])
async def test_enter_changes_nothing_and_yes_frees_what_the_dialog_told(
    run: str, is_running: bool, request: pytest.FixtureRequest
) -> None:
    if is_running:  # it does not use what lies aside
        (Path(run) / "trainer.lock").write_text("{}")
        lock = open(Path(run) / "trainer.lock")  # noqa: SIM115 - held to the end of the test
        request.addfinalizer(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
    before = tree_of(Path(run))
    plan = plan_gc(run)
    app = CkptTuiApp(run, monitor=FixedMonitor(crashed(), run), interval_s=0.02, env=ENV)
    app.run_open.catalog_reader.stop()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        await pilot.press("U")
        await until(pilot, lambda: isinstance(app.screen, HistoryDialog) and "2 deeds" in seen_text(app))
        await pilot.press("F")
        await until(pilot, lambda: isinstance(app.screen, GcDialog) and "y yes" in seen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: not app.screen.is_modal)
        assert tree_of(Path(run)) == before
        await until(pilot, lambda: not any(one.group == "act" and one.is_running for one in app.workers))
        await pilot.press("F")
        await until(pilot, lambda: isinstance(app.screen, GcDialog) and "y yes" in seen_text(app))
        await pilot.click("#yes")
        await until(pilot, lambda: "Freed " in seen(app)[-1])
    gone = {path for item in plan.items for path in item.paths}
    assert gone
    assert gone <= set(before) - set(tree_of(Path(run)))
    assert not set(before) - set(tree_of(Path(run))) - gone
