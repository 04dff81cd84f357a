"""`--readonly` and a page in a browser have no act: no key, no palette entry, no click, no word that offers one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.run.state import RunState
from ckpt_tui.tui import keys
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.pick import PickDialog
from ckpt_tui.tui.palette import commands
from ckpt_tui.tui.screens import help as help_screen
from tests.builders.run_states import FixedMonitor, crashed, running
from tests.builders.screen_app import seen, seen_text, until
from tests.tui.test_row_acts import BACKUP, LATEST, NEWEST, OLDER, catalog_of
from tests.tui.test_web import SERVED

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}
ACTS = [key for table in keys.TABLES.values() for key in table if key.is_act]
CATALOG = catalog_of(replace(LATEST, validity="damaged"), NEWEST, OLDER, BACKUP)


@pytest.mark.parametrize("env", [ENV, SERVED], ids=["readonly", "browser"])
@pytest.mark.parametrize("state", [crashed(), running()], ids=["crashed", "running"])
async def test_no_key_no_entry_and_no_click_acts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: RunState, env: Mapping[str, str]
) -> None:
    app = CkptTuiApp(
        str(tmp_path), monitor=FixedMonitor(state, str(tmp_path)), interval_s=0.02, env=env, readonly=env is ENV
    )
    app.run_open.catalog_reader.stop()
    reached: list[str] = []
    for name in ("start", "restore", "rollback", "resume", "undo", "redo", "history", "stop"):
        monkeypatch.setattr(app.acts, name, lambda *_, _name=name, **__: reached.append(_name))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: state.phase.value in seen_text(app))
        overview: Any = app.overview
        overview.show_catalog(CATALOG)
        await pilot.pause()

        bound = {one.binding.id for one in app.screen.active_bindings.values()}
        assert not bound & {key.id for key in ACTS}
        own = [key for key in keys.OVERVIEW_KEYS if key.is_act]
        assert {"act.resume", "act.restore", "act.undo", "act.redo", "act.history", "act.stop"} <= {k.id for k in own}
        for key in own:
            assert overview.check_action(key.action, ()) is False, key.id
            await pilot.press(*key.key.split(","))
        assert not any(f" {key.label}" in seen(app)[-1] for key in own)

        offered = list(commands(app))
        assert len(offered) > 20
        for one in offered:
            action = getattr(one.run, "args", ("",))[0]
            assert not (isinstance(action, str) and keys.is_act(action)), one.title
            assert not any(words in one.title.lower() for words in ("resume", "roll back", "restore", "undo", "deeds"))

        for key in own:  # as a click on the banner does, if it told of the key
            overview.press_told(keys.key_words(key.key))
        await pilot.pause()
        assert app.screen is overview
        assert "resume from" not in seen_text(app)

        line = next(y for y, text in enumerate(seen(app)) if text.startswith("> "))
        await pilot.click(offset=(5, line), button=3)
        await until(pilot, lambda: isinstance(app.screen, PickDialog))
        menu = seen_text(app).lower()
        assert "what is in the checkpoint" in menu
        assert "roll back to step" not in menu
        assert "resume from rolling" not in menu
        await pilot.press("escape")
    assert reached == []
    told = {row[:2] for row in help_screen.rows(readonly=True, names=tuple(keys.TABLES))}
    assert not told & {(keys.key_words(key.key), key.label) for key in own}


async def test_the_last_door_is_shut_too(tmp_path: Path) -> None:
    app = CkptTuiApp(
        str(tmp_path), monitor=FixedMonitor(crashed(), str(tmp_path)), interval_s=0.02, env=ENV, readonly=True
    )
    async with app.run_test(size=(80, 24)):
        app.acts.start(app.acts.undo)
        assert not any(worker.group == "act" for worker in app.workers)
