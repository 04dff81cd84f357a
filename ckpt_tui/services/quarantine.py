"""What the trainer found bad and moved to `quarantine/`: which checkpoint it was, what was said of it, what it takes.

The trainer renames a checkpoint there and writes a small .json beside it that says what is wrong. Whoever knows better
puts it back with `restore DIR quarantine/NAME`; `gc DIR --quarantine` frees it.
"""

from __future__ import annotations

import json
import os

from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services.files import content_of
from ckpt_tui.services.names import QUARANTINE_NAME, is_temporary

SCHEMA = "ckpt-tui/quarantine/1"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One checkpoint in quarantine. place: where it lies, below the run directory; name: what it was called, "" when
    nothing says so; why: what was found wrong; at: when it was moved, Unix seconds; about: the .json beside it, ""."""

    place: str
    name: str
    why: str
    at: float
    size_bytes: int
    about: str


def read_quarantine(directory: str) -> tuple[Quarantined, ...]:
    """What lies in quarantine, by name. Never raises; nothing where there is no such folder."""
    folder = os.path.join(directory, QUARANTINE_NAME)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ()
    found = []
    for name in names:
        content = content_of(os.path.join(folder, name))
        if name.endswith(".json") or is_temporary(name) or content is None:
            continue
        about = f"{os.path.splitext(name)[0]}.json"
        told = read_about(os.path.join(folder, about)) if about in names else None
        if told is not None and told.get("to") != f"{QUARANTINE_NAME}/{name}":
            told = None
        original = str(told.get("path") or "") if told is not None else ""
        at = told.get("at") if told is not None else None
        found.append(
            Quarantined(
                f"{QUARANTINE_NAME}/{name}", original if _is_name(original) else "",
                str(told.get("why") or "") if told is not None else "",
                float(at) if isinstance(at, (int, float)) else content.mtime_ns / 1e9, content.size_bytes,
                f"{QUARANTINE_NAME}/{about}" if told is not None else "",
            )
        )  # fmt: skip
    return tuple(found)


def read_about(path: str) -> dict[str, object] | None:
    """What is said of a checkpoint in quarantine, None when the file is not of our trainer."""
    try:
        with open_regular(path) as file:
            told = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and told.get("schema") == SCHEMA else None


def _is_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name
