"""The names of checkpoints (SPEC section 3): which kind a name is, and the step in it.

A checkpoint that is a directory has the name of the file without `.pt`.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

LATEST, LATEST_BACKUP = "latest.pt", "latest_backup.pt"
ROLLING_BACKUP = "rolling_last_backup.pt"
BEST, BEST_BACKUP, BEST_PREVIOUS = "best_model.pt", "best_model_backup.pt", "best_model_previous.pt"
PIN_SUFFIX = ".keep"
KINDS = ("latest", "rolling", "emergency", "best", "epoch")

_FIXED = {
    LATEST: ("latest", False), LATEST_BACKUP: ("latest", True), ROLLING_BACKUP: ("rolling", True),
    BEST: ("best", False), BEST_BACKUP: ("best", True), BEST_PREVIOUS: ("best", True),
}  # fmt: skip
# What a branch that was left had under a name that the present one came to.
_LEFT = r"(?:_session_\d+(?:_\d+)?)?"
_ROLLING = re.compile(rf"rolling_step_(\d{{6,}}){_LEFT}(?:\.pt)?")
_EMERGENCY = re.compile(r"emergency_step_(\d{6,})_\d{8}_\d{6}(?:_\d+)?(?:\.pt)?")
_EPOCH = re.compile(rf"epoch_(\d{{5,}}){_LEFT}(?:\.pt)?")


@dataclass(frozen=True)
class Name:
    """A checkpoint's name. step: the one in the name, None when there is none in it."""

    name: str
    kind: str
    is_backup: bool = False
    step: int | None = None


def rolling_name(step: int) -> str:
    return f"rolling_step_{step:06d}.pt"


def epoch_name(epoch: int) -> str:
    return f"epoch_{epoch:05d}.pt"


def emergency_name(directory: str, step: int, suffix: str = ".pt") -> str:
    """A free one, of now. suffix: "" for a directory."""
    stem = f"emergency_step_{step:06d}_{time.strftime('%Y%m%d_%H%M%S')}"
    name, number = f"{stem}{suffix}", 1
    while os.path.lexists(os.path.join(directory, name)):
        number += 1
        name = f"{stem}_{number}{suffix}"
    return name


def left_name(directory: str, name: str, session: int) -> str:
    """A free name for the checkpoint `name`, made by `session` on a branch that was left: the present one needs it."""
    stem, suffix = os.path.splitext(name)
    new, number = f"{stem}_session_{session}{suffix}", 1
    while os.path.lexists(os.path.join(directory, new)):
        number += 1
        new = f"{stem}_session_{session}_{number}{suffix}"
    return new


def read_name(name: str) -> Name | None:
    """What a file name says, None when it is not one of ours."""
    if (fixed := _FIXED.get(name) or _FIXED.get(f"{name}.pt")) is not None:
        kind, is_backup = fixed
        return Name(name, kind, is_backup)
    for kind, pattern in (("rolling", _ROLLING), ("emergency", _EMERGENCY)):
        if match := pattern.fullmatch(name):
            return Name(name, kind, step=int(match[1]))
    return Name(name, "epoch") if _EPOCH.fullmatch(name) else None


def checkpoints_in(directory: str) -> list[Name]:
    """The checkpoints in the run directory itself: not those that somebody set aside below it."""
    with os.scandir(directory) as entries:
        names = [
            read_name(entry.name)
            for entry in entries
            if (entry.is_file() if entry.name.endswith(".pt") else entry.is_dir())
        ]
    return sorted((name for name in names if name is not None), key=lambda name: name.name)


def pinned_in(directory: str) -> set[str]:
    """The checkpoints that a person keeps: `NAME.keep`, an empty file made with `touch`, lies beside NAME."""
    with os.scandir(directory) as entries:
        return {entry.name.removesuffix(PIN_SUFFIX) for entry in entries if entry.name.endswith(PIN_SUFFIX)}
