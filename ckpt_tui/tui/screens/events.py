"""The raw events of a run, newest at the bottom: search, any event in full, and the lines that are not events."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from textual.binding import BindingType
from textual.content import Content

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import (
    COMMON_FIELDS,
    LOG_NAME,
    BadLine,
    CheckpointRestored,
    CheckpointSaved,
    Event,
    LostWork,
    SaveAdvice,
    System,
    event_name,
)
from ckpt_tui.events.words import words_of
from ckpt_tui.text import count, metric, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.screens.line_search import Place, Search, count_kinds
from ckpt_tui.tui.screens.lines import LinesScreen, text_lines
from ckpt_tui.tui.screens.work import ByteProgress, worker_is_cancelled
from ckpt_tui.tui.styled import line, lines
from ckpt_tui.tui.widgets.event_lane import MARKS
from ckpt_tui.tui.widgets.virtual_list import Cell, Column

COLUMNS = (
    Column("time", 8),
    Column("s", 3, align="right", priority=1),
    Column("step", 9, align="right"),
    Column("event", 19),
    Column("what it carries", 16, grows=True),
)
_EVENT_ROLES = {
    "run_start": "accent",
    "run_end": "accent",
    "checkpoint_saved": "good",
    "best": "good",
    "checkpoint_failed": "error",
    "error": "error",
    "nonfinite": "error",
    "signal": "warning",
    "checkpoint_removed": "dim",
    "checkpoint_quarantined": "warning",
    "lost_work": "error",
    "advice": "accent",
    "system": "dim",
    "step": "dim",
}
MAX_FIELDS_SHOWN = 12
_IN_WORDS = (CheckpointSaved, LostWork, SaveAdvice, System)


class EventsScreen(LinesScreen):
    """The event log at `path`: a log file, or the run directory that holds it."""

    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.EVENTS_KEYS)
    COLUMNS = COLUMNS
    WHAT = "line"

    PLACES = "a step (8250), a time (02:14), or: line 1200"

    def __init__(self, path: str, *, only_bad: bool = False, at_step: int | None = None) -> None:
        super().__init__(os.path.join(path, LOG_NAME) if Path(path).is_dir() else path)
        self.search = Search(only_bad=only_bad)
        self._place_wanted = None if at_step is None else Place("step", float(at_step))

    def cells_of(self, index: int, text: bytes) -> tuple[Cell, ...]:
        return event_cells(text, is_partial=self.log_lines.is_partial(index))

    def detail_of(self, index: int, text: bytes) -> Content:
        return event_detail(text, index=index, offset=self.log_lines.span(index)[0])

    def is_bad(self, text: bytes) -> bool:
        return isinstance(decode(text), BadLine)

    def action_bad_lines(self) -> None:
        self.set_search(replace(self.search, only_bad=not self.search.only_bad, kind=""))

    def action_kinds(self) -> None:
        """Count the events by kind, then ask for one."""
        self.start_work("kinds", self._count_kinds)

    def _count_kinds(self) -> list[tuple[str, int]]:
        """Runs in a thread."""
        counting = ByteProgress(self, "kinds", "counting", self.log_lines.num_bytes)
        return count_kinds(self.log_lines, is_cancelled=worker_is_cancelled(), on_bytes=counting.add)

    def work_done(self, group: str, result: Any) -> None:
        if group != "kinds":
            super().work_done(group, result)
            return
        self._progress = ""
        self._show_facts()
        kinds: list[tuple[str, int]] = result
        if not kinds:
            app_of(self).say("There is no event in it yet.")
            return
        from ckpt_tui.tui.dialogs.pick import PickDialog

        at = next((at + 1 for at, (kind, _) in enumerate(kinds) if kind == self.search.kind), 0)
        rows = [("every kind", count(sum(number for _, number in kinds))), *((k, count(n)) for k, n in kinds)]

        def chosen(index: int | None) -> None:
            if index is not None:
                kind = kinds[index - 1][0] if index else ""
                self.set_search(replace(self.search, kind=kind, only_bad=False))

        self.app.push_screen(PickDialog("Events of which kind?", rows, selected=at), chosen)


def event_cells(text: bytes, *, is_partial: bool = False) -> tuple[Cell, ...]:
    """One line of the log as a row; a line that is not an event says what it is."""
    event = decode(text)
    if isinstance(event, BadLine):
        if is_partial:
            return ("", "", "", ("being written", "dim"), (_escaped(event.start), "dim"))
        return ("", "", "", ("✖ bad line", "error"), (f"{event.reason}: {_escaped(event.start)}", "error"))
    name = event_name(event)
    role = MARKS[event.act][2] if isinstance(event, CheckpointRestored) else _EVENT_ROLES.get(name, "")
    return (clock(event.ts), str(event.session), count(event.step), (name, role), fields_text(event))


def clock(ts: float) -> str:
    """Time of day, local; empty for a time that no clock shows."""
    try:
        return datetime.fromtimestamp(ts).strftime("%H:%M:%S") if ts else ""
    except (ValueError, OverflowError, OSError):
        return ""


def fields_text(event: Event) -> str:
    """What an event carries besides its place and time, in a line: `loss 1.482  lr 6e-4`.

    In words where its many fields say less than they do; the detail has them all.
    """
    if isinstance(event, CheckpointRestored):  # a restore and a rollback are two things
        return safe_text(f"{MARKS[event.act][0]} {words_of(event)[0]}", 1000)
    if isinstance(event, _IN_WORDS) and (words := words_of(event)[0]):
        return safe_text(words, 1000)
    # Metrics come first: they are what a step line is read for.
    fields: dict[str, Any] = dict(getattr(event, "metrics", {}))
    for key in event.__struct_fields__:
        if key in COMMON_FIELDS or key in ("extra", "metrics"):
            continue
        value = getattr(event, key)
        if value not in (None, "", [], {}):
            fields[key] = value
    fields.update(event.extra)
    shown = [f"{key} {value_text(value)}" for key, value in list(fields.items())[:MAX_FIELDS_SHOWN]]
    return safe_text("  ".join(shown), 1000)


def value_text(value: Any) -> str:
    """A field's value, short."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return metric(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**18 else "a very large integer"
    if isinstance(value, str):
        return safe_text(value, 200)
    if isinstance(value, dict):
        return f"{{{len(value)}}}"
    if isinstance(value, list):
        return safe_text(" ".join(map(value_text, value)), 200) if len(value) <= 4 else f"[{len(value)}]"
    return safe_text(value, 100)


def event_detail(text: bytes, *, index: int, offset: int) -> Content:
    """A line in full: JSON laid out where it is JSON, the bytes escaped where it is not; and where it lies."""
    place = line((f"line {index + 1:,}, byte {offset:,}, {len(text):,} bytes", "dim"))
    event = decode(text)
    if isinstance(event, BadLine):
        what = line(("✖ ", "error"), (event.reason, "error"), ("  counted and skipped; no other line is lost", "dim"))
        return lines(place, what, line(_escaped(text), limit=4000))
    cleaned = text.decode("utf-8", "replace").strip("\x00 \t\r\n")
    try:
        pretty = json.dumps(json.loads(cleaned), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        pretty = _escaped(text)
    return lines(place, *(line(part) for part in text_lines(pretty)))


def _escaped(data: bytes) -> str:
    return data[:4000].decode("utf-8", "backslashreplace")
