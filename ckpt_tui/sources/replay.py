"""A recorded log told again: at its own or any speed, or up to a moment. For tests and screenshots."""

from __future__ import annotations

import time
from collections.abc import Callable

from ckpt_tui.events.schema import BadLine, Event
from ckpt_tui.sources.base import CHUNK_BYTES, Batch, EventSource


class ReplaySource:
    """Events of another source as their time comes.

    speed: seconds of the log per second of `clock`; until: Unix seconds of the log after which nothing is told
    (None: all). speed None tells all at once.
    """

    def __init__(
        self,
        source: EventSource,
        speed: float | None = 1.0,
        until: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._speed, self._until, self._clock = source, speed, until, clock
        self._events: list[Event | BadLine] = []
        self._next = 0
        self._began_at: float | None = None
        self._began_ts = 0.0
        self._is_read = False

    @property
    def unfinished(self) -> None:
        """What is replayed was written long ago."""
        return None

    @property
    def path(self) -> str:
        return self._source.path

    def skip_to_last(self, num_lines: int) -> None:
        """Nothing: what is told again is told from its beginning."""

    def now(self) -> float:
        """The time of the log that is shown."""
        if self._speed is None or self._began_at is None:
            return self._until if self._until is not None else float("inf")
        now = self._began_ts + (self._clock() - self._began_at) * self._speed
        return now if self._until is None else min(now, self._until)

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        notices: tuple[str, ...] = ()
        if not self._is_read:
            batch = self._source.poll(max_bytes)
            self._events += batch.events
            self._is_read = batch.is_caught_up
            notices = batch.notices
        if self._began_at is None and self._events:
            self._began_at = self._clock()
            self._began_ts = next((e.ts for e in self._events if isinstance(e, Event)), 0.0)
        now = self.now()
        first = self._next
        while self._next < len(self._events):
            event = self._events[self._next]
            if isinstance(event, Event) and event.ts > now:
                break
            self._next += 1
        return Batch(
            events=self._events[first : self._next],
            notices=notices,
            is_caught_up=self._is_read,
            progress=self._next / len(self._events) if self._events else 1.0,
        )
