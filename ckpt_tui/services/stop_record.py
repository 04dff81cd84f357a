"""`stop.json`: which process was asked to save and end, and when. It is there from the question to the end.

Many trainers, ours too, take a second signal for "at once, unsaved": who asks again, or asks from another terminal,
must wait for the first question and not repeat it. It is written before the signal and again after it: of a stop that
died in between nobody knows whether it came to the signal, and that is told by `is_sent`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any

from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services import files
from ckpt_tui.services.durable import remove_if_there

STOP_FILE_NAME = "stop.json"
_SAME_START_S = 2.0
_MAX_ASKED = 15


@dataclass(frozen=True, slots=True)
class Asked:
    """When a process was asked, Unix seconds; is_sent: whether it is known that the signal went out."""

    at: float
    is_sent: bool


def asked(directory: str, pid: int, pid_started: float, host: str = "") -> Asked | None:
    """Whether that very process was asked to end; None when it was not. host: "" is this one."""
    for one in _read(directory):
        if one["pid"] == pid and one["host"] == (host or socket.gethostname()):
            with contextlib.suppress(TypeError, ValueError):
                if abs(float(one["pid_started"]) - pid_started) <= _SAME_START_S:
                    return Asked(float(one["ts"]), one["sent"] is True)
    return None


def note_asked(directory: str, pid: int, pid_started: float, host: str = "", *, is_sent: bool) -> None:
    """Say that it is about to be asked, or was. Where nothing can be written the stop goes on without."""
    one = {
        "pid": pid, "pid_started": pid_started, "host": host or socket.gethostname(), "ts": time.time(),
        "sent": is_sent,
    }  # fmt: skip
    # Of those that are asked together, the others too.
    others = [other for other in _read(directory) if other["pid"] != pid][-_MAX_ASKED:]
    with contextlib.suppress(OSError):
        files.write_file(
            os.path.join(directory, STOP_FILE_NAME), json.dumps({"asked": [*others, one]}).encode() + b"\n"
        )


def _read(directory: str) -> list[dict[str, Any]]:
    try:
        with open_regular(os.path.join(directory, STOP_FILE_NAME)) as file:
            told = json.loads(file.read(1 << 16))["asked"]
        return [one for one in told if {"pid", "pid_started", "host", "ts", "sent"} <= one.keys()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def forget(directory: str) -> None:
    """It has ended, or could not be asked."""
    with contextlib.suppress(OSError):
        remove_if_there(os.path.join(directory, STOP_FILE_NAME))
