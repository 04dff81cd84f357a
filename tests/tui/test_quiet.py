"""The watch is quiet: what its first picture loads, and the bytes that fixed moments send, counted and not timed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.color import ColorSystem
from textual._compositor import ChopsUpdate, LayoutUpdate

from ckpt_tui.run.state import AtRisk, RunState
from ckpt_tui.settings import Settings
from ckpt_tui.tui.app import CkptTuiApp
from tests.bench.reference_files import write_log
from tests.builders.run_states import NOW, FixedMonitor, crashed, falling, running, series
from tests.builders.screen_app import is_at_work, seen, until
from tests.builders.small_terminal import SmallTerminal

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}

# -- bytes ------------------------------------------------------------------------------------------------------------


class WiredApp(CkptTuiApp):
    """Without a terminal, but with what one would be sent, and would show."""

    def __init__(self, state: RunState, directory: Path, size: tuple[int, int], **fields: Any) -> None:
        monitor = FixedMonitor(state, str(directory))
        super().__init__(str(directory), monitor=monitor, interval_s=0.02, env=ENV, **fields)
        self.fixed = monitor
        self.sent: list[str] = []
        self.terminal = SmallTerminal(*size)

    def _display(self, screen: Any, renderable: Any) -> None:
        if isinstance(renderable, (LayoutUpdate, ChopsUpdate)) and self._running and not self._batch_count:
            text = self.wire.encode(renderable, *self.size, ColorSystem.TRUECOLOR)
            self.terminal.feed(text)
            self.sent.append(text)
        super()._display(screen, renderable)

    def num_bytes(self) -> int:
        """Of what was sent since it was asked last."""
        num = sum(len(text.encode()) for text in self.sent)
        self.sent.clear()
        return num


def at_step(step: int, **fields: object) -> RunState:
    """`running()`, `step - 400` steps later."""
    ahead = step - 400
    now = NOW + ahead / 18.3
    state = running(now=now, step=step, last_ts=now - 1, num_events=410 + ahead, last_loss=1.4 + ahead % 7 / 1000)
    assert state.at_risk is not None
    risk = AtRisk(step - 300, 8.9 + ahead / 18.3, state.at_risk.checkpoint, 300, state.at_risk.checkpoint_ts)
    sessions = (replace(state.sessions[0], last_step=step, last_ts=now - 1),)
    loss = series("loss", falling(1, step))
    return replace(state, at_risk=risk, sessions=sessions, series={"loss": loss}, **fields)  # type: ignore[arg-type]


async def bytes_of(
    app: WiredApp, size: tuple[int, int], before: RunState, after: RunState, words: str
) -> tuple[int, int]:
    """What the first picture sends, and what goes from `before` to `after`."""
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.state is before)
        await pilot.pause()
        first = app.num_bytes()
        await settle(pilot, app)
        app.num_bytes()
        app.fixed.current = after
        await until(pilot, lambda: app.state is after)
        await settle(pilot, app)
        assert words in "\n".join(app.terminal.text())
        assert [line.rstrip() for line in app.terminal.text()] == [line.rstrip() for line in seen(app)]
        num = app.num_bytes()
        print(size, "first picture", first, "bytes; the change", num)
        return first, num


async def settle(pilot: Any, app: WiredApp) -> None:
    await until(pilot, lambda: not is_at_work(app))
    num = -1
    while num != len(app.sent):
        num = len(app.sent)
        await pilot.pause(0.06)


@pytest.mark.parametrize(
    ("size", "num_steps", "most"),
    [((80, 24), 1, 120), ((80, 24), 18, 400), ((120, 40), 18, 600)],
)
async def test_steps_that_arrive_send_what_changed(
    tmp_path: Path, size: tuple[int, int], num_steps: int, most: int
) -> None:
    """A second of 18 steps at 80x24 is to be a line's worth, not a screen's."""
    before, after = at_step(401), at_step(401 + num_steps)
    app = WiredApp(before, tmp_path, size)
    first, num = await bytes_of(app, size, before, after, f"{401 + num_steps:,}")
    assert 0 < num <= most
    assert first <= 6 * size[0] * size[1]


@pytest.mark.parametrize("state", [crashed(), at_step(400)], ids=["crashed", "running"])
async def test_nothing_is_sent_when_nothing_happened(tmp_path: Path, state: RunState) -> None:
    """A run that is over: not even its age, for a minute. One that lives: no byte within the second."""
    app = WiredApp(state, tmp_path, (80, 24))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.state is state)
        await settle(pilot, app)
        app.num_bytes()
        for later_s in (0.2, 0.5, 20.0, 29.0) if state.phase.is_over else (0.1, 0.2, 0.5, 0.9):
            app.fixed.current = replace(state, now=state.now + later_s)
            polls = app.fixed.num_polls
            await until(pilot, lambda before=polls: app.fixed.num_polls > before + 2)  # type: ignore[misc]
        assert app.sent == []


async def test_what_another_program_wrote_over_is_drawn_again(tmp_path: Path) -> None:
    state = crashed()
    app = WiredApp(state, tmp_path, (80, 24))
    async with app.run_test(size=(80, 24)) as pilot:
        await settle(pilot, app)
        app.terminal.feed("\x1b[3;5HBroadcast message from root")
        await pilot.press("ctrl+l")
        await settle(pilot, app)
        assert [line.rstrip() for line in app.terminal.text()] == [line.rstrip() for line in seen(app)]
        app.terminal = SmallTerminal(80, 24)  # it was left, and is there again
        app.app_resume_signal.publish(app)
        await settle(pilot, app)
        assert [line.rstrip() for line in app.terminal.text()] == [line.rstrip() for line in seen(app)]


async def test_a_slow_link_gets_less_than_500_bytes_a_second(tmp_path: Path) -> None:
    """At 100 steps a second, of a short run: each picture is another."""
    settings = Settings(slow_link=True)
    before, after = at_step(500), at_step(500 + int(100 * settings.tick_s))
    app = WiredApp(before, tmp_path, (80, 24), settings=settings)
    _, num = await bytes_of(app, (80, 24), before, after, f"{after.step:,}")
    assert num <= 500 * settings.tick_s
    assert CkptTuiApp(str(tmp_path), settings=settings, env=ENV).interval_s == settings.tick_s == 5.0


# -- what is loaded ---------------------------------------------------------------------------------------------------

# In a fresh interpreter, as `ckpt-tui watch` opens: what is loaded when the first picture has its facts.
_FIRST_PICTURE = """
import asyncio, sys
from ckpt_tui.cli import build_parser, COMMANDS
build_parser([command for command in COMMANDS if command.name == "watch"])
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui import first_look, run_session
first_look.LONGEST_WAIT_S = 120.0  # a slow machine makes its first picture late, and not without its facts
run_session.FIRST_CATALOG_DELAY_S = 3600.0  # what comes after it is not counted, however late that is
app = CkptTuiApp(sys.argv[1], env={"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"})
async def main():
    async with app.run_test(size=(80, 24)):
        text = "\\n".join("".join(s.text for s in strip) for strip in app.screen._compositor.render_strips())
        assert "finished" in text, text
        print(*sorted(sys.modules))
        print(sum(1 for _ in app.screen.walk_children()))
