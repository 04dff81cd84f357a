"""What every act on a run directory begins with: the directory is there, and what a crash interrupted is finished."""

from __future__ import annotations

import os

from ckpt_tui.errors import from_os_error
from ckpt_tui.services import journal
from ckpt_tui.services.restored_event import log_restored


def begin(directory: str) -> tuple[str, list[str]]:
    """The absolute directory, and what was said of deeds that a crash had interrupted."""
    path = os.path.abspath(directory)
    try:
        with os.scandir(path):
            pass
    except OSError as error:
        raise from_os_error(error, path, "list") from error
    return path, journal.recover(path, lambda deed: log_restored(path, deed))
