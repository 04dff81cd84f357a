"""A bare app around one screen, and what a person would see of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen

from ckpt_tui.tui.base_app import BaseApp

_NOT_ENDED = object()


class ScreenApp(BaseApp):
    """Pushes `screen` at the start and keeps what it ended with in `result`."""

    def __init__(self, screen: Screen[Any]) -> None:
        super().__init__(env={"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"})
        self.first_screen = screen
        self.result: object = _NOT_ENDED

    def on_mount(self) -> None:
        self.push_screen(self.first_screen, self._ended)

    def _ended(self, result: object) -> None:
        self.result = result

    @property
    def has_ended(self) -> bool:
        return self.result is not _NOT_ENDED


def seen(app: App[Any]) -> list[str]:
    """The lines on the screen, as text."""
    # A screen that has just come up has no line yet.
    return ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()] or [""]


def seen_text(app: App[Any]) -> str:
    return "\n".join(seen(app))


def assert_nothing_hostile(app: App[Any]) -> None:
    """No control character, and nothing that reorders text, has reached a line of the screen."""
    for text in seen(app):
        assert text.isprintable(), repr(text)
        assert "‮" not in text


def is_at_work(app: App[Any]) -> bool:
    """Whether something is still to come by itself: a worker, a look at the files, a timer of less than a second.

    What an act waits for is a person's answer, and logs are followed for ever.
    """
    workers = [worker for worker in app.workers if worker.is_running]
    if any(worker.group not in ("follow", "runs", "compare", "act") for worker in workers):
        return True
    screen: Any = app.screen
    name = type(screen).__name__
    if any(worker.group == "act" for worker in workers) and name in ("OverviewScreen", "RunsScreen", "WorkingDialog"):
        return True
    if name == "RunsScreen" and (screen.runs is None or not screen.runs.is_whole):
        return True
    if name == "CompareScreen" and not (
        screen.reads and all(read.error or read.progress == 1.0 for read in screen.reads)
    ):
        return True
    watched = getattr(app, "watched", None)
    if watched is not None and not watched.catalog_reader._stopped and _is_looked_at(watched):
        return True
    timers = {*app._timers, *screen._timers}
    return any(
        timer._repeat == 0 and timer._interval < 1.0 and timer._task and not timer._task.done() for timer in timers
    )


def _is_looked_at(watched: Any) -> bool:
    return watched.state is None or watched.catalog is None or watched.catalog_reader.is_at_work


async def settled(pilot: Pilot[Any], deadline_s: float = 180.0) -> None:
    """Wait until no worker runs and every message has been handled."""
    ends = time.monotonic() + deadline_s
    await pilot.pause()
    while any(worker.is_running for worker in pilot.app.workers):
        assert time.monotonic() < ends, "a worker did not end"
        await asyncio.sleep(0.005)
    await pilot.pause()
    await pilot.pause()


async def until(pilot: Pilot[Any], holds: Callable[[], bool], deadline_s: float = 180.0) -> None:
    """Wait until `holds()`, and then until what came with it is done, too; fails after the deadline."""
    ends = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < ends, "did not come true:\n" + seen_text(pilot.app)
        await pilot.pause()
        await asyncio.sleep(0.005)
    await pilot.pause()
