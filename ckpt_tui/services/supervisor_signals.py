"""Signals of a supervisor, as a list of what was asked; each wakes who waits, so that nobody has to look."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from ckpt_tui.services.supervised_process import SIGNALS


class Signals:
    """From `__enter__` to `__exit__`, in the main thread: SIGTERM, SIGINT and SIGHUP are remembered in `asked`, passed
    to `on_signal` at once, and end a `wait`. One that was ignored (nohup) stays ignored."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self.asked: list[signal.Signals] = []
        self._on_signal = on_signal
        self._previous: dict[int, Any] = {}
        self._out = self._in = self._previous_fd = -1

    def __enter__(self) -> Signals:
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)
        self._previous_fd = signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._take)
        # So that the end of a child wakes us where the system has no handles on processes.
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _nothing)
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._out)
        os.close(self._in)

    @property
    def first(self) -> str:
        """The name of the first one that asked, "" while nobody has."""
        return self.asked[0].name if self.asked else ""

    def wait(self, seconds: float, handle: int = -1) -> None:
        """Until a signal comes, `handle` is readable, or the time is over."""
        waiting = select.poll()
        waiting.register(self._out, select.POLLIN)
        if handle >= 0:
            waiting.register(handle, select.POLLIN)
        waiting.poll(max(seconds, 0.0) * 1000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._out, 4096)

    def _take(self, number: int, _: FrameType | None) -> None:
        self.asked.append(signal.Signals(number))
        self._on_signal(number)


def _nothing(number: int, frame: FrameType | None) -> None:
    return None
