"""A monkey at the keyboard: any key, paste, click and size in any order ends nothing, writes nothing, traps nobody."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import OutOfBounds

from ckpt_tui.settings import Settings
from ckpt_tui.tui import keys
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.diff_app import DiffApp
from ckpt_tui.tui.inspect_app import InspectApp
from tests.tui import scenes

LEAVING = {"q", "ctrl+q"}
KEYS = sorted({key for table in keys.TABLES.values() for row in table for key in row.key.split(",")} - LEAVING)
# Those that lead somewhere, more often.
KEYS += [*"rbyni1x9", *["escape", "enter", "ctrl+p", "question_mark", "w", "m", "slash", "colon", "tab"] * 2]
PASTES = [
    "hello",
    "step 5\n6\n",
    "x" * 3000,
    "[/b]",
    "界" * 40,
    "-1",
    "1e400",
    "9" * 400,
    "q",
    "\n",
    "ü\u0301\u202e",
    "\\",
]
SIZES = [(80, 24), (40, 12), (10, 3), (1, 1), (300, 100), (20, 5), (2, 30), (100, 1), (120, 40)]
CHARACTERS = {"space": " ", "slash": "/", "colon": ":", "question_mark": "?", "plus": "+", "minus": "-"}
NUM_DEEDS = 60


def files(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()
    }


def opened(kind: str, scene: scenes.Scene, chance: random.Random) -> Any:
    settings = Settings(
        readonly=True, unicode=chance.choice([None, False]), theme=chance.choice(["auto", "light", "ansi"]),
        pins=chance.choice([(), ("lr", "no such metric")]),
    )  # fmt: skip
    paths = [str(path) for path in sorted(scene.directory.glob("*.pt"))]
    if kind == "inspect":
        return InspectApp(chance.choice(paths), settings=settings, env=scenes.ENV)
    if kind == "diff":
        return DiffApp(chance.choice(paths), chance.choice(paths), settings=settings, env=scenes.ENV)
    return CkptTuiApp(str(scene.directory), monitor=scene.monitor(), settings=settings, env=scenes.ENV)


async def do_something(app: Any, pilot: Any, chance: random.Random) -> None:
    kind, (width, height) = chance.random(), app.size
    if kind < 0.72:
        key = chance.choice(KEYS)
        if chance.random() < 0.5:
            await pilot.press(key)
        else:  # as fast as a terminal sends them
            app.post_message(events.Key(key, CHARACTERS.get(key, key if len(key) == 1 else None)))
    elif kind < 0.8:
        app.post_message(events.Paste(chance.choice(PASTES)))
    elif kind < 0.92:
        with contextlib.suppress(OutOfBounds):
            await pilot.click(offset=(chance.randrange(width), chance.randrange(height)), times=chance.choice([1, 2]))
    else:
        await pilot.resize_terminal(*chance.choice(SIZES))


@pytest.mark.parametrize(
    "seed", [1, 2, 38, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 40) if seed != 38)]
)
async def test_a_monkey_ends_and_changes_nothing(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    kind = ("crashed", "runs", "inspect", "running", "diff")[seed % 5]
    scene = {"runs": scenes.runs, "running": scenes.running}.get(kind, scenes.crashed)(tmp_path)
    scene.directory = scene.directory.resolve()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = files(scene.directory)
    with scene.process():
        app = opened(kind, scene, chance)
        async with app.run_test(size=(80, 24)) as pilot:
            for _ in range(NUM_DEEDS):
                if app._exit:  # Escape leaves the screen of a file
                    break
                await do_something(app, pilot, chance)
            await pilot.resize_terminal(80, 24)
            for _ in range(30):
                if not app._exit and len(app.screen_stack) > 1:
                    await pilot.press("escape")
            shown = [type(screen).__name__ for screen in app.screen_stack]
            assert app._exit or shown[-1] in ("OverviewScreen", "RunsScreen"), shown
    assert files(scene.directory) == before
