"""The first poll of a run's log, in a thread while the terminal is made ready: its facts are in the first picture."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_tui.run.state import RunState
    from ckpt_tui.tui.session import Monitor

BUDGET_S = 0.02
# A log on a disk that sleeps must not keep the screen away: it comes without facts then, and gets them later.
LONGEST_WAIT_S = 0.25
LONGEST_PAUSE_S = 0.03  # where something is shown already, a key must not wait for it


class FirstLook:
    """Polls once, at once. Whoever polls next waits for it first: a monitor is asked by one thread at a time."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._state: RunState | None = None
        self._error: Exception | None = None
        self._is_taken = False
        self._thread = threading.Thread(target=self._run, name="first look", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._state = self._monitor.poll(BUDGET_S)
        except Exception as error:  # noqa: BLE001 - `take()` raises it
            self._error = error

    def state_soon(self, *, is_start: bool = True) -> RunState | None:
        """The state for the first picture, None when it would take too long. is_start: nothing is shown yet."""
        self._thread.join(LONGEST_WAIT_S if is_start else LONGEST_PAUSE_S)
        return self._state

    def take(self) -> RunState | None:
        """What the poll gave or raised, when it is done, once; None afterwards."""
        if self._is_taken:
            return None
        self._thread.join()
        self._is_taken = True
        if self._error is not None:
            raise self._error
        return self._state
