"""What every act on a run directory begins with: the directory is there, and what a crash interrupted is finished."""

from __future__ import annotations

import os

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.services import journal
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.text import safe_text

_MAX_NAMES = 6


def begin(directory: str) -> tuple[str, list[str]]:
    """The absolute directory, and what was said of deeds that a crash had interrupted."""
    path = os.path.abspath(directory)
    try:
        with os.scandir(path):
            pass
    except OSError as error:
        raise from_os_error(error, path, "list") from error
    require_a_run(path)
    return path, journal.recover(path, lambda deed: log_restored(path, deed))


def require_a_run(path: str) -> None:
    """Raise CkptError where there is neither log nor checkpoint nor anything set aside: of a mistyped path it would be
    wrong to say that there is nothing to do."""
    if any(os.path.lexists(os.path.join(path, name)) for name in (LOG_NAME, journal.FOLDER_NAME)):
        return
    if read_catalog(path).entries:
        return
    runs = sorted(name for name in os.listdir(path) if os.path.exists(os.path.join(path, name, LOG_NAME)))
    listed = ", ".join(safe_text(name, 60) for name in runs[:_MAX_NAMES])
    more = f" and {len(runs) - _MAX_NAMES} more" if len(runs) > _MAX_NAMES else ""
    raise CkptError(
        "Not a run directory",
        f"there is no checkpoint and no log in {path}",
        f"Name one of the runs in it: {listed}{more}."
        if runs
        else "Give the run directory: the one with events.jsonl and the checkpoints.",
    )
