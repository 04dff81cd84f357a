"""Nothing blinks: a cursor that does would send bytes for ever while a person reads."""

from __future__ import annotations

import re
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

import ckpt_tui.tui
from ckpt_tui.tui.app import CkptTuiApp
from tests.tui import scenes
from tests.tui.test_snapshots import at_rest, drawing


def test_every_line_to_type_in_is_a_steady_one() -> None:
    for path in Path(ckpt_tui.tui.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if path.name != "steady_input.py":
            assert not re.search(r"(?<![\w.])(Input|TextArea|MaskedInput)\(|\(Input\):", text), path


async def test_the_cursor_of_the_metric_picker_stands_still(tmp_path: Path) -> None:
    scene = scenes.running(tmp_path)
    with scene.process():
        app = CkptTuiApp(str(scene.directory), monitor=scene.monitor(), interval_s=0.05, env=scenes.ENV)
        async with app.run_test(size=(80, 24)) as pilot:
            await at_rest(pilot)
            await pilot.press("m")
            await _stays(pilot, seconds=1.2)
            assert isinstance(app.focused, Input)


async def _stays(pilot: Pilot[None], seconds: float) -> None:
    await at_rest(pilot)
    before = drawing(pilot.app)
    for _ in range(int(seconds / 0.1)):
        await pilot.pause(0.1)
        assert drawing(pilot.app) == before
