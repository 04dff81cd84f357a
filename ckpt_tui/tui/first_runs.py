"""The first look at the runs below a directory, in a thread while the terminal is made ready."""

from __future__ import annotations

import contextlib
import threading
import time

from ckpt_tui.services.runs import Runs, RunsWatch

BUDGET_S = 0.05
NUM_RUNS = 24  # a screenful
LONGEST_LOOK_S = 0.5
# A disk that sleeps must not keep the screen away: the runs come later then.
LONGEST_WAIT_S = 0.25


class FirstRuns:
    """Polls `watch` once, at once. Who polls it next calls `soon()` or `wait()` first."""

    def __init__(self, root: str) -> None:
        self.watch = RunsWatch(root)
        self._runs: Runs | None = None
        self._thread = threading.Thread(target=self._look, name="first runs", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        with contextlib.suppress(Exception):  # what looks next raises it again, where it can be said
            self._runs = self._first()

    def _first(self) -> Runs:
        ends = time.monotonic() + LONGEST_LOOK_S
        runs = self.watch.poll(BUDGET_S)
        # The start of the program goes on beside this, and slows it: a screenful is what counts.
        while len(runs.runs) < NUM_RUNS and not self.watch.is_caught_up and time.monotonic() < ends:
            runs = self.watch.poll(BUDGET_S)
        return runs

    def soon(self) -> Runs | None:
        """What was found, None when it would take too long."""
        self._thread.join(LONGEST_WAIT_S)
        return self._runs

    def wait(self) -> None:
        self._thread.join()
