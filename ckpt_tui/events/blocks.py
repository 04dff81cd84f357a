"""Step lines many at a time: what reads millions of them has no time for an object with a dict for each.

A training writes the same fields in every step line. So a struct with just these fields is made when they are first
seen, and a whole text of such lines is decoded in one call; metrics come out as columns. Where every line has all of
them, and all are numbers, the columns are known to be floats and nobody has to look at each value. A text in which
that fails (another field, a bad line, anything that `decode()` would see with other eyes) is decoded line by line, and
its new fields are learned from that. What comes out means the same, however the lines came in texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import msgspec

from ckpt_tui.events.codec import MAX_INTEGER, decode, decode_lines
from ckpt_tui.events.schema import BadLine, Event, Step

MAX_FIELDS = 256  # of step lines; with more, lines are decoded one by one
MIN_LINES = 4  # fewer are decoded one by one as fast
MAX_START_BYTES = 64
PATIENCE = 8  # texts without an even one, until one is tried again
_UNNAMEABLE = re.compile(r'["\\\x00-\x1f]|^$')  # as a struct's field
_LINE_START = b'{"'
_Integer = Annotated[int, msgspec.Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]

# The name of a metric and its values in some rows; whether all of these are known to be floats.
Column = tuple[str, list[Any], bool]


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
    """Step lines that follow each other in a log.

    fields: of the metrics, position and name, in the order in which they were first seen. is_even: every row has all
    of them, as floats.
    """

    __slots__ = ("_fields", "_is_even", "rows")

    def __init__(self, rows: list[StepRow], fields: Sequence[tuple[int, str]], *, is_even: bool) -> None:
        self.rows = rows
        self._fields = fields
        self._is_even = is_even

    @property
    def seq(self) -> int:
        """Of the first of them."""
        return self.rows[0].seq

    def columns(self, start: int, stop: int) -> Iterator[Column]:
        """The values of each metric in some of the rows; `msgspec.UNSET` where a row has none."""
        rows = self.rows if stop - start == len(self.rows) else self.rows[start:stop]
        for position, name in self._fields:
            yield name, _column_reader(position)(rows), self._is_even


Told = Event | BadLine | StepBlock

_COLUMN_READERS: dict[int, Callable[[list[StepRow]], list[Any]]] = {}


def _column_reader(position: int) -> Callable[[list[StepRow]], list[Any]]:
    """Reads one field of all rows. With the field's name in its own code it takes half the time of an attrgetter."""
    reader = _COLUMN_READERS.get(position)
    if reader is None:
        reader = _COLUMN_READERS[position] = eval(f"lambda rows: [row.m{position:d} for row in rows]")
    return reader


