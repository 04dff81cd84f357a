"""Ends what a supervisor has started, whatever became of its parents."""

from __future__ import annotations

import contextlib
import os
import signal

from ckpt_tui.services.supervised_process import marked
from tests.builders.stand_ins import wait_for


def end_marked(mark: str) -> None:
    """Kill every process with that mark, and wait until there is none; some may be ending, or starting others."""

    def are_gone() -> bool:
        pids = list(marked(mark))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_for(are_gone, "they did not end")
