"""A screen that closes itself closes nothing else, however often and however late it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Button

from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
from ckpt_tui.tui.dialogs.pick import PickDialog
from ckpt_tui.tui.screens.overview import OverviewScreen
from ckpt_tui.tui.widgets.virtual_list import VirtualList
from tests.builders.run_states import FixedMonitor, crashed
from tests.builders.screen_app import seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


def app_of(directory: Path) -> CkptTuiApp:
    app = CkptTuiApp(str(directory), monitor=FixedMonitor(crashed(), str(directory)), interval_s=0.02, env=ENV)
    app.run_open.catalog_reader.stop()
    return app


@pytest.mark.parametrize("name", ["confirm", "pick", "palette"])
async def test_two_answers_in_one_packet_are_one(tmp_path: Path, name: str) -> None:
    app, results = app_of(tmp_path), []
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        dialog: Any = {
            "confirm": ConfirmDialog("Roll back", ("x",), yes_label="Yes"),
            "pick": PickDialog("A", ["a"]),
        }.get(name)
        if dialog is None:
            app.action_command_palette()
            await until(pilot, lambda: type(app.screen).__name__ == "CommandPalette")
            await pilot.pause()
            dialog = app.screen
            answer = lambda: dialog.dismiss() and None  # noqa: E731 - not awaited
        else:
            app.push_screen(dialog, results.append)
            await pilot.pause()
            if name == "confirm":
                button = dialog.query_one("#yes", Button)
                answer = lambda: dialog.post_message(Button.Pressed(button))  # noqa: E731
            else:
                listed = dialog.query_one(VirtualList)
                answer = lambda: dialog.post_message(VirtualList.Selected(listed, 0))  # noqa: E731
        for _ in range(3):
            dialog.call_next(answer)
        await until(pilot, lambda: isinstance(app.screen, OverviewScreen))
        await pilot.pause()
        assert len(app.screen_stack) == 1
        assert results == ([] if name == "palette" else [True if name == "confirm" else 0])


async def test_a_dialog_under_another_closes_itself_and_not_the_other(tmp_path: Path) -> None:
    app, results = app_of(tmp_path), []
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        below, above = PickDialog("below", ["a"]), ConfirmDialog("above", ("x",))
        app.push_screen(below, results.append)
        app.push_screen(above, results.append)
        await pilot.pause()
        below.call_next(lambda: below.dismiss(0) and None)
        await until(pilot, lambda: results == [0])
        await pilot.pause()
        assert app.screen is above
        assert len(app.screen_stack) == 2
        await pilot.press("escape")
        assert isinstance(app.screen, OverviewScreen)
        assert results == [0, False]
