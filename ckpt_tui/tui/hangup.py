"""Ends the watch when its terminal is gone.

As a rule the system says so with SIGHUP, which ends it. Where that does not come (a terminal that does not control the
process: some web terminals and schedulers, `nohup`, `setsid`) Textual reads the end of its input again and again, and
takes a whole core for as long as the machine runs.
"""

from __future__ import annotations

import os
import select
import signal
import threading

EXIT_CODE = 128 + signal.SIGHUP


def leave_when_gone(descriptor: int) -> None:
    """A thread that sleeps until the terminal at `descriptor` is hung up, and then ends the process."""
    threading.Thread(target=_wait, args=(descriptor,), name="hangup", daemon=True).start()


def is_gone(descriptor: int, timeout_ms: int | None = 0) -> bool:
    """Whether the terminal is hung up, now or within the time; without one it is waited for."""
    poll = select.poll()
    poll.register(descriptor, 0)  # nothing but that it is gone
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(timeout_ms))


def _wait(descriptor: int) -> None:
    while not is_gone(descriptor, None):
        pass
    # There is nobody to draw for, and no terminal to be left in order.
    os._exit(EXIT_CODE)
