"""The dialog of a plan, with plans of real directories: all that counts is on the first page, and nothing twice."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ckpt_tui.services.restore import Plan, carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from ckpt_tui.tui.dialogs.plan import PlanDialog, folder_words, title_of
from ckpt_tui.tui.widgets.words import Words
from tests.builders.screen_app import ScreenApp, seen, settled
from tests.tui import scenes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    parent = tmp_path_factory.mktemp("plans")
    before = Path.cwd()
    os.environ.setdefault("XDG_CACHE_HOME", str(parent / "cache"))
    os.chdir(parent)
    try:
        return str(scenes.crashed(parent).directory.resolve())
    finally:
        os.chdir(before)


async def page(plan: Plan, size: tuple[int, int], title: str = "") -> str:
    app = ScreenApp(PlanDialog(plan, title=title, folder=folder_words(plan.directory)))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        return " ".join(" ".join(seen(app)).replace("│", " ").split())


async def test_a_restore_says_what_is_wrong_what_takes_its_place_and_where_the_old_one_goes(run: str) -> None:
    plan = plan_restore(run)
    told = await page(plan, (80, 24))
    assert "Restore latest.pt" in told
    in_order = (
        "✖ latest.pt (step 3,300) is damaged: data/0 fails its checksum.",
        "✓ latest_backup.pt (step 3,250, valid) is copied to latest.pt.",
        "▸ Set aside in set_aside/1/, not deleted: the present latest.pt.",
        "↻ A resume then starts from best_model.pt, step 3,300",
        "u takes it back.",
        "Cancel Restore y yes n no Esc leave",
    )
    places = [told.find(words) for words in in_order]
    assert -1 not in places, told
    assert places == sorted(places)
    for words in ("is damaged", "is copied to", "set_aside/1/", "A resume then", "Needs"):
        assert told.count(words) == 1, words


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_rollback_past_many_says_first_what_it_costs_and_keeps_its_buttons(
    run: str, size: tuple[int, int]
) -> None:
    plan = plan_rollback(run, "1500")
    assert len(plan.steps) > 10
    told = await page(plan, size, "Roll back to step 1,500")
    for words in (
        "Roll back to step 1,500",
        "newer checkpoints set aside in set_aside/1/, not deleted: latest.pt,",
        "and 7 more.",
        "▲ Given up: 1,940 steps, ",
        "↻ A resume then starts from latest.pt, step 1,500.",
        "Cancel Roll back",
    ):
        assert words in told, (words, told)


async def test_on_40_by_12_few_names_are_told_and_all_are_below(run: str) -> None:
    plan = plan_rollback(run, "1500")
    told = await page(plan, (40, 12), "Roll back to step 1,500")
    assert "set aside in set_aside/1/: latest.pt, best_model.pt and 11 more." in told
    assert "Cancel Roll back" in told
    body = PlanDialog(plan).body(40).plain
    assert all(body.count(step.target) >= 1 for step in plan.steps)


async def test_undo_and_redo_have_their_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(scenes.crashed(tmp_path).directory)
    carry_out(plan_restore(run))
    plan = plan_undo(run)
    told = await page(plan, (80, 24))
    assert "Undo" in told
    assert "↻ Takes back the restore of" in told
    assert "Undo it" in told
    carry_out(plan)
    redo = plan_redo(run)
    told = await page(redo, (80, 24))
    assert title_of(redo) == "Redo"
    assert "Do it again" in told
    assert folder_words(run) == "set_aside/3/"


async def test_what_is_refused_can_only_be_closed() -> None:
    class Refused:
        act, directory, sentences, warnings = "restore", "/run", ("latest.pt is damaged.",), ()
        steps, bytes_needed, is_empty = (object(),), 0, False
        refusals = ("A training is running here.",)

    app = ScreenApp(PlanDialog(Refused()))  # type: ignore[arg-type]
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ A training is running here." in "\n".join(seen(app))
        await pilot.press("y")
        await settled(pilot)
        assert app.result is False


@pytest.mark.parametrize("size", [(40, 12), (80, 24)])
async def test_what_was_not_read_can_be_asked_to_be(run: str, size: tuple[int, int]) -> None:
    told = f"Not read, because untouched: latest.pt. `ckpt-tui undo '{run} b' --redo --recheck` reads it."
    plan = replace(plan_restore(run), unread=("latest.pt",), sentences=(told,))
    dialog = PlanDialog(plan)
    app = ScreenApp(dialog)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert "Read all (r)" in " ".join(seen(app))
        body = " ".join(str(dialog.query_one("#body_text", Words).content).split())
        assert "Not read, because untouched: latest.pt. r reads it." in body  # the command is for the shell
        await pilot.click("#again")
        await settled(pilot)
    assert (app.result, dialog.wants_all) == (False, True)
