"""The newest events in a few words each, the newest at the bottom."""

from __future__ import annotations

import time

from ckpt_tui.run.state import FeedLine
from ckpt_tui.run.wording import clock_time
from ckpt_tui.text import count
from ckpt_tui.tui.facts import with_short_names
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

_TIME, _DATE = 8, 11  # cells of `02:14:09`, of `11-20 02:14`


def columns(time_width: int = _TIME) -> tuple[Column, ...]:
    return (
        Column("time", time_width),
        Column("step", 9, align="right", priority=1),
        Column("what", 32, grows=True),
    )


_ROLES = {"good": "good", "warning": "warning", "error": "error"}
# The text of an event holds what it holds; a line among others has to say what it is, too.
_VERBS = {
    "checkpoint_saved": "saved ", "checkpoint_removed": "removed ", "checkpoint_failed": "save failed: ",
    "best": "best ", "nonfinite": "not finite: ", "advice": "advice: ", "error": "error: ",
}  # fmt: skip


def words_of(line: FeedLine) -> str:
    """`saved rolling 7,750 1.5 MB: stalled 45 ms`: names that only repeat kind and step are told as those."""
    return _VERBS.get(line.name, "") + with_short_names(line.text) or line.name


def cells_of(line: FeedLine, now: float) -> tuple[Cell, ...]:
    clock = clock_time(line.ts, seconds=True)
    if len(dated := clock_time(line.ts, now=now)) > len("02:14"):
        clock = dated[-_DATE:]
    return ((clock, "dim"), count(line.step), (words_of(line), _ROLES.get(line.severity, "")))


class Feed(VirtualList[FeedLine]):
    """Follows while its cursor is on the last line."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        self._now = 0.0
        self._oldest: float | None = None
        super().__init__(
            columns(), lambda line: cells_of(line, self._now), key=lambda line: line.seq,
            empty_text="nothing happened yet", show_header=False,
            title="events", id=id,
        )  # fmt: skip

    def set_feed(self, feed: tuple[FeedLine, ...], now: float) -> None:
        """now: Unix seconds; what is not of its day is told with its date."""
        follows = self.is_at_end
        is_new_day = time.localtime(now)[:3] != time.localtime(self._now)[:3]
        oldest = feed[0].ts if feed else None
        if is_new_day or oldest != self._oldest:
            self._now, self._oldest = now, oldest
            has_dates = oldest is not None and len(clock_time(oldest, now=now)) > len("02:14")
            self.set_columns(columns(_DATE if has_dates else _TIME))
            if is_new_day:
                self.refresh()
        self.set_rows(feed)
        if follows:
            self.action_move_to_end()
