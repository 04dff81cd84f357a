"""The newest facts of a long log of another program: its end is folded first, while the rest is still to be read.

The same as `glance.Newest` for ours: it is followed until the log is read from its start as far as it begins here.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.health import START_PATIENCE_S
from ckpt_tui.run.state import RunState, Save
from ckpt_tui.services.run_log import open_log
from ckpt_tui.sources.base import EventSource

LONG_LOG_BYTES = 256 * 1024
NUM_LINES = 300
_MAX_POLLS = 40


def is_long(source: EventSource) -> bool:
    """Whether the end of a foreign log is worth a look of its own."""
    try:
        path = source.path
        if os.path.isdir(path):
            from ckpt_tui.sources.tensorboard import event_files

            size = max((os.stat(file).st_size for file in event_files(path)), default=0)
        else:
            size = os.stat(path).st_size
        return size - int(getattr(source, "position", 0)) >= LONG_LOG_BYTES
    except OSError:
        return False


class ForeignNewest:
    """start: where that part begins. is_known: whether any of the training was found in it. Raises as `open_log`."""

    def __init__(self, path: str, directory: str) -> None:
        self._source = open_log(path)
        self._source.skip_to_last(NUM_LINES)
        self.start = int(getattr(self._source, "position", 0))
        self._fold = RunFold(directory)
        for _ in range(_MAX_POLLS if self.start else 0):
            batch = self._source.poll()
            self._fold.apply_all(batch.events)
            if batch.is_caught_up:
                break
        self.is_known = self._fold.last_ts > 0

    @property
    def last_process(self) -> tuple[int, float, str]:
        return self._fold.last_process()

    def poll(self) -> bool:
        """Follow the end. False when it is no longer the log that was looked at."""
        batch = self._source.poll()
        if batch.restarted:
            return False
        self._fold.apply_all(batch.events)
        return True

    def state(
        self,
        now: float,
        *,
        is_process_alive: bool | None = None,
        invalid_checkpoints: Collection[str] = (),
        existing_names: Collection[str] | None = None,
        found_checkpoints: tuple[Save, ...] = (),
    ) -> RunState:
        """What is known at `now` of the newest part, everything else left out."""
        from ckpt_tui.services.glance import only_known

        state = self._fold.state(
            now, is_process_alive=is_process_alive, invalid_checkpoints=invalid_checkpoints,
            existing_names=existing_names, usual_pause_s=START_PATIENCE_S,
            found_checkpoints=found_checkpoints,
        )  # fmt: skip
        return only_known(state, None, are_saves_known=True)
