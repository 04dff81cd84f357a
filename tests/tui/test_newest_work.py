"""Of what threads found for a screen only that counts which is asked for now, in whatever order it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from textual.worker import Worker

from ckpt_tui.errors import CkptError
from ckpt_tui.tui.screens.work import WorkProgress, WorkScreen
from tests.builders.screen_app import ScreenApp, settled


class Told(WorkScreen[None]):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    def work_done(self, group: str, result: Any) -> None:
        self.told.append(result)

    def work_failed(self, group: str, error: CkptError) -> None:
        self.told.append(error.title)

    def work_progress(self, group: str, text: str) -> None:
        self.told.append(text)


@asynccontextmanager
async def busy(screen: Told) -> AsyncIterator[None]:
    """Meanwhile the screen handles nothing: its messages wait for it."""
    begins, ends = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        begins.set()
        await ends.wait()

    screen.call_later(hold)
    await begins.wait()
    yield
    ends.set()


async def finished(screen: Told) -> None:
    worker: Worker[object] = screen._newest["a"]  # type: ignore[assignment]
    while not worker.is_finished:
        await asyncio.sleep(0.001)


def fail() -> None:
    raise CkptError("Old", "", "")


async def test_a_result_that_waited_is_not_taken_for_that_of_newer_work() -> None:
    for old in (lambda: "old", fail):
        screen = Told()
        async with ScreenApp(screen).run_test() as pilot:
            async with busy(screen):
                screen.start_work("a", old)
                await finished(screen)
                screen.start_work("a", lambda: "new")
            await settled(pilot)
            assert screen.told == ["new"]


async def test_what_was_told_to_stop_tells_nothing_more() -> None:
    screen = Told()
    async with ScreenApp(screen).run_test() as pilot:
        async with busy(screen):
            screen.start_work("a", lambda: "found")
            screen.post_message(WorkProgress("a", "41 %"))
            await finished(screen)
            screen._newest["a"].cancel()
        await settled(pilot)
        assert screen.told == []
        assert not screen.is_working("a")
        assert not screen.cancel_work("a"), "Esc leaves then"
