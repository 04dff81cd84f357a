"""Signals as flags that the loop asks for: a handler that saves would save between two halves of a step."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType
from typing import Any

STATUS = {signal.SIGINT: "interrupted", signal.SIGTERM: "preempted"}


class Signals:
    """SIGINT and SIGTERM ask to save and stop, SIGUSR1 to save and go on. The second request to stop ends at once.

    From the start until `release`, in the main thread; elsewhere Python delivers none, and nothing is asked for.
    stop: the signal that asked to stop, None for none.
    """

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self._save = False
        self._previous: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread
            for number in STATUS:
                self._previous[number] = signal.signal(number, self._on_stop)
            self._previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._on_save)

    def release(self) -> None:
        """Who had the signals before gets them back."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def __enter__(self) -> Signals:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take_save_request(self) -> bool:
        """Whether a save was asked for since the last time."""
        asked, self._save = self._save, False
        return asked

    def _on_stop(self, number: int, _: FrameType | None) -> None:
        if self.stop is not None:
            # What is on the disk is whole at every moment: nothing has to be put in order.
            os._exit(128 + number)
        self.stop = signal.Signals(number)

    def _on_save(self, number: int, _: FrameType | None) -> None:
        self._save = True
