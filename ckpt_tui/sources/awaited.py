"""A run directory without a log: whichever comes first, ours or another program's, is read from then on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ckpt_tui.events.schema import LOG_NAME, BadLine
from ckpt_tui.sources.base import CHUNK_BYTES, Batch, EventSource
from ckpt_tui.sources.jsonl import JsonlSource

LOOK_EVERY_S = 1.0


class AwaitedSource:
    """find: the source of another program's log in the directory, None while there is none."""

    def __init__(
        self, directory: str, find: Callable[[str], EventSource | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        self._own = os.path.join(directory, LOG_NAME)
        self._source: EventSource = JsonlSource(self._own)
        self._find = find
        self._clock = clock
        self._looked_at: float | None = None
        self._has_come = False

    @property
    def is_foreign(self) -> bool:
        """Known once it has come."""
        return bool(getattr(self._source, "is_foreign", False))

    @property
    def path(self) -> str:
        return self._source.path

    @property
    def unfinished(self) -> BadLine | None:
        return self._source.unfinished

    def skip_to_last(self, num_lines: int) -> None:
        """Nothing: there was nothing yet."""

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        if not self._has_come:
            self._look()
        return self._source.poll(max_bytes)

    def _look(self) -> None:
        if os.path.lexists(self._own):
            self._has_come = True
            return
        now = self._clock()
        if self._looked_at is not None and 0 <= now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        found = self._find(self._directory)
        if found is not None:
            self._source, self._has_come = found, True
