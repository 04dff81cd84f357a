"""Where two branches of a run parted."""

from __future__ import annotations

import pytest

from ckpt_tui.events.lineage import Lineage, Segment
from ckpt_tui.services.branches import fork_step

A, B, C = Segment(1, "a"), Segment(2, "b", 500), Segment(3, "c", 250)
D = Segment(4, "d", 700)


@pytest.mark.parametrize(
    ("now", "other", "other_step", "fork"),
    [
        ((A, B), (A,), 900, 500),  # back to the end of the first session, which the second left at 500
        ((A, C), (A, B), 600, 250),  # the run went back behind where the other branch began
        ((A, B), (A, C), 300, 250),
        ((A, B, D), (A, B), 900, 700),
        ((A,), (A, B), 600, 500),
        ((A, B), (Segment(1, "z"),), 100, 0),  # nothing in common: all of it is given up
        ((A, B), None, 100, None),
    ],
)
def test_where_they_parted(now: Lineage, other: Lineage | None, other_step: int, fork: int | None) -> None:
    assert fork_step(now, other, other_step) == fork
