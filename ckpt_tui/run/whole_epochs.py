"""Where in a block of steps another epoch begins, as the lines themselves tell it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence


def whole_epochs(epochs: Sequence[float | None]) -> list[tuple[int, int]]:
    """Where another epoch begins, and which. What is no finite number tells of none."""
    try:
        total = float(sum(epochs))  # type: ignore[arg-type]  # where one has none, this raises
    except TypeError:
        total = math.nan
    firsts: list[tuple[int, int]] = []
    if total - total == 0 and epochs[0] >= 0 and epochs == sorted(epochs):  # type: ignore[operator, type-var]
        place = 0
        while place < len(epochs):
            whole = int(epochs[place])
            firsts.append((place, whole))
            place = bisect_left(epochs, whole + 1, place)
        return firsts
    for place, epoch in enumerate(epochs):
        if epoch is not None and epoch - epoch == 0 and (not firsts or int(epoch) != firsts[-1][1]):
            firsts.append((place, int(epoch)))
    return firsts
