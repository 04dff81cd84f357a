"""Signals become flags that the loop looks at; a second request to stop leaves at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Signals:
    """SIGINT and SIGTERM ask to save and stop, SIGUSR1 asks to save and go on."""

    def __init__(self) -> None:
        self.stop_signal: int | None = None
        self.save_now = False
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGUSR1, self._save)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop_signal is not None:
            # Asked twice: what is published stays whole, what is being written is abandoned under its temporary name.
            os._exit(128 + number)
        self.stop_signal = number

    def _save(self, _number: int, _frame: FrameType | None) -> None:
        self.save_now = True
