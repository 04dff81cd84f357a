"""The newest facts of a long log of another program: its end is folded first, while the rest is still to be read.

The same as `glance.Newest` for ours: it is followed until the log is read from its start as far as it begins here.
"""

from __future__ import annotations

import os

from ckpt_tui.services.glance import NewestPart
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


class ForeignNewest(NewestPart):
    """Of another program's log. Raises as `open_log`."""

    def __init__(self, path: str, directory: str) -> None:
        super().__init__(open_log(path), directory)
        self._source.skip_to_last(NUM_LINES)
        self.start = int(getattr(self._source, "position", 0))
        for _ in range(_MAX_POLLS if self.start else 0):
            batch = self._source.poll()
            self._fold.apply_all(batch.events)
            if batch.is_caught_up:
                break
        self.is_known = self._fold.last_ts > 0
