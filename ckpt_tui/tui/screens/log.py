"""What a session printed: its `session_N.log`, newest at the bottom and followed. Colours and cursor moves in it are
taken out, not obeyed."""

from __future__ import annotations

import re

from textual.content import Content

from ckpt_tui.text import safe_text
from ckpt_tui.tui.screens.lines import LinesScreen
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.virtual_list import Cell, Column

# Colours and other attributes (SGR), erase-line: what honest programs write. All else is escaped by safe_text.
_HARMLESS_SEQUENCES = re.compile(r"\x1b\[[0-9;]*[mK]")


class LogScreen(LinesScreen):
    """The output of a training that runs detached, at `path`."""

    COLUMNS = (Column("line", 7, align="right", priority=1), Column("output", 20, grows=True))
    WHAT = "line"

    def cells_of(self, index: int, text: bytes) -> tuple[Cell, ...]:
        words = printed_text(text)
        return ((f"{index + 1:,}", "dim"), (words, role_of(words)))

    def detail_of(self, index: int, text: bytes) -> Content:
        return lines(line((f"line {index + 1:,}", "dim")), line(printed_text(text), limit=8000))


def printed_text(text: bytes) -> str:
    """What a terminal would show of the line in the end: after the last carriage return, without colours."""
    words = _HARMLESS_SEQUENCES.sub("", text.decode("utf-8", "replace"))
    words = words.rstrip("\r").rpartition("\r")[2]
    return safe_text(words.expandtabs(4), 8000)


def role_of(words: str) -> str:
    """Errors and warnings stand out by how Python programs begin such lines."""
    if words.startswith(("Traceback", "Error", "error:")) or re.match(r"[A-Za-z_.]*(Error|Exception)\b", words):
        return "error"
    return "warning" if "Warning" in words[:80] else ""
