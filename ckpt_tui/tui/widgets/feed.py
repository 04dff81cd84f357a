"""The newest events in a few words each, the newest at the bottom."""

from __future__ import annotations

import time

from ckpt_tui.run.state import FeedLine
from ckpt_tui.text import count
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

COLUMNS = (
    Column("time", 8),
    Column("step", 8, align="right", priority=1),
    Column("what", 16, grows=True),
)
_ROLES = {"good": "good", "warning": "warning", "error": "error"}


def cells_of(line: FeedLine) -> tuple[Cell, ...]:
    clock = time.strftime("%H:%M:%S", time.localtime(line.ts))
    return ((clock, "dim"), count(line.step), (line.text, _ROLES.get(line.severity, "")))


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
