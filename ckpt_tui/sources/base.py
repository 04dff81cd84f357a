"""What a log source is: something that is polled and yields events, whatever becomes of its file.

A source never raises for what a file holds or for what happens to it; it says so in `Batch.notices`. It never blocks
for long: one poll reads at most `max_bytes`.
"""

from __future__ import annotations

from typing import Protocol

from ckpt_tui.events.schema import BadLine, Event
from ckpt_tui.records import dataclass

CHUNK_BYTES = 1 << 20
LONG_LOG_BYTES = 2 << 20  # reading less than this takes no longer than a look at its end
# What a notice is, and how one begins that holds only until the log can be read.
READ_AGAIN = "the log can be read again"
UNREADABLE = ("the log is gone", "the log cannot be read")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll brought.

    events: in the order of the log, bad lines among them. notices: lasting facts about the log (replaced, gone).
    restarted: the events begin at the start of a log that is not the one read before (replaced or truncated); whether
    they continue the run or tell it anew shows in their `seq`. is_caught_up: nothing is left to read now.
    progress: how much of the log is read, 0 to 1.
    """

    events: list[Event | BadLine]
    notices: tuple[str, ...] = ()
    restarted: bool = False
    is_caught_up: bool = True
    progress: float = 1.0


class EventSource(Protocol):
    """A log that is followed. `path` is the file it reads."""

    @property
    def path(self) -> str: ...

    @property
    def unfinished(self) -> BadLine | None:
        """A last line that has not come to its end; nobody will finish it when who writes the log is gone."""
        ...

    def skip_to_last(self, num_lines: int) -> None:
        """Before the first poll: leave out what is before the log's last lines, where that can be found from its end.

        Polls then tell at least these. A source that has to read all of its file leaves nothing out.
        """
        ...

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        """What came since the last poll, at most about `max_bytes` of it."""
        ...
