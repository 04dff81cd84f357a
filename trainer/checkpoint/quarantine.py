"""Checkpoints that are proven to be bad, moved out of the way: renamed into `quarantine/`, never removed or replaced.

Only for the holder of the directory's lock. What somebody could still get out of them, `ckpt-tui salvage` gets.
"""

from __future__ import annotations

import json
import os
import time

from trainer.checkpoint.publish import PublishError, publish
from trainer.checkpoint.publish_directory import flush_directory

FOLDER_NAME = "quarantine"
SCHEMA = "ckpt-tui/quarantine/1"


def quarantine(directory: str, name: str, why: str, damage: str) -> str:
    """Move the checkpoint `name`; gives where it is now, relative to `directory`. damage: why, in one word.

    `latest.pt` becomes `quarantine/latest_20260131_235959_checksum.pt`, with a .json beside that says what is wrong.
    That one is durable before the checkpoint is moved: a crash leaves each of them whole, in one place.
    Raises OSError; the checkpoint is where it was then.
    """
    folder = os.path.join(directory, FOLDER_NAME)
    if not os.path.isdir(folder):
        os.mkdir(folder)
        flush_directory(directory)
    stem, suffix = os.path.splitext(name)
    plain = f"{stem}_{time.strftime('%Y%m%d_%H%M%S')}_{damage}"
    new, number = plain, 1
    while os.path.lexists(os.path.join(folder, new + suffix)) or os.path.lexists(os.path.join(folder, f"{new}.json")):
        number += 1
        new = f"{plain}_{number}"
    about = {"schema": SCHEMA, "path": name, "to": f"{FOLDER_NAME}/{new}{suffix}", "why": why, "at": time.time()}
    try:
        publish(folder, [f"{new}.json"], json.dumps(about, indent=1, ensure_ascii=False).encode() + b"\n")
    except PublishError as error:
        raise OSError(f"{FOLDER_NAME}/{new}.json: {error.reason}") from error
    # Nobody else makes names there: the lock is ours. So nothing can be replaced.
    os.rename(os.path.join(directory, name), os.path.join(folder, new + suffix))
    flush_directory(folder)
    flush_directory(directory)
    return f"{FOLDER_NAME}/{new}{suffix}"


def num_quarantined(directory: str) -> int:
    """How many checkpoints lie in quarantine."""
    try:
        names = os.listdir(os.path.join(directory, FOLDER_NAME))
    except OSError:
        return 0
    return sum(not name.endswith(".json") and not name.startswith(".") for name in names)