asyncio.run(main())
"""
# Each of them costs milliseconds, and nothing of the first picture needs it.
_NOT_LOADED = (
    "numpy", "torch", "psutil", "isal", "ml_dtypes", "yaml", "tomllib", "sqlite3", "pydoc", "unittest",
    "multiprocessing", "urllib.request", "ckpt_tui.checkpoints", "ckpt_tui.services.catalog",
    "ckpt_tui.services.catalog_entries",
    "ckpt_tui.services.restore", "ckpt_tui.services.resume", "ckpt_tui.run.advice", "ckpt_tui.tui.palette",
    "ckpt_tui.tui.dialogs", "ckpt_tui.tui.screens.help", "ckpt_tui.tui.screens.inspect", "ckpt_tui.tui.screens.diff",
    "ckpt_tui.tui.screens.validate", "ckpt_tui.tui.screens.events", "ckpt_tui.tui.screens.runs",
    "textual.widgets._footer", "textual.widgets._data_table", "textual.widgets._markdown",
)  # fmt: skip
MOST_MODULES = 95  # of ours: each is a quarter of a millisecond
MOST_WIDGETS = 12  # on the screen: each is half of one


@pytest.fixture(scope="module")
def first_picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], int]:
    directory = tmp_path_factory.mktemp("tiny")
    write_log(directory / "events.jsonl", 200)
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_PICTURE, str(directory)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    modules, num_widgets = done.stdout.splitlines()[-2:]
    return set(modules.split()), int(num_widgets)


def test_the_first_picture_loads_only_what_it_shows(first_picture: tuple[set[str], int]) -> None:
    loaded, _ = first_picture
    assert not {
        one for one in loaded if one.startswith(tuple(f"{name}." for name in _NOT_LOADED)) or one in _NOT_LOADED
    }
    ours = sorted(name for name in loaded if name.startswith("ckpt_tui"))
    assert len(ours) <= MOST_MODULES, ours


def test_the_first_screen_has_few_widgets(first_picture: tuple[set[str], int]) -> None:
    assert first_picture[1] <= MOST_WIDGETS
