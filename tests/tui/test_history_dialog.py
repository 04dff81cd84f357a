"""The deeds of a run directory on the screen: what was done, and the way back and forth by key, with real files."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.tui.dialogs.history import HistoryDialog
from ckpt_tui.tui.dialogs.plan import PlanDialog
from tests.builders.screen_app import ScreenApp, seen, seen_text, settled, until
from tests.tui import scenes
from tests.tui.deeds_opened import deeds_opened


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return str(scenes.crashed(tmp_path).directory.resolve())


def digests(run: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(run).glob("*.pt")}


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (120, 40)])
async def test_deeds_are_told_newest_first_with_what_they_hold(run: str, size: tuple[int, int]) -> None:
    carry_out(plan_restore(run))
    carry_out(plan_rollback(run, "3000"))
    history = read_history(run)
    app = ScreenApp(HistoryDialog(history, history.deeds[-1].at + 5))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        text = seen_text(app)
        assert "2 deeds" in text
        assert text.index("rollback") < text.index("restore ")
        assert "✓ done" in text
        assert "u take it back" in seen(app)[-1]
        if size[0] >= 80:
            assert "F shows what could be freed of it" in text
            assert "files, " in text
        await pilot.press("r")
        assert not app.has_ended, "nothing was taken back yet"
        await pilot.press("down", "u")
        await settled(pilot)
        assert app.result == ("undo", 1)


@pytest.mark.parametrize("size", [(40, 12), (80, 24)])
async def test_an_interrupted_deed_is_not_told_as_one_that_was_done(run: str, size: tuple[int, int]) -> None:
    carry_out(plan_restore(run))
    history = read_history(run)
    broken_off = replace(
        history.deeds[-1], state="interrupted", why_not="it was interrupted: the next act cleans up",
        told=("Some names are changed, and some not.",),
    )  # fmt: skip
    app = ScreenApp(HistoryDialog(replace(history, deeds=(broken_off,)), broken_off.at + 5))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        text = seen_text(app)
        assert text.index("▲ it was interrupted") < text.index("What it was to do") < text.index("· ")
        assert text.count("▲ it was interrupted") == 1


async def test_nothing_was_done_is_said(run: str) -> None:
    app = ScreenApp(HistoryDialog(read_history(run), 0.0))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "Nothing was done here yet" in seen_text(app)
        await pilot.press("u", "r", "enter")
        assert not app.has_ended
        await pilot.press("escape")
        assert app.result is None


async def test_all_is_taken_back_and_done_again_from_the_screen(run: str) -> None:
    before = digests(run)
    carry_out(plan_restore(run))
    carry_out(plan_rollback(run, "3000"))
    after = digests(run)
    assert before != after
    async with deeds_opened(run, "2 deeds") as (app, pilot):
        await pilot.press("down", "enter")  # the older one, and so both
        await until(pilot, lambda: isinstance(app.screen, PlanDialog) and "Takes back the restore" in seen_text(app))
        assert "Takes back the rollback" in seen_text(app)
        assert "Read all (r)" in seen_text(app)
        await pilot.press("r")  # the same plan, with all read that it had not
        await until(pilot, lambda: isinstance(app.screen, PlanDialog) and app.screen.plan.unread == ())
        await until(pilot, lambda: "Takes back the rollback" in seen_text(app))
        assert "Read all" not in seen_text(app)
        await pilot.press("y")
        await until(pilot, lambda: "Undone. R does it again." in seen(app)[-1])
        assert digests(run) == before
        await pilot.press("R")
        await until(pilot, lambda: isinstance(app.screen, PlanDialog) and "Do it again" in seen_text(app))
        await pilot.press("y")
        await until(pilot, lambda: "Done again. u takes it back." in seen(app)[-1])
        assert digests(run) == after


async def test_hostile_words_stay_text(run: str) -> None:
    from dataclasses import replace

    carry_out(plan_restore(run))
    history = read_history(run)
    hostile = replace(history.deeds[0], act="\x1b]0;x\x07", told=("[/x]\x1b[2J‮",), why_not="[bold]\x00")
    dialog: Any = HistoryDialog(replace(history, deeds=(hostile,)), 0.0)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert all(text.isprintable() for text in seen(app))
        assert "[/x]\\x1b[2J" in seen_text(app)
