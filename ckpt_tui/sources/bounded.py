"""Bounded reads of a long log of JSON lines: what its newest part needs from before it, without reading all of it.

Three ways, each with a limit on what is read: the log's head; its session's start, found by bisection, since session
numbers rise through a log; and the newest saves, looked for backwards as bytes, of which only the lines that may tell
of one are decoded. What is not found within its limit is not known, never guessed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import BadLine, CheckpointRestored, CheckpointSaved, Event, Nonfinite, RunStart, Step
from ckpt_tui.records import dataclass

HEAD_BYTES = 64 * 1024
TAIL_BYTES = 128 * 1024  # more lines than a chart has columns; each further 100 KB are 3 ms of the first picture
LONGEST_TAIL_BYTES = 4 << 20  # where the last lines are longer than a tail
SCAN_BYTES = 8 << 20  # how far before the tail the newest saves are looked for
_CHUNK_BYTES = 1 << 20
_PROBE_BYTES = 16 * 1024
_SEARCHED = (b'"checkpoint_saved"', b'"run_start"')
# Steps that went back without a new session: what was saved before is perhaps of another branch.
_WENT_BACK = re.compile(rb'"rolled_back_to": ?\d')


@dataclass(frozen=True, slots=True)
class Before:
    """What was found before a place in the log. events: saves and starts, in the order of the log.
    is_all: nothing before them was left out."""

    events: tuple[Event, ...] = ()
    is_all: bool = False


def tail_start(descriptor: int, size: int, tail_bytes: int = TAIL_BYTES) -> int | None:
    """Where the first whole line of the last `tail_bytes` begins; None where no line begins in them."""
    start = max(size - tail_bytes, 0)
    if start == 0:
        return 0
    # From one byte before: the tail may begin right where a line does.
    block = os.pread(descriptor, size - start + 1, start - 1)
    newline = block.find(b"\n")
    return start + newline if 0 <= newline < len(block) - 1 else None


def head_start(descriptor: int) -> RunStart | None:
    """The first `run_start` among the log's first lines."""
    block = os.pread(descriptor, HEAD_BYTES, 0)
    return next((event for _, event in _events(block, 0) if isinstance(event, RunStart)), None)


def has_usable_save(events: Sequence[Event | BadLine], at_most: float = math.inf) -> tuple[bool, float]:
    """Whether one of the events is a save of the branch that training is on at their end, whose steps above `at_most`
    were left; and what of the steps before them was not left."""
    later_step = math.inf
    for event in reversed(events):
        if isinstance(event, Step):
            if event.step > later_step:
                at_most = min(at_most, later_step - 1)
            later_step = event.step
        elif isinstance(event, RunStart):
            at_most = min(at_most, event.start_step)
            later_step = math.inf
        elif isinstance(event, Nonfinite) and event.rolled_back_to is not None:
            at_most = min(at_most, event.rolled_back_to)
        elif isinstance(event, CheckpointSaved) and event.step <= at_most:
            return True, at_most
    return False, at_most


def saves_before(descriptor: int, end: int, at_most: float = math.inf, limit: int = SCAN_BYTES) -> Before:
    """The newest saves before the byte `end`, where a line begins, and the session starts among them.

    at_most: the newest step that was not left again. Looked for until one is found that a resume could take.
    """
    found: list[Event] = []
    buffer = bytearray(min(end, _CHUNK_BYTES))  # one for all: new memory costs as much as reading
    while end > 0:
        if limit <= 0:
            return Before(tuple(found))
        start = max(end - _CHUNK_BYTES, 0)
        num = os.preadv(descriptor, [memoryview(buffer)[: end - start]], start)
        first = 0
        if start:
            first = buffer.find(b"\n", 0, num) + 1
            if not first or first == num:  # the newline before `end` is in it always
                return Before(tuple(found))  # a line longer than a chunk
        if buffer.rfind(b'"rolled_back_to"', first, num) >= 0 and _WENT_BACK.search(buffer, first, num):
            return Before(tuple(event for event in found if isinstance(event, RunStart)))
        here: list[Event] = []
        for line in _lines_with(buffer, first, num, _SEARCHED):
            event = decode(line)
            if isinstance(event, CheckpointSaved | RunStart):
                here.append(event)
        found[:0] = here
        is_found, at_most = has_usable_save(here, at_most)
        if is_found:
            return Before(tuple(found))
        limit -= end - start - first
        end = start + first
    return Before(tuple(found), is_all=True)


def session_start(descriptor: int, size: int, session: int) -> RunStart | None:
    """The `run_start` of the log's last session; None when it is not where rising session numbers lead."""
    low, high = 0, size  # it begins after `low` and not after `high`
    while high - low > _PROBE_BYTES:
        middle = (low + high) // 2
        probed = _session_after(descriptor, middle, min(middle + _PROBE_BYTES, high))
        if probed is None:
            high = middle  # nothing but one long line: look before it, and find nothing if that was wrong
        elif probed < session:
            low = middle
        else:
            high = middle
    start = max(low - _PROBE_BYTES, 0)
    block = os.pread(descriptor, high - start + HEAD_BYTES, start)
    for _, event in _events(block, start):
        if isinstance(event, RunStart) and event.session == session:
            return event
    return None


def _session_after(descriptor: int, start: int, end: int) -> int | None:
    block = os.pread(descriptor, end - start, start)
    for _, event in _events(block, start):
        if not (isinstance(event, CheckpointRestored) and event.by == "viewer"):
            return event.session
    return None


def _events(block: bytes, start: int) -> Iterator[tuple[int, Event]]:
    """The events of the whole lines of a block, with their places; the first line is whole only at the log's start."""
    position = 0 if start == 0 else block.find(b"\n") + 1
    if start and not position:
        return
    while (end := block.find(b"\n", position)) >= 0:
        event = decode(block[position:end])
        if not isinstance(event, BadLine):
            yield start + position, event
        position = end + 1


def _lines_with(block: bytearray, first: int, end: int, words: tuple[bytes, ...]) -> list[bytes]:
    """The lines between two places of a block that hold one of the words, in their order."""
    starts: set[int] = set()
    for word in words:
        at = block.rfind(word, first, end)  # from its end: that is found twice as fast
        while at >= 0:
            start = block.rfind(b"\n", first, at) + 1 or first
            starts.add(start)
            at = block.rfind(word, first, start)
    lines = []
    for start in sorted(starts):
        line_end = block.find(b"\n", start, end)
        lines.append(bytes(block[start : line_end if line_end >= 0 else end]))
    return lines
