"""What the keys of acts would do at a checkpoint, said before they are pressed; key, mouse, menu and palette alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.run.state import Phase
from ckpt_tui.services.catalog import Catalog
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.tui import row_acts
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.pick import PickDialog
from ckpt_tui.tui.palette import commands
from ckpt_tui.tui.row_acts import labels, restore_act, resume_act
from tests.builders.run_states import NOW, FixedMonitor, crashed, running
from tests.builders.screen_app import seen, seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


def entry(name: str, step: int | None, kind: str = "rolling", **fields: Any) -> CatalogEntry:
    known: dict[str, Any] = {"validity": "valid", "level": "resume", **fields}
    return CatalogEntry(
        name=name, path=f"/run/{name}", kind=kind, step=step, epoch=None, val_loss=None, size_bytes=10,
        saved_at=NOW - 9000 + (step or 0) / 10, **known,
    )  # fmt: skip


LATEST = entry("latest.pt", 9250, "latest")
BACKUP = entry("latest_backup.pt", 9000, "latest", backup_of="latest.pt", is_backup=True)
PREVIOUS = entry("best_model_previous.pt", 4000, "best", backup_of="best_model.pt", is_backup=True)
BEST = entry("best_model.pt", 6000, "best")
NEWEST = entry("rolling_step_009250.pt", 9250, resume_takes=True)
OLDER = entry("rolling_step_009000.pt", 9000)
LOST = entry("rolling_step_008000.pt", 8000, validity="damaged")
LEFT = entry("rolling_step_009500.pt", 9500, is_abandoned=True)
WEIGHTS = entry("best_model.safetensors", 6000, "best", is_weights_only=True)


def catalog_of(*entries: CatalogEntry) -> Catalog:
    takes = next((one.name for one in entries if one.resume_takes), None)
    return Catalog("/run", entries, 10, takes)


ALL = (LATEST, NEWEST, OLDER, BACKUP, BEST, PREVIOUS, LOST, LEFT, WEIGHTS)


@pytest.mark.parametrize(
    ("chosen", "words", "what", "target"),
    [
        (OLDER, "roll back to step 9,000", "rollback", "rolling_step_009000.pt"),
        (BEST, "roll back to step 6,000", "rollback", "best_model.pt"),
        (PREVIOUS, "put best_model_previous.pt in place of best_model.pt", "restore", "best_model_previous.pt"),
        (BACKUP, "put latest_backup.pt in place of latest.pt", "restore", "latest_backup.pt"),
        (LEFT, "go over to the branch of step 9,500", "rollback", "rolling_step_009500.pt"),
    ],
)
def test_at_a_row_it_is_that_checkpoint_which_is_meant(
    chosen: CatalogEntry, words: str, what: str, target: str
) -> None:
    act = restore_act(catalog_of(*ALL), chosen.name, is_chosen=True)
    assert (act.words, act.what, act.target, act.why_not) == (words, what, target, "")
    assert act.labels


@pytest.mark.parametrize(
    ("chosen", "why_not"),
    [
        (NEWEST, "Step 9,250 is the newest"),
        (LOST, "rolling_step_008000.pt is damaged and has no backup"),
        (WEIGHTS, "holds no state that a training resumes from"),
    ],
)
def test_what_cannot_be_done_says_why(chosen: CatalogEntry, why_not: str) -> None:
    assert why_not in restore_act(catalog_of(*ALL), chosen.name, is_chosen=True).why_not


def test_where_nobody_has_chosen_all_that_is_damaged_is_mended() -> None:
    damaged = replace(LATEST, validity="damaged")
    best = replace(BEST, validity="damaged")
    few = catalog_of(damaged, NEWEST, BACKUP)
    many = catalog_of(damaged, NEWEST, BACKUP, best, PREVIOUS)
    act = restore_act(few, damaged.name, is_chosen=False)
    assert (act.words, act.what, act.target) == ("restore latest.pt", "restore", "")
    assert restore_act(many, NEWEST.name, is_chosen=False).words == "restore 2 checkpoints"
    assert restore_act(many, best.name, is_chosen=True).target == "best_model.pt", "that one only"
    assert restore_act(few, NEWEST.name, is_chosen=True).words == "restore latest.pt", "nothing is newer than it"
    assert restore_act(catalog_of(), None, is_chosen=False).why_not


def test_a_resume_goes_by_the_row_that_was_chosen() -> None:
    catalog = catalog_of(*ALL)
    assert resume_act(catalog, OLDER.name, is_chosen=False).target == "auto"
    assert resume_act(catalog, OLDER.name, is_chosen=False).words == "resume from rolling 9,250"
    assert resume_act(catalog, NEWEST.name, is_chosen=True).target == "auto", "so a damaged latest.pt is set right too"
    assert resume_act(catalog, LOST.name, is_chosen=True).target == "auto"
    assert resume_act(catalog, WEIGHTS.name, is_chosen=True).target == "auto"
    chosen = resume_act(catalog, OLDER.name, is_chosen=True)
    assert (chosen.target, chosen.labels[0]) == (OLDER.name, "resume from 9,000")


def test_what_cannot_be_done_as_the_run_stands_is_not_offered() -> None:
    catalog = catalog_of(*ALL)
    restore, resume = restore_act(catalog, None, is_chosen=False), resume_act(catalog, None, is_chosen=False)
    assert labels(running(), restore, resume) == {"act.resume": (), "act.restore": ()}
    assert labels(running(phase=Phase.STALLED), restore, resume)["act.resume"] == ()
    over = labels(crashed(), restore, resume)
    assert over["act.stop"] == ()
    assert over["act.resume"] == ("resume",)
    assert labels(crashed(), restore, resume, is_supervised=True) == {"act.resume": (), "act.restore": ()}
    assert resume_act(catalog_of(), None, is_chosen=False).labels == (), "there is nothing to resume from"


def app_of(directory: Path, state: Any, **fields: Any) -> CkptTuiApp:
    app = CkptTuiApp(str(directory), monitor=FixedMonitor(state, str(directory)), interval_s=0.02, env=ENV, **fields)
    app.run_open.catalog_reader.stop()
    return app


class Heard:
    """What would be done."""

    def __init__(self, app: CkptTuiApp, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[Any, ...]] = []
        for name in ("restore", "rollback", "resume", "undo", "stop"):
            monkeypatch.setattr(app.acts, name, lambda *given, _name=name, **more: (_name, *given, *more.values()))
        monkeypatch.setattr(app.acts, "start", lambda act: self.told.append(act()))


async def test_the_last_line_the_banner_and_the_mouse_say_and_do_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(tmp_path, crashed())
    heard = Heard(app, monkeypatch)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        overview: Any = app.overview
        overview.show_catalog(catalog_of(replace(LATEST, validity="damaged"), NEWEST, OLDER, BACKUP))
        await until(pilot, lambda: "b restore latest.pt" in seen_text(app))
        assert seen(app)[-1].startswith(" r resume  b restore  i inspect")
        await pilot.press("b", "r")
        assert heard.told == [("restore", ()), ("resume", "auto", NEWEST.name)]

        overview.checkpoints.cursor = next(i for i, row in enumerate(overview.checkpoints.rows) if row.step == 9000)
        await until(pilot, lambda: "r resume from rolling 9,000 (valid)" in seen_text(app))
        name = overview.checkpoints.cursor_row.name
        assert name == OLDER.name
        assert seen(app)[-1].startswith(" r resume 9,000  b back to 9,000  i inspect  v validate  d diff  ? help")
        heard.told.clear()
        banner = next(y for y, text in enumerate(seen(app)) if "roll back to step 9,000" in text)
        await pilot.click(offset=(seen(app)[banner].index("roll back to"), banner))
        await pilot.click(offset=(seen(app)[banner].index("resume from"), banner))
        await until(pilot, lambda: len(heard.told) == 2)
        assert heard.told == [("rollback", name, "Roll back to step 9,000"), ("resume", name, name)]
        assert {"Roll back to step 9,000", "Resume from rolling 9,000"} <= {one.title for one in commands(app)}

        await pilot.resize_terminal(120, 40)
        await until(pilot, lambda: "r resume from 9,000  b roll back to 9,000" in seen(app)[-1])
        await pilot.resize_terminal(80, 24)
        heard.told.clear()
        line = next(y for y, text in enumerate(seen(app)) if text.startswith("> "))
        await pilot.click(offset=(5, line), button=3)
        await until(pilot, lambda: isinstance(app.screen, PickDialog) and "Roll back to step" in seen_text(app))
        assert "Resume from rolling 9,000" in seen_text(app)
        assert "What is in the checkpoint" in seen_text(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: len(heard.told) == 1)
        assert heard.told == [("rollback", name, "Roll back to step 9,000")]


async def test_what_cannot_be_done_is_said_on_the_last_line(tmp_path: Path) -> None:
    app = app_of(tmp_path, crashed())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        app.overview.show_catalog(catalog_of(NEWEST, OLDER))
        await pilot.press("b")
        await until(pilot, lambda: "Step 9,250 is the newest: go to an earlier one" in seen(app)[-1])


def test_every_act_has_words_without_control_characters() -> None:
    hostile = entry("\x1b]0;x\x07[/x].pt", 7, kind="\x1b[31m")
    catalog = catalog_of(NEWEST, hostile)
    for act in (restore_act(catalog, hostile.name, is_chosen=True), resume_act(catalog, hostile.name, is_chosen=True)):
        assert act.words.isprintable()
        assert all(one.isprintable() for one in act.labels)
    assert row_acts.mendable(catalog) == []
