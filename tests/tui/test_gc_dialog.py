"""Freeing space from the screen: every file is told with why it goes or stays, and nothing goes unasked."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path

import pytest

from ckpt_tui.services.gc import GcFile, GcItem, GcPlan, collect, plan_gc
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.text import size as size_words
from ckpt_tui.tui.dialogs.gc import GcDialog, PickList
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen, seen_text, settled, until
from tests.builders.set_aside import going
from tests.builders.trees import tree_of
from tests.tui import scenes
from tests.tui.deeds_opened import deeds_opened


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Mended and rolled back: of what lies aside some has a copy, some is the only one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = str(scenes.crashed(tmp_path).directory.resolve())
    carry_out(plan_restore(directory))
    carry_out(plan_rollback(directory, "3000"))
    return directory


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (120, 40)])
async def test_every_file_is_told_with_its_size_and_why(run: str, size: tuple[int, int]) -> None:
    plan = plan_gc(run)
    dialog = GcDialog(plan)
    app = ScreenApp(dialog)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert "become free" in seen_text(app)
        rows = dialog.query_one(PickList).rows
        assert {row.place for row in rows} == {file.place for item in plan.items for file in item.files}
        for row in rows:
            words = str(dialog.body(100))
            assert words.index("This deletes, and cannot be undone") < words.index(row.heading)
            assert f"{row.name}, " in words
            assert f"{row.size} {'goes' if row.is_chosen else 'stays'}: {row.why}" in " ".join(words.split())
            await pilot.press("down")
            await until(pilot, lambda row=row: dialog.query_one(PickList).cursor_row is not row or row is rows[-1])


async def test_a_person_chooses_each_and_is_told_what_it_comes_to(run: str) -> None:
    plan = plan_gc(run)
    dialog = GcDialog(plan, lambda picked: plan_gc(run, picked=picked))
    app = ScreenApp(dialog)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        rows = dialog.query_one(PickList)
        place, only = (next(row for row in rows.rows if row.is_chosen == chosen) for chosen in (True, False))
        default = {path for item in plan.items for path in item.paths}
        for key, one, expected in (
            ("space", place, default - {place.place}), ("enter", only, default - {place.place} | {only.place}),
        ):  # fmt: skip
            rows.cursor = [row.place for row in rows.rows].index(one.place)
            await pilot.press(key)
            await until(pilot, lambda expected=expected: going(dialog.plan) == expected and not dialog._is_planning)
        await until(pilot, lambda: f"Free {size_words(dialog.plan.freed_bytes)}" in seen_text(app))
        await until(pilot, lambda: "you keep it" in seen_text(app))
        x, y = rows.region.offset
        index = next(index for index, row in enumerate(rows.rows) if row.place != rows.rows[rows.cursor].place)
        was = rows.rows[index].is_chosen
        await pilot.click(offset=(x + 3, y + index))
        await until(pilot, lambda: not dialog._is_planning and rows.rows[index].is_chosen != was)
        await pilot.press("y")
        await until(pilot, lambda: app.has_ended)
        assert app.result is True
    before = tree_of(Path(run))
    collect(dialog.plan)
    gone = set(before) - set(tree_of(Path(run)))
    assert {path for item in dialog.plan.items for path in item.paths} <= gone


async def test_nothing_chosen_and_what_is_refused_cannot_be_confirmed(run: str) -> None:
    for plan in (
        plan_gc(run, picked=()), replace(plan_gc(run, every=True), refusals=("No valid checkpoint would be left.",)),
    ):  # fmt: skip
        app = ScreenApp(GcDialog(plan, lambda picked: plan_gc(run, picked=picked)))
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press("y")
            await settled(pilot)
            assert not app.has_ended
            assert "Close" in seen_text(app)
            assert plan.is_empty or "✖ No valid checkpoint would be left." in seen_text(app)


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
async def test_leaving_changes_nothing_and_yes_frees_what_the_dialog_told(
    run: str, is_running: bool, request: pytest.FixtureRequest
) -> None:
    if is_running:  # it does not use what lies aside
        (Path(run) / "trainer.lock").write_text("{}")
        lock = open(Path(run) / "trainer.lock")  # noqa: SIM115 - held to the end of the test
        request.addfinalizer(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
    before = tree_of(Path(run))
    plan = plan_gc(run)
    async with deeds_opened(run, "2 deeds") as (app, pilot):
        await pilot.press("F")
        await until(pilot, lambda: isinstance(app.screen, GcDialog) and "y yes" in seen_text(app))
        await pilot.press("escape")
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
