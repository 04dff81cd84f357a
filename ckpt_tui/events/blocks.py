"""Step lines many at a time: what reads millions of them has no time for an object with a dict for each.

A training writes the same fields in every step line. So a struct with just these fields is made when they are first
seen, and a whole text of such lines is decoded in one call; metrics come out as columns. A text in which that fails
(another field, a bad line, anything that `decode()` would see with other eyes) is decoded line by line, and its new
fields are learned from that. What comes out means the same, however the lines came in texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec

from ckpt_tui.events.codec import MAX_INTEGER, decode, decode_lines
from ckpt_tui.events.schema import BadLine, Event, Step

MAX_FIELDS = 256  # of step lines; with more, lines are decoded one by one
MIN_LINES = 4  # fewer are decoded one by one as fast
_GETTERS = [attrgetter(f"m{position}") for position in range(MAX_FIELDS)]
_UNNAMEABLE = re.compile(r'["\\\x00-\x1f]|^$')  # as a struct's field
_LINE_START = b'{"'
_Integer = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]


def cannot_be_events(text: bytes) -> bool:
    """Whether some line of `text` does not even begin as an event does, or is full of holes."""
    return b"\x00" in text or text.count(b"\n{") + (text[:1] == b"{") <= text.count(b"\n")


class StepRow(msgspec.Struct, kw_only=True, gc=False):
    """A step line; the fields of one log's own metrics are added to it. In the order of the lines, which is fastest."""

    v: Any = None
    event: Literal["step"]
    seq: _Integer
    ts: float
    session: _Integer
    step: _Integer
    epoch: float | None = None


class StepBlock:
    """Step lines that follow each other in a log. names: of the metrics, in the order in which they were first seen."""

    __slots__ = ("_names", "rows")

    def __init__(self, rows: list[StepRow], names: Sequence[str]) -> None:
        self.rows = rows
        self._names = names

    @property
    def seq(self) -> int:
        """Of the first of them."""
        return self.rows[0].seq

    def columns(self, start: int, stop: int) -> Iterator[tuple[str, list[Any]]]:
        """The values of each metric in some of the rows; `msgspec.UNSET` where a row has none."""
        rows = self.rows if stop - start == len(self.rows) else self.rows[start:stop]
        for position, name in enumerate(self._names):
            yield name, list(map(_GETTERS[position], rows))


Told = Event | BadLine | StepBlock


class BlockDecoder:
    """Decodes the texts of one log, whose step lines it learns to know."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._decode_rows: Any = None
        self._is_mixed = False  # the last text had other lines among its step lines

    def decode(self, text: bytes) -> list[Told]:
        """Every line of `text`, in order, as `decode_lines()` gives it, steps perhaps in blocks.

        Nothing where there are holes in it, or where most lines cannot be events: each has to be looked at alone.
        """
        if not self._is_mixed and (block := self._block(text)) is not None:
            return [block]
        lines = text.split(b"\n")
        num_lines = len(lines)
        others = [index for index, line in enumerate(lines) if b':"step"' not in line and b': "step"' not in line]
        if len(others) * 2 > num_lines and cannot_be_events(text):
            return []
        was_mixed, self._is_mixed = self._is_mixed, bool(others)
        if not others:
            block = self._block(text) if was_mixed else None
            if block is None and b"\x00" in text:
                return []
            return [block] if block is not None else self._one_by_one(text)
        told: list[Told] = []
        start = 0
        for index in (*others, num_lines):
            if index > start:
                steps = b"\n".join(lines[start:index])
                block = self._block(steps, index - start) if index - start >= MIN_LINES else None
                if block is None and b"\x00" in steps:
                    return []
                told += [block] if block is not None else self._one_by_one(steps)
            if index < num_lines:
                if b"\x00" in lines[index]:
                    return []
                told.append(decode(lines[index]))
            start = index + 1
        return told

    def _block(self, text: bytes, num_lines: int = 0) -> StepBlock | None:
        """None when these are not only step lines of known fields. num_lines: where they were counted already."""
        if self._decode_rows is None or not text.startswith(_LINE_START):
            return None
        try:
            rows = self._decode_rows(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        # The decoder takes two objects in a line as well: how many lines begin with one tells that.
        expected = num_lines or text.count(b"\n" + _LINE_START) + 1
        return StepBlock(rows, self._names) if len(rows) == expected else None

    def _one_by_one(self, text: bytes) -> list[Told]:
        events = decode_lines(text)
        known = set(self._names)
        new = dict.fromkeys(
            name
            for event in events
            if type(event) is Step
            for name in event.metrics
            if name not in known and not _UNNAMEABLE.search(name)
        )
        if new and len(self._names) + len(new) <= MAX_FIELDS:
            self._learn([*self._names, *new])
        told: list[Told] = []
        told += events
        return told

    def _learn(self, names: list[str]) -> None:
        fields = [(f"m{position}", Any, msgspec.UNSET) for position in range(len(names))]
        row_type = msgspec.defstruct(
            "StepRowOfLog", fields, bases=(StepRow,), gc=False, kw_only=True, forbid_unknown_fields=True,
            rename={f"m{position}": name for position, name in enumerate(names)},
        )  # fmt: skip
        self._names = names
        self._decode_rows = msgspec.json.Decoder(row_type).decode_lines
