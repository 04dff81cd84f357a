"""A source over lines: a parser tells rows of each, and rows become events. CSV, JSON lines and text logs are these."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable
from typing import ClassVar, Protocol

from ckpt_tui.events.schema import BadLine, Event
from ckpt_tui.sources.base import CHUNK_BYTES, Batch
from ckpt_tui.sources.followed import FollowedLines
from ckpt_tui.sources.rows import Facts, Row, Teller

_PEEK_BYTES = 64 * 1024
MOST_BYTES = 48 * 1024  # in one poll: about 20 ms, for patterns cost more than reading
_ZONE_S = 15 * 60.0
_FARTHEST_ZONE_S = 15 * 3600.0
_ZONE_SLACK_S = 120.0  # that a clock, or the last write, may be off besides
_WRITE_SLACK_S = 2.0


class LineParser(Protocol):
    """Tells what lines say, in their order; remembers what later lines need of earlier ones."""

    facts: Facts

    @property
    def needs_all(self) -> bool:
        """Whether what a line means depends on every line before it: where lines are counted."""
        ...

    def parse(self, line: bytes) -> Iterable[Row | str]:
        """The rows of one line; a text is what is wrong with it. Never raises."""
        ...

    def names(self) -> Iterable[str]:
        """The names of a table's columns, as far as they are known."""
        ...


