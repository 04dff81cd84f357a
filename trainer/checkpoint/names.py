"""The names of checkpoint files (SPEC section 3): which kind a name is, and the step in it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

LATEST, LATEST_BACKUP = "latest.pt", "latest_backup.pt"
ROLLING_BACKUP = "rolling_last_backup.pt"
BEST, BEST_BACKUP, BEST_PREVIOUS = "best_model.pt", "best_model_backup.pt", "best_model_previous.pt"
KINDS = ("latest", "rolling", "emergency", "best", "epoch")

_FIXED = {
    LATEST: ("latest", False), LATEST_BACKUP: ("latest", True), ROLLING_BACKUP: ("rolling", True),
    BEST: ("best", False), BEST_BACKUP: ("best", True), BEST_PREVIOUS: ("best", True),
}  # fmt: skip
_ROLLING = re.compile(r"rolling_step_(\d{6,})\.pt")
_EMERGENCY = re.compile(r"emergency_step_(\d{6,})_\d{8}_\d{6}(?:_\d+)?\.pt")
_EPOCH = re.compile(r"epoch_(\d{5,})\.pt")


@dataclass(frozen=True)
class Name:
    """A checkpoint's file name. step: the one in the name, None when there is none in it."""

    name: str
    kind: str
    is_backup: bool = False
    step: int | None = None


def rolling_name(step: int) -> str:
    return f"rolling_step_{step:06d}.pt"


def epoch_name(epoch: int) -> str:
    return f"epoch_{epoch:05d}.pt"


def read_name(name: str) -> Name | None:
    """What a file name says, None when it is not one of ours."""
    if name in _FIXED:
        kind, is_backup = _FIXED[name]
        return Name(name, kind, is_backup)
    for kind, pattern in (("rolling", _ROLLING), ("emergency", _EMERGENCY)):
        if match := pattern.fullmatch(name):
            return Name(name, kind, step=int(match[1]))
    return Name(name, "epoch") if _EPOCH.fullmatch(name) else None


def checkpoints_in(directory: str) -> list[Name]:
    """The checkpoints in the run directory itself: not those that somebody set aside below it."""
    with os.scandir(directory) as entries:
        names = [read_name(entry.name) for entry in entries if entry.is_file()]
    return sorted((name for name in names if name is not None), key=lambda name: name.name)
