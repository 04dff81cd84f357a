"""The overview in a person's hands: parts by key, focus to be seen, files that are gone, what acts say."""

from __future__ import annotations

from pathlib import Path

from ckpt_tui.run.state import BadLines, RunState
from ckpt_tui.services.catalog import Catalog
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.settings import Settings
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.screens.overview import OverviewScreen
from tests.builders.run_states import NOW, FixedMonitor, crashed, running, save
from tests.builders.screen_app import seen, seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


def app_of(state: RunState, directory: Path) -> CkptTuiApp:
    app = CkptTuiApp(str(directory), monitor=FixedMonitor(state, str(directory)), interval_s=0.02, env=ENV)
    app.run_open.catalog_reader.stop()  # the tests say what is there
    return app


def catalog_of(directory: Path, *steps: int) -> Catalog:
    entries = tuple(
        CatalogEntry(
            name=f"rolling_step_{step:06d}.pt", path=str(directory / f"rolling_step_{step:06d}.pt"), kind="rolling",
            step=step, epoch=None, val_loss=1.5, size_bytes=10, saved_at=NOW - 9000 + step, validity="valid",
            level="resume", resume_takes=step == max(steps),
        )
        for step in steps
    )  # fmt: skip
    return Catalog(str(directory), entries, 10 * len(steps))


def overview_of(app: CkptTuiApp) -> OverviewScreen:
    screen = app.screen_stack[0]
    assert isinstance(screen, OverviewScreen)
    return screen


async def test_on_a_low_screen_every_part_is_reached_by_one_key(tmp_path: Path) -> None:
    app = app_of(running(sessions=crashed().sessions), tmp_path)
    async with app.run_test(size=(40, 12)) as pilot:
        await until(pilot, lambda: "● running" in seen_text(app))
        overview = overview_of(app)
        overview.show_catalog(catalog_of(tmp_path, 300, 200))
        assert "┤" in seen_text(app)
        assert overview.check_action("inspect", ()) is False, "nobody acts on a list that is not to be seen"
        await pilot.press("t")
        await until(pilot, lambda: "checkpoints" in seen_text(app))
        assert overview.check_action("inspect", ()) is True
        assert app.focused is overview.checkpoints
        assert seen(app)[-1].split() == ["S", "stop", "t", "more", "?", "help", "q", "quit"]
        await pilot.press("t")
        await until(pilot, lambda: "saved rolling 300" in seen_text(app) or "rolling_step_000300" in seen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: "to step" in seen_text(app))
        assert "crashed" in seen_text(app)
        await pilot.press("t")
        await until(pilot, lambda: "┤" in seen_text(app))
        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "━ checkpoints" in seen_text(app) and "─ events" in seen_text(app))
        await pilot.press("tab")
        await until(pilot, lambda: "─ checkpoints" in seen_text(app) and "━ events" in seen_text(app))
        (tmp_path / "events.jsonl").write_text("")
        await pilot.press("enter")
        await until(pilot, lambda: type(app.screen).__name__ == "EventsScreen")


async def test_a_checkpoint_that_is_gone_is_said_to_be_and_the_words_go_with_the_next_key(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "● running" in seen_text(app))
        overview = overview_of(app)
        overview.show_catalog(catalog_of(tmp_path, 300, 200))
        for key in ("i", "v", "d"):
            await pilot.press(key)
            await until(pilot, lambda: ".pt is gone: the training has removed" in seen(app)[-1])
            assert app.screen is overview
            await pilot.press("down")
            await until(pilot, lambda: "is gone" not in seen_text(app))
            await pilot.press("up")
        app.acts._say("Restored latest.pt. u takes it back.")
        await until(pilot, lambda: seen(app)[-1].startswith(" Restored latest.pt. u takes it back."))


async def test_the_keys_that_are_told_are_the_persons_own(tmp_path: Path) -> None:
    state = running(bad_lines=BadLines(3, 81_220, "not JSON"))
    app = CkptTuiApp(
        str(tmp_path), monitor=FixedMonitor(state, str(tmp_path)), interval_s=0.02, env=ENV,
        settings=Settings(keymap={"view.bad_lines": "f5"}),
    )  # fmt: skip
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "3 bad lines, first at byte 81,220 (not JSON): press f5" in seen_text(app))


async def test_the_cursor_stays_on_its_checkpoint_and_the_rule_names_it(tmp_path: Path) -> None:
    app = app_of(running(saves=()), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "● running" in seen_text(app))
        overview = overview_of(app)
        overview.show_catalog(catalog_of(tmp_path, 300, 200, 100))
        await until(pilot, lambda: "3 · 30 B  rolling_step_000300.pt ─" in seen_text(app))
        await pilot.click("#checkpoints", offset=(5, 2))  # the rule is line 0
        await until(pilot, lambda: "rolling_step_000200.pt ─" in seen_text(app))
        overview.show_catalog(catalog_of(tmp_path, 400, 300, 200, 100))
        await until(pilot, lambda: "4 · 40 B  rolling_step_000200.pt ─" in seen_text(app))
        heights = [str(one.styles.height) for one in overview.query("*") if one.id]
        overview.show_state(running(saves=(save(410, NOW),), last_loss=float("nan"), step=411))
        await pilot.pause()
        assert [str(one.styles.height) for one in overview.query("*") if one.id] == heights, "no news, no jump"
