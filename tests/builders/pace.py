"""CPU time as it would be on the machine that the limits of tests were written for.

Where a limit tells an algorithm from a worse one, a slow machine, or one whose cores are shared, must not decide: a
known piece of work is timed before and after, and what is measured counts in its measure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_KNOWN_WORK_S = 0.012  # its CPU time there, when nothing else runs


class CpuTime:
    """seconds: of CPU, never more than were really used; 0 until the block has ended."""

    seconds = 0.0


@contextmanager
def cpu_time(clock: Callable[[], float] = time.process_time) -> Iterator[CpuTime]:
    """The CPU time of the block. clock: `time.thread_time` for this thread alone."""
    took, before = CpuTime(), _known_work_s()
    began = clock()
    yield took
    used = clock() - began
    took.seconds = used / max(before / _KNOWN_WORK_S, _known_work_s() / _KNOWN_WORK_S, 1.0)


def _known_work_s() -> float:
    began = time.thread_time()
    rows = [{"step": step, "loss": 1.0 / (step + 1), "name": f"row {step}"} for step in range(6000)]
    assert len(json.loads(json.dumps(rows))) == len({row["name"] for row in rows})
    return time.thread_time() - began
