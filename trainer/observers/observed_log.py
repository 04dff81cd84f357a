"""The event log, with observers that are told of every event as well."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter

# Steps of an hour at three a second; past that an observer is not slow, it hangs.
MAX_WAITING = 10_000
# So many times in a row something was raised, and it is not asked again.
MAX_FAILURES = 5
CLOSE_SECONDS = 10.0
_MAX_BATCH = 1000


class Observer(Protocol):
    """Takes events somewhere else. All calls come from one thread; what they raise is told and ends nothing."""

    def observe(self, events: Sequence[Event]) -> None: ...

    def close(self) -> None: ...


class ObservedLog(EventWriter):
    """An EventWriter that hands each event on, whether or not the log itself could take it.

    builders: by the observer's title, called in its thread. say: gets lines for a person.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        builders: Mapping[str, Callable[[], Observer]],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(directory)
        self.feeds = [Feed(title, build, say) for title, build in builders.items()]

    def emit(self, event: Event) -> bool:
        is_written = super().emit(event)
        if self.feeds:
            told = replace(event, ts=time.time(), session=self.session, seq=self.seq)
            for feed in self.feeds:
                feed.put(told)
        return is_written

    def close(self) -> None:
        """Let the observers finish, for CLOSE_SECONDS at most; then as EventWriter does."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for feed in self.feeds:
            feed.end()
        for feed in self.feeds:
            feed.join(max(deadline - time.monotonic(), 0.0))
        super().close()


class Feed:
    """One observer's queue and thread. num_dropped: events that it did not get."""

    def __init__(self, title: str, build: Callable[[], Observer], say: Callable[[str], None]) -> None:
        self._title, self._build, self._say = title, build, say
        self.num_dropped = 0
        # Its put may be interrupted by a signal handler that puts, too; a Queue would wait for itself.
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._num_failures = 0
        self._has_told = self._has_ended = False
        self._thread = threading.Thread(target=self._run, name=title, daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Never blocks."""
        if self._num_failures >= MAX_FAILURES or self._has_ended or self._queue.qsize() >= MAX_WAITING:
            self.num_dropped += 1
        else:
            self._queue.put(event)

    def end(self) -> None:
        """No more events come."""
        if not self._has_ended:
            self._has_ended = True
            self._queue.put(None)

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._has_told = True  # after the end of a training nobody expects a line of it
            waiting = self._queue.qsize() + self.num_dropped
            self._say(f"{self._title} did not finish in time: {waiting} events may be missing there")

    def _run(self) -> None:
        observer: Observer | None = None
        try:
            observer = self._build()
        except Exception as error:  # noqa: BLE001  whatever a library raises: the training goes on without it
            self._num_failures = MAX_FAILURES
            self._failed(error)
        is_last = False
        while not is_last:
            events, is_last = self._take()
            if observer is None or self._num_failures >= MAX_FAILURES:
                self.num_dropped += len(events)
                continue
            try:
                observer.observe(events)
                self._num_failures = 0
            except Exception as error:  # noqa: BLE001  as above
                self._num_failures += 1
                self.num_dropped += len(events)
                self._failed(error)
        if observer is not None:
            try:
                observer.close()
            except Exception as error:  # noqa: BLE001  as above
                self._failed(error)

    def _take(self) -> tuple[list[Event], bool]:
        """What is waiting, one event at least; and whether no more comes."""
        events: list[Event] = []
        item = self._queue.get()
        while item is not None:
            events.append(item)
            if len(events) >= _MAX_BATCH:
                return events, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return events, False
        return events, True

    def _failed(self, error: Exception) -> None:
        if not self._has_told:
            self._has_told = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            self._say(f"{self._title} failed and the training goes on; events.jsonl has it all: {reason}")
