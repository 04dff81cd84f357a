"""`stop.json`: which process was asked to save and end, and when. It is there from the question to the end.

Many trainers, ours too, take a second signal for "at once, unsaved": who asks again, or asks from another terminal,
must wait for the first question and not repeat it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any

from ckpt_tui.services import files
from ckpt_tui.services.durable import remove_if_there

STOP_FILE_NAME = "stop.json"
_SAME_START_S = 2.0
_MAX_ASKED = 15


def asked_at(directory: str, pid: int, pid_started: float, host: str = "") -> float | None:
    """When that very process was asked to end, Unix seconds; None when it was not. host: "" is this one."""
    for asked in _read(directory):
        if asked["pid"] == pid and asked["host"] == (host or socket.gethostname()):
            with contextlib.suppress(TypeError, ValueError, KeyError):
                if abs(float(asked["pid_started"]) - pid_started) <= _SAME_START_S:
                    return float(asked["ts"])
    return None


def note_asked(directory: str, pid: int, pid_started: float, host: str = "") -> None:
    """Say that it is asked now. Where nothing can be written the stop goes on without."""
    asked = {"pid": pid, "pid_started": pid_started, "host": host or socket.gethostname(), "ts": time.time()}
    # Of those that are asked together, the others too.
    recent = [other for other in _read(directory) if other["pid"] != pid][-_MAX_ASKED:]
    with contextlib.suppress(OSError):
        files.write_file(
            os.path.join(directory, STOP_FILE_NAME), json.dumps({"asked": [*recent, asked]}).encode() + b"\n"
        )


def _read(directory: str) -> list[dict[str, Any]]:
    try:
        with open(os.path.join(directory, STOP_FILE_NAME), "rb") as file:
            asked = json.loads(file.read(1 << 16))["asked"]
        return [one for one in asked if {"pid", "pid_started", "host", "ts"} <= one.keys()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def forget(directory: str) -> None:
    """It has ended."""
    with contextlib.suppress(OSError):
        remove_if_there(os.path.join(directory, STOP_FILE_NAME))
