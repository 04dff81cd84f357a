"""A pilot that waits until the app has done what it was told, however slow the machine is.

Textual's waits until the process uses little of the processor: where others have it, that is at once, and what a key
led to has not been done yet. Here every queue is empty and everybody waits at his own before a test goes on. What a
thread has still to say, or a timer, nobody can know: for that a test waits with `until`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from textual._context import active_app
from textual.app import App
from textual.message_pump import MessagePump
from textual.pilot import Pilot

# Somebody waits in a handler for what comes from elsewhere: a thread, a worker, the test itself. Counted in looks, and
# not in time: while this process stood still, nobody else in it went on either.
HANGS_AFTER_LOOKS = 500
LOOKS_EVERY_S = 0.002
LONGEST_S = 300.0


async def until_quiet(app: App[Any]) -> None:
    """Wait until nobody in the app has anything to do. Fails when that never comes: something draws for ever."""
    loop: Any = asyncio.get_running_loop()
    ends = time.monotonic() + LONGEST_S
    num_looks = 0  # since somebody was at work
    while app._running and not app._exit:
        assert time.monotonic() < ends, f"the app has been at work for {LONGEST_S:.0f} s"
        await asyncio.sleep(0)
        if loop._ready:
            num_looks = 0
            continue
        if all(_waits_for_messages(pump) for pump in (app, *app._registry)):
            if not _draw_what_is_due(app):
                return
            continue
        num_looks += 1
        if num_looks > HANGS_AFTER_LOOKS:
            return
        await asyncio.sleep(LOOKS_EVERY_S)


def _waits_for_messages(pump: MessagePump) -> bool:
    if pump._closed or (pump._task is None and not isinstance(pump, App)):
        return True
    queue: Any = pump._message_queue
    is_empty = queue.empty() and pump._pending_message is None and not pump._next_callbacks
    return is_empty and any(not waiter.done() for waiter in queue.ready_event._waiters)


def _draw_what_is_due(app: App[Any]) -> bool:
    """Draw now what Textual draws within a sixtieth of a second; False when there is nothing."""
    if not app._screen_stack:
        return False
    if app._resize_event is not None:
        app._check_resize()
        return True
    if app._batch_count:
        return False
    screen = app.screen
    is_due = screen._layout_required or screen._scroll_required or screen._repaint_required
    is_due = is_due or screen._recompose_required or bool(screen._dirty_widgets) or bool(screen._callbacks)
    if is_due:
        screen._on_timer_update()
    return is_due


async def _wait_for_idle(*_: float) -> None:
    app = active_app.get(None)
    if app is not None:
        await until_quiet(app)


async def _pause(pilot: Pilot[Any], delay: float | None = None) -> None:
    await until_quiet(pilot.app)
    if delay is not None:
        await asyncio.sleep(delay)
        await until_quiet(pilot.app)


async def _wait_for_screen(pilot: Pilot[Any], timeout: float = LONGEST_S) -> bool:
    await until_quiet(pilot.app)
    return pilot.app._exception is None


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every pilot of the test wait so."""
    for module in ("textual.pilot", "textual.app"):
        monkeypatch.setattr(f"{module}.wait_for_idle", _wait_for_idle)
    monkeypatch.setattr(Pilot, "pause", _pause)
    monkeypatch.setattr(Pilot, "_wait_for_screen", _wait_for_screen)
