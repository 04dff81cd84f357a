"""Looking through the lines of a log: by words, by kind of event, for a step or a time. No widgets; for threads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from ckpt_tui.records import dataclass
from ckpt_tui.tui.log_lines import LogLines

_KIND = re.compile(rb'"event"\s*:\s*"([^"\\]{1,60})"')
_STEP = re.compile(rb'"step"\s*:\s*(-?\d{1,15})(?![\d.eE])')
_TIME = re.compile(rb'"ts"\s*:\s*(\d{1,12}(?:\.\d{1,9})?)')
_CLOCK = re.compile(r"(?:(\d{4})-(\d\d?)-(\d\d?)[ T])?(\d\d?):(\d\d)(?::(\d\d))?")
_MAX_KINDS = 200  # a hostile log may name a million


@dataclass(frozen=True, slots=True)
class Search:
    """Which lines are shown. words: all of them must be in the line; kind: of event; only_bad: lines that are no
    events."""

    words: tuple[str, ...] = ()
    kind: str = ""
    only_bad: bool = False

    @property
    def is_everything(self) -> bool:
        return not self.words and not self.kind and not self.only_bad

    @property
    def needles(self) -> list[bytes]:
        """What the bytes of a line must hold, in lower case."""
        return [word.lower().encode("utf-8", "surrogateescape") for word in self.words]

    def matcher(self, is_bad: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        """Whether a line is one of them."""
        needles, kind = self.needles, self.kind.lower().encode("utf-8", "surrogateescape")
        only_bad = self.only_bad

        def holds(text: bytes) -> bool:
            if kind:
                found = _KIND.search(text)
                if found is None or found[1].lower() != kind:
                    return False
            lowered = text.lower()
            return all(needle in lowered for needle in needles) and (not only_bad or is_bad(text))

        return holds

    def words_for(self, number: int) -> str:
        """`12 lines with: nan`, `3 best events`, `1 bad line`."""
        noun = "bad line" if self.only_bad else f"{self.kind} event" if self.kind else "line"
        with_words = f" with: {' '.join(self.words)}" if self.words else ""
        return f"{number:,} {noun if number == 1 else noun + 's'}{with_words}"


class Place(NamedTuple):
    """Where to go: `what` is line, step or time."""

    what: str
    value: float


def parse_place(text: str, newest_ts: float = 0.0) -> Place | None:
    """`8250`, `step 8,250`, `line 12`, `02:14`, `2026-11-21 02:14:09`; None when it is none of these.

    A time of day is the last one before the newest event; local time, as the screen shows it.
    """
    text = text.strip().lower()
    word, _, rest = text.partition(" ")
    number = (rest if word in ("step", "line") else text).replace(",", "").replace("_", "").strip()
    if number.isascii() and number.isdecimal() and len(number) <= 15:
        return Place("line" if word == "line" else "step", float(number))
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return None
    year, month, day, hour, minute, second = clock.groups()
    try:
        newest = datetime.fromtimestamp(newest_ts)
        found = newest.replace(hour=int(hour), minute=int(minute), second=int(second or 0), microsecond=0)
        if year:
            found = found.replace(year=int(year), month=int(month), day=int(day))
        elif found.timestamp() > newest_ts + 1:
            found -= timedelta(days=1)
        return Place("time", found.timestamp())
    except (ValueError, OverflowError, OSError):
        return None


def number_in(what: str) -> Callable[[bytes], float | None]:
    """What reads the step or the time of a line."""
    pattern = _STEP if what == "step" else _TIME

    def read(text: bytes) -> float | None:
        found = pattern.search(text)
        return float(found[1]) if found else None

    return read


def newest_time(log: LogLines) -> float:
    """The time of the newest line that has one, among the last hundred."""
    read = number_in("time")
    for index in range(len(log) - 1, max(len(log) - 100, 0) - 1, -1):
        if (found := read(log.line(index))) is not None:
            return found
    return 0.0


def count_kinds(
    log: LogLines, *, is_cancelled: Callable[[], bool] = lambda: False, on_bytes: Callable[[int], None] | None = None
) -> list[tuple[str, int]]:
    """How many events there are of each kind, in the order in which they first come. Raises CkptError."""
    counted: Counter[bytes] = Counter()

    def count(text: bytes) -> bool:
        found = _KIND.search(text)
        if found is not None and (found[1] in counted or len(counted) < _MAX_KINDS):
            counted[found[1]] += 1
        return False

    log.select(count, is_cancelled=is_cancelled, on_bytes=on_bytes)
    return [(kind.decode("utf-8", "replace"), number) for kind, number in counted.items()]


def nearest(
    log: LogLines,
    place: Place,
    *,
    is_cancelled: Callable[[], bool] = lambda: False,
    on_bytes: Callable[[int], None] | None = None,
) -> int | None:
    """The line that is nearest to a place; of several equally near, the first of the newest run of them (a step that
    was trained twice is looked for in the later session). Raises CkptError."""
    if place.what == "line":
        return min(max(int(place.value) - 1, 0), len(log) - 1) if len(log) else None
    read = number_in(place.what)
    best: tuple[float, int] | None = None
    index = -1
    was_best = False

    def look(text: bytes) -> bool:
        nonlocal best, index, was_best
        index += 1
        value = read(text)
        if value is None:
            return False
        distance = abs(value - place.value)
        if best is None or distance < best[0] or (distance == best[0] and not was_best):
            best = distance, index
        was_best = best is not None and distance == best[0]
        return False

    log.select(look, is_cancelled=is_cancelled, on_bytes=on_bytes)
    return None if best is None else best[1]