class BlockDecoder:
    """Decodes the texts of one log, whose step lines it learns to know."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._decode_rows: Any = None
        self._even_fields: list[tuple[int, str]] = []  # position and name of what an even line has
        self._has_epoch = False
        self._decode_even: Any = None
        self._num_uneven = 0  # texts in a row
        self._start = b""  # with what step lines begin, and the newline before it
        self._other_lines: re.Pattern[bytes] | None = None  # the newline before those that begin otherwise
        self._is_mixed = False  # the last text had other lines among its step lines

    def decode(self, text: bytes) -> list[Told]:
        """Every line of `text`, in order, as `decode_lines()` gives it, steps perhaps in blocks.

        Nothing where there are holes in it, or where most lines cannot be events: each has to be looked at alone.
        """
        was_mixed = self._is_mixed
        if not was_mixed and (block := self._block(text)) is not None:
            return [block]
        if b"\x00" in text:
            return []
        others = self._find_others(text)
        self._is_mixed = bool(others)
        if was_mixed and not others and (block := self._block(text)) is not None:
            return [block]
        if not others or 2 * len(others) > text.count(b"\n"):
            return self._by_lines(text)
        told: list[Told] = []
        end = 0  # of the last of the other lines, its newline among it
        for start in others:
            if start > end:
                told += self._block_or_by_lines(text[end : start - 1])
            end = text.find(b"\n", start) + 1 or len(text) + 1
            told.append(decode(text[start : end - 1]))
        if end <= len(text):
            told += self._block_or_by_lines(text[end:])
        return told

    def _find_others(self, text: bytes) -> list[int]:
        """Where lines begin that do not begin as step lines do; some that do may be others, too."""
        if self._other_lines is None:
            return []
        others = [found.end() for found in self._other_lines.finditer(text)]
        return others if text.startswith(self._start[1:]) else [0, *others]

    def _block_or_by_lines(self, text: bytes) -> list[Told]:
        block = self._block(text)
        return [block] if block is not None else self._by_lines(text)

    def _block_or_one_by_one(self, text: bytes) -> list[Told]:
        block = self._block(text)
        return [block] if block is not None else self._one_by_one(text)

    def _by_lines(self, text: bytes) -> list[Told]:
        """Of a text whose step lines may begin in any way."""
        lines = text.split(b"\n")
        num_lines = len(lines)
        others = [index for index, line in enumerate(lines) if b':"step"' not in line and b': "step"' not in line]
        if len(others) * 2 > num_lines and cannot_be_events(text):
            return []
        if not others:
            return self._block_or_one_by_one(text)
        self._is_mixed = True
        told: list[Told] = []
        start = 0
        for index in (*others, num_lines):
            if index > start:
                steps = b"\n".join(lines[start:index])
                told += self._block_or_one_by_one(steps) if index - start >= MIN_LINES else self._one_by_one(steps)
            if index < num_lines:
                told.append(decode(lines[index]))
            start = index + 1
        return told

    def _block(self, text: bytes) -> StepBlock | None:
        """None when these are not only step lines of known fields."""
        if self._decode_rows is None or not text.startswith(_LINE_START):
            return None
        rows = _rows(self._decode_even, text) if self._num_uneven % PATIENCE == 0 else None
        is_even = rows is not None
        if rows is None:
            rows = _rows(self._decode_rows, text)
            if rows is None:
                return None
            if self._num_uneven % PATIENCE == 0:
                self._learn_even(rows[-1])
        # The decoder takes two objects in a line as well: how many lines begin with one tells that. The longer the
        # beginning that is looked for, the faster.
        if not text.startswith(self._start[1:]) or len(rows) != text.count(self._start) + 1:
            if len(rows) != text.count(b"\n" + _LINE_START) + 1:
                return None
            self._learn_start(text)
        if is_even:
            self._num_uneven = 0
            return StepBlock(rows, self._even_fields, is_even=True)
        self._num_uneven += 1
        return StepBlock(rows, list(enumerate(self._names)), is_even=False)

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
            self._names = [*self._names, *new]
            self._decode_rows = _decoder("StepRowOfLog", list(enumerate(self._names)), Any, msgspec.UNSET)
            self._learn_start(text)
        told: list[Told] = []
        told += events
        return told

    def _learn_even(self, row: StepRow) -> None:
        """From a row with other fields than even ones have: the next texts may be of such rows."""
        fields = [(position, name) for position, name in enumerate(self._names)
                  if type(getattr(row, f"m{position}")) in (float, int)]  # fmt: skip
        has_epoch = row.epoch is not None
        if (fields, has_epoch) != (self._even_fields, self._has_epoch) or self._decode_even is None:
            self._even_fields, self._has_epoch = fields, has_epoch
            self._decode_even = _decoder("EvenRowOfLog", fields, float, msgspec.NODEFAULT, has_epoch=has_epoch)

    def _learn_start(self, text: bytes) -> None:
        """With what two step lines begin both: up to the first name whose value is not the same."""
        first, second = [*text.split(b"\n", 2), b""][:2]
        num = next((i for i, (a, b) in enumerate(zip(first[:MAX_START_BYTES], second, strict=False)) if a != b), 0)
        start = first[: first.rfind(b":", 0, num) + 1]
        if start.startswith(_LINE_START):
            self._start = b"\n" + start
            self._other_lines = re.compile(rb"\n(?!" + re.escape(start) + rb")")


def _rows(decode_rows: Any, text: bytes) -> list[Any] | None:
    if decode_rows is None:
        return None
    try:
        rows: list[Any] = decode_rows(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return rows


def _decoder(
    name: str, fields: list[tuple[int, str]], value_type: Any, default: Any, *, has_epoch: bool = False
) -> Any:
    """Of texts of step lines with these metrics, and no others."""
    row_fields: list[Any] = [("epoch", float)] if has_epoch else []
    row_fields += [(f"m{position}", value_type, default) for position, _ in fields]
    row_type = msgspec.defstruct(
        name, row_fields, bases=(StepRow,), gc=False, kw_only=True, forbid_unknown_fields=True,
        rename={f"m{position}": name for position, name in fields},
    )  # fmt: skip
    return msgspec.json.Decoder(row_type).decode_lines
