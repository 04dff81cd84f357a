"""Signals as flags that the loop asks for: a handler that saves would save between two halves of a step."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType
from typing import Any

STATUS = {signal.SIGINT: "interrupted", signal.SIGTERM: "preempted", signal.SIGHUP: "interrupted"}
# What comes so soon after the first is no second request: torchrun passes on a Ctrl+C that its children got already.
REPEAT_SECONDS = 0.5


class Signals:
    """SIGINT, SIGTERM and SIGHUP ask to save and stop, SIGUSR1 to save and go on. The second request ends at once.

    SIGHUP comes when the terminal or the SSH connection is closed. Who started this with nohup does not want to stop
    then: a SIGHUP that is ignored stays so. A closing terminal sends several, so it is never the second request.

    From the start until `release`, in the main thread; elsewhere Python delivers none, and nothing is asked for.
    stop: the signal that asked to stop, None for none. stopped_at: when it came, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self.stopped_at = 0.0
        self._save = False
        self._previous: dict[int, Any] = {}
        with contextlib.suppress(ValueError):  # not the main thread
            for number in STATUS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
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
        now = time.monotonic()
        if self.stop is None:
            self.stop, self.stopped_at = signal.Signals(number), now
        elif number != signal.SIGHUP and now - self.stopped_at >= REPEAT_SECONDS:
            # What is on the disk is whole at every moment: nothing has to be put in order.
            os._exit(128 + number)

    def _on_save(self, number: int, _: FrameType | None) -> None:
        self._save = True
