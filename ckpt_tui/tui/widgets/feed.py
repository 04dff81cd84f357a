"""The newest events in a few words each, the newest at the bottom."""

from __future__ import annotations

import time

from ckpt_tui.run.state import FeedLine
from ckpt_tui.text import count
from ckpt_tui.tui.facts import with_short_names
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

COLUMNS = (
    Column("time", 8),
    Column("step", 9, align="right", priority=1),
    Column("what", 32, grows=True),
)
_ROLES = {"good": "good", "warning": "warning", "error": "error"}
# The text of an event holds what it holds; a line among others has to say what it is, too.
_VERBS = {
    "checkpoint_saved": "saved ", "checkpoint_removed": "removed ", "checkpoint_restored": "restored ",
    "checkpoint_failed": "save failed: ", "best": "best ", "nonfinite": "not finite: ", "advice": "advice: ",
    "error": "error: ",
}  # fmt: skip


def words_of(line: FeedLine) -> str:
    """`saved rolling 7,750 1.5 MB: stalled 45 ms`: names that only repeat kind and step are told as those."""
    return _VERBS.get(line.name, "") + with_short_names(line.text) or line.name


def cells_of(line: FeedLine) -> tuple[Cell, ...]:
    clock = time.strftime("%H:%M:%S", time.localtime(line.ts))
    return ((clock, "dim"), count(line.step), (words_of(line), _ROLES.get(line.severity, "")))


class Feed(VirtualList[FeedLine]):
    """Follows while its cursor is on the last line."""

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(
            COLUMNS, cells_of, key=lambda line: line.seq, empty_text="nothing happened yet", show_header=False,
            title="events", id=id,
        )  # fmt: skip

    def set_feed(self, feed: tuple[FeedLine, ...]) -> None:
        follows = self.is_at_end
        self.set_rows(feed)
        if follows:
            self.action_move_to_end()
