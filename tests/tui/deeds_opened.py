"""The viewer on a run with its list of deeds open, as a person comes to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.history import HistoryDialog
from tests.builders.run_states import FixedMonitor, crashed
from tests.builders.screen_app import seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


@asynccontextmanager
async def deeds_opened(run: str, told: str) -> AsyncIterator[tuple[CkptTuiApp, Pilot[Any]]]:
    """`run` crashed, and its list of deeds, whose title says `told`."""
    app = CkptTuiApp(run, monitor=FixedMonitor(crashed(), run), interval_s=0.02, env=ENV)
    app.run_open.catalog_reader.stop()
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        await pilot.press("U")
        await until(pilot, lambda: isinstance(app.screen, HistoryDialog) and told in seen_text(app))
        yield app, pilot
