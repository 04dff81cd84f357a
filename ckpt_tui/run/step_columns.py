"""Steps as columns, one of each metric: what the fold pours into its series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter

from ckpt_tui.events.blocks import Column, StepRow
from ckpt_tui.events.schema import Step

Row = Step | StepRow
Columns = Callable[[int, int], Iterable[Column]]  # of the rows from the first to before the second


def columns_of(block: list[Step], has_room_for: Callable[[str], bool]) -> Iterator[Column]:
    """The values of each metric of the steps; None where one has it not."""
    rows = [event.metrics for event in block]
    names = list(rows[0])
    if list(map(len, rows)).count(len(names)) == len(rows):
        try:
            yield from [(name, list(map(itemgetter(name), rows)), False) for name in names]
        except KeyError:
            pass  # as many metrics, but others
        else:
            return
    for name in dict.fromkeys(name for row in rows for name in row):
        if has_room_for(name):
            yield name, [row.get(name) for row in rows], False