class LinesSource:
    """Follows a text file with the parser of its kind. `facts`: what is known of the run from beside the log."""

    kind: ClassVar[str] = ""
    is_foreign: ClassVar[bool] = True
    ends_at_return: ClassVar[bool] = False

    def __init__(self, path: str, facts: Facts | None = None) -> None:
        self._path = path
        self._facts = facts
        self._lines = FollowedLines(path, ends_at_return=self.ends_at_return)
        self._began_ts: float | None = None  # of what `elapsed_s` counts from
        self._zone_s = 0.0  # the writer's clock, in another zone, against this machine's
        self._seen_mtime: float | None = None  # when it was last written, as long as it may be a copy
        self._is_written = False  # while it is followed: no copy
        self._begin()

    @property
    def path(self) -> str:
        return self._path

    @property
    def unfinished(self) -> BadLine | None:
        """A text log may well end without a newline: nothing is said to be missing."""
        return None

    @property
    def position(self) -> int:
        """How many bytes of the file are read."""
        return self._lines.offset

    def skip_to_last(self, num_lines: int) -> None:
        """The head is looked at for what the lines behind it need; nothing is left out where they need all of them."""
        try:
            with open(self._path, "rb") as file:
                head = file.read(_PEEK_BYTES)
                if len(head) < _PEEK_BYTES:
                    return
                facts = os.fstat(file.fileno())
        except OSError:
            return  # the first poll says what is wrong
        lines = (head.replace(b"\r", b"\n") if self.ends_at_return else head).split(b"\n")[:-1]
        first_ts: float | None = None
        for line in lines:
            for row in self._parser.parse(line):
                first_ts = row.ts if first_ts is None and isinstance(row, Row) else first_ts
        if self._parser.needs_all:
            self._begin()
            return
        self._peek([], facts.st_mtime, first_ts)
        self._has_peeked = True
        with contextlib.suppress(OSError):
            self._lines.skip_to_last(num_lines)
        self._teller.expect(self._parser.names())

    def make_parser(self, facts: Facts) -> LineParser:
        raise NotImplementedError

    def _begin(self) -> None:
        facts = copy.copy(self._facts) if self._facts is not None else Facts()
        self._parser = self.make_parser(facts)
        self._teller = Teller(self.kind, facts)
        self._has_peeked = False
        self._has_names = False

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        piece = self._lines.read(min(max_bytes, MOST_BYTES))
        if piece.restarted:
            self._begin()
        if self._seen_mtime is not None and piece.lines and piece.mtime != self._seen_mtime:
            self._seen_mtime, self._is_written, self._has_peeked = None, True, False
        if not self._has_peeked and piece.lines:
            self._has_peeked = True
            first = [line[1] for line in piece.lines[:1000] if not isinstance(line, BadLine)]
            self._peek(first, piece.mtime)
        events: list[Event | BadLine] = []
        for line in piece.lines:
            if isinstance(line, BadLine):
                events.append(line)
            else:
                self._take(line[0], line[1], events)
        return Batch(events, piece.notices, piece.restarted, piece.is_caught_up, piece.progress)

    def _take(self, offset: int, line: bytes, events: list[Event | BadLine]) -> None:
        if line[:1] == b"\x00":
            rest = line.lstrip(b"\x00")
            hole = len(line) - len(rest)
            events.append(BadLine(reason="zero bytes: a hole that a crash left", num_bytes=hole, offset=offset))
            line, offset = rest, offset + hole
        for row in self._parser.parse(line):
            if isinstance(row, str):
                events.append(BadLine(reason=row, start=line[:200], num_bytes=len(line), offset=offset))
                continue
            if row.ts is not None:
                row.ts += self._zone_s
            elif row.elapsed_s is not None and self._began_ts is not None:
                row.ts = self._began_ts + row.elapsed_s
            if not self._has_names and (names := self._parser.names()):
                self._teller.expect(names)
                self._has_names = True
            events += self._teller.events(row)

    def _peek(self, first: Iterable[bytes], mtime: float | None, first_ts: float | None = None) -> None:
        """Look at both ends of the file: totals that come late, when it began, and the zone of its clock.

        The last line was written when the file last was: a line that tells how long it has trained tells when it
        began, and one that tells a moment whether its clock is in another zone.
        """
        trial = copy.copy(self._parser)
        trial.facts = copy.copy(self._teller.facts)
        for line in first:
            for row in trial.parse(line):
                first_ts = row.ts if first_ts is None and isinstance(row, Row) else first_ts
        known, found = self._teller.facts, trial.facts
        known.total_steps = known.total_steps or found.total_steps
        known.steps_per_epoch = known.steps_per_epoch or found.steps_per_epoch
        known.step_unit = found.step_unit
        if mtime is None:
            return
        last = Row()
        for line in self._last_lines():
            for row in trial.parse(line):
                if isinstance(row, Row) and (row.ts is not None or row.elapsed_s is not None):
                    last = row
        if last.is_zoned:
            self._zone_s = 0.0
        elif last.ts is not None:
            self._zone_s = self._zone_of(last.ts, first_ts, mtime)
        elif last.elapsed_s is not None:
            self._began_ts = mtime - last.elapsed_s

    def _zone_of(self, last_ts: float, first_ts: float | None, mtime: float) -> float:
        """What the writer's clock is off, in whole quarters of an hour; 0 where that may as well be the age of a copy,
        of a file that was made long after its first line, and that nobody was seen to write."""
        off_s = mtime - last_ts
        zone_s = round(off_s / _ZONE_S) * _ZONE_S
        if not zone_s or abs(off_s - zone_s) >= _ZONE_SLACK_S or abs(off_s) >= _FARTHEST_ZONE_S:
            return 0.0
        if first_ts is None or self._is_written:
            return zone_s
        from ckpt_tui.sources.birth import birth_time

        made_at = birth_time(self._path)
        # One that was made after it was last written has kept its times: they are the writer's.
        if made_at is None or not first_ts + zone_s + _ZONE_SLACK_S < made_at <= mtime + _WRITE_SLACK_S:
            return zone_s
        self._seen_mtime = mtime
        return 0.0

    def _last_lines(self) -> list[bytes]:
        try:
            with open(self._path, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(size - _PEEK_BYTES, 0))
                text = file.read(_PEEK_BYTES)
        except OSError:
            return []
        lines = text.replace(b"\r", b"\n").split(b"\n") if self.ends_at_return else text.split(b"\n")
        return lines[1:] if size > _PEEK_BYTES else lines
