"""What every screen looks like at three sizes: text and styles, kept as text in `snapshots/`.

`CKPT_TUI_SNAPSHOTS=write python -m pytest tests/tui/test_snapshots.py` writes them anew; then look at the difference.
A screen that is new in `SCREENS` fails here until it is given a way to it.
"""

from __future__ import annotations

import os
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

from ckpt_tui.tui.app import SCREENS, CkptTuiApp
from tests.builders.screen_app import is_at_work
from tests.tui import scenes

SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = ((80, 24), (120, 40), (200, 60))
WRITES = os.environ.get("CKPT_TUI_SNAPSHOTS") == "write"

# What is drawn: the scene, and the keys that lead to it from the first screen.
PICTURES: dict[str, tuple[Callable[[Path], scenes.Scene], tuple[str, ...]]] = {
    "overview": (scenes.running, ()),
    "overview-crashed": (scenes.crashed, ()),
    "inspect": (scenes.running, ("i",)),
    "validate": (scenes.running, ("v",)),
    "diff": (scenes.running, ("d",)),
    "events": (scenes.running, ("e",)),
    "help": (scenes.running, ("question_mark",)),
    "runs": (scenes.runs, ()),
    "compare": (scenes.runs, ("space", "down", "space", "C")),
    "alerts": (scenes.crashed, ("a",)),
    "advice": (scenes.running, ("A",)),
    "dialog-resume": (scenes.crashed, ("r",)),
    "dialog-resume-typed": (scenes.crashed, ("r", "e", "8")),
    "dialog-restore": (scenes.crashed, ("b",)),
    "dialog-rollback": (scenes.crashed, (*["down"] * 7, "b")),
    "dialog-deeds": (scenes.crashed, ("U",)),
}
# `log` shows a file that this scene has not; its own tests draw it.
NOT_HERE = {"log"}
# These at 40x12, too.
SMALL = (
    "overview", "overview-crashed", "runs", "help", "dialog-resume", "dialog-resume-typed", "dialog-restore",
    "dialog-rollback", "dialog-deeds",
)  # fmt: skip


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    monkeypatch.chdir(tmp_path)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_every_screen_has_a_snapshot() -> None:
    shown = {name.partition("-")[0] for name in PICTURES}
    assert {row.name for row in SCREENS} - NOT_HERE <= shown


@pytest.mark.parametrize("name", PICTURES)
async def test_snapshot(name: str, tmp_path: Path) -> None:
    make, pressed = PICTURES[name]
    scene = make(tmp_path)
    changed = []
    with scene.process():
        app = CkptTuiApp(str(scene.directory), monitor=scene.monitor(), interval_s=0.05, env=scenes.ENV)
        async with app.run_test(size=SIZES[0]) as pilot:
            await at_rest(pilot)
            for key in pressed:
                await pilot.press(key)
                await at_rest(pilot)
            for columns, rows in (((40, 12),) if name in SMALL else ()) + SIZES:
                await pilot.resize_terminal(columns, rows)
                await at_rest(pilot)
                drawn = drawing(app).replace(str(tmp_path), "/home/you")
                path = SNAPSHOTS / f"{name}-{columns}x{rows}.txt"
                if WRITES:
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(drawn)
                elif not path.exists() or path.read_text() != drawn:
                    changed.append(f"{path.name} is not what is drawn now:\n{drawn}")
    assert not changed, "\n".join(changed)


def drawing(app: App[Any]) -> str:
    """The screen as text, then the style of every cell by a letter, then what the letters stand for."""
    letters: dict[str, str] = {}
    texts, styles = [], []
    for strip in app.screen._compositor.render_strips():
        text, style_line = "", ""
        for segment in strip:
            style = str(segment.style) if segment.style else "none"
            letter = letters.setdefault(style, (string.ascii_letters + string.digits)[len(letters) % 62])
            text += segment.text
            style_line += letter * segment.cell_length
        texts.append(text.rstrip())
        styles.append(_run_lengths(style_line))
    legend = [f"{letter} {style}" for style, letter in letters.items()]
    return "\n".join([*texts, "-" * 8, *styles, "-" * 8, *legend, ""])


def _run_lengths(line: str) -> str:
    """`aaab` -> `3a 1b`: a longer line does not make every cell a difference."""
    runs: list[tuple[int, str]] = []
    for char in line:
        if runs and runs[-1][1] == char:
            runs[-1] = (runs[-1][0] + 1, char)
        else:
            runs.append((1, char))
    return " ".join(f"{length}{char}" for length, char in runs)


async def at_rest(pilot: Pilot[Any], deadline_s: float = 240.0) -> None:
    """Until nothing is still to come by itself, and the screen stays the same."""
    ends, before, now = time.monotonic() + deadline_s, "", "?"
    while now != before:
        await pilot.pause(0.03)
        while is_at_work(pilot.app):
            assert time.monotonic() < ends, f"the screen never came to rest:\n{drawing(pilot.app)}"
            await pilot.pause(0.02)
        before, now = now, drawing(pilot.app)
