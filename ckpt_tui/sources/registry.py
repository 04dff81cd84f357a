"""Finds the source for a path. A new kind of log is one file beside this one and one entry in `SOURCES`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.sources.base import EventSource
from ckpt_tui.sources.jsonl import JsonlSource

SOURCES = (JsonlSource,)


def log_path(path: str) -> str:
    """The log of a run directory, or the file itself."""
    return os.path.join(path, LOG_NAME) if Path(path).is_dir() else path


def open_source(path: str) -> EventSource:
    """The source that reads `path`, a run directory or a log. A directory without a log yet is waited for.

    Raises CkptError when there is nothing at `path`, it may not be read, or it is no log we know.
    """
    try:
        Path(path).stat()
        where = log_path(path)
        if where != path and not os.path.lexists(where):
            os.scandir(path).close()
            return JsonlSource(where)
        if not stat.S_ISREG(Path(where).stat().st_mode):
            raise CkptError("Not a log", f"{where} is not a regular file", f"Give a run directory or its {LOG_NAME}.")
        with open(where, "rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise from_os_error(error, error.filename or path) from error
    except ValueError as error:
        raise CkptError("Not a path", str(error)) from error
    if where != path:
        return JsonlSource(where)
    for source in SOURCES:
        if source.accepts(where, head):
            return source(where)
    raise CkptError("Not a log", f"{where} does not begin with a JSON line", f"Give a run directory or its {LOG_NAME}.")
