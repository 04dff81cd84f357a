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
from dataclasses import replace
from typing import Any

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services import files
from ckpt_tui.services.durable import remove_if_there

STOP_FILE_NAME = "stop.json"
_MAX_ASKED = 15


@dataclass(frozen=True, slots=True)
class Asked:
    """When a process was asked, Unix seconds; is_sent: whether it is known that the signal went out."""

    at: float
    is_sent: bool


def asked(directory: str, process: ProcessIdentity) -> Asked | None:
    """Whether that very process was asked to end; None when it was not."""
    for one in _read(directory):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if ProcessIdentity.from_fields(one).is_same(process):
                return Asked(float(one["ts"]), one["sent"] is True)
    return None


def note_asked(directory: str, process: ProcessIdentity, *, is_sent: bool) -> None:
    """Say that it is about to be asked, or was. Where nothing can be written the stop goes on without."""
    named = replace(process, host=process.host or socket.gethostname())
    one = {**named.fields(), "ts": time.time(), "sent": is_sent}
    # Of those that are asked together, the others too.
    others = [other for other in _read(directory) if other["pid"] != process.pid][-_MAX_ASKED:]
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
