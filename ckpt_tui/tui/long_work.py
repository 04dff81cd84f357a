"""Something that reads or copies for long: how many bytes of how many, how fast, how long still, and that it shall end.

The thread that works counts; the screen looks twice a second. Nothing here knows a screen.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ckpt_tui.errors import Cancelled
from ckpt_tui.text import duration, size

# The speed is that of the last seconds: a cache that is read at the start says nothing about the disk behind it.
_SPEED_OVER_S = 4.0


class LongWork:
    """title: of the whole act. doing: what is being done, for a person. total_bytes: 0 where nobody knows.

    can_leave: it changes nothing, so that nobody waits for its end when it is cancelled.
    """

    def __init__(
        self,
        title: str,
        doing: str,
        total_bytes: int = 0,
        *,
        can_leave: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.doing, self.total_bytes, self.can_leave = title, doing, total_bytes, can_leave
        self.hint = "Esc ends it: nothing was changed" if can_leave else "Esc ends it: all stays as it was"
        self.num_bytes = 0
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._cancelled = threading.Event()

    def add(self, num_bytes: int) -> None:
        """Told by the thread that works."""
        self.num_bytes += num_bytes

    def add_or_end(self, num_bytes: int) -> None:
        """The same, for work that does not ask whether it shall end: Cancelled ends it."""
        if self.is_cancelled():
            raise Cancelled
        self.add(num_bytes)

    def cancel(self) -> None:
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def fraction(self) -> float | None:
        """How much is done; None where the total is not known, or was exceeded: then it was a guess."""
        if self.total_bytes <= 0 or self.num_bytes > self.total_bytes:
            return None
        return self.num_bytes / self.total_bytes

    def look(self) -> tuple[str, str, str]:
        """How far it is, how fast, and how long still, in words; "" for what nobody knows."""
        now, done = self._clock(), self.num_bytes
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _SPEED_OVER_S:
            self._seen.popleft()
        (since, before), fraction = self._seen[0], self.fraction
        rate = (done - before) / (now - since) if now > since else 0.0
        far = f"{size(done)} read" if done else ""
        if fraction is not None:
            far = f"{size(done)} of {size(self.total_bytes)}"
        fast = f"{size(rate)}/s" if done else ""
        left = (
            f"{duration(max((self.total_bytes - done) / rate, 1.0))} left"
            if fraction is not None and rate > 0 and fraction < 1
            else ""
        )
        return far, fast, left


class Progress(Protocol):
    """As `StartProgress` and `StopProgress` of the services."""

    @property
    def stage(self) -> str: ...
    @property
    def sentence(self) -> str: ...


class Stages:
    """Waiting for a training to come up or to end: what was seen of it so far, one sentence after the other.

    hint: what leaving means; nothing is taken back by it. patience_s: from when on `late` is said, too.
    """

    can_leave = True
    MOST_TOLD = 6

    def __init__(
        self,
        title: str,
        hint: str,
        *,
        patience_s: float = 60.0,
        late: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.hint, self._patience_s, self._late = title, hint, patience_s, late
        self.sentences: list[str] = []
        self._clock = clock
        self._began = clock()
        self._cancelled = threading.Event()

    def tell(self, progress: Progress) -> None:
        """Told by the thread that waits; the same sentence again says only that it still waits."""
        if progress.sentence and (not self.sentences or self.sentences[-1] != progress.sentence):
            self.sentences.append(progress.sentence)

    def cancel(self) -> None:
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def waited_s(self) -> int:
        return int(self._clock() - self._began)

    @property
    def late(self) -> str:
        """What to say where it takes longer than it should, "" before."""
        return self._late if self.waited_s >= self._patience_s else ""
