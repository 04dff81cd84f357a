"""Finds the source for a path. A new kind of log is one file beside this one and one entry in `SOURCES`."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.sources.base import EventSource
from ckpt_tui.sources.jsonl import JsonlSource
from ckpt_tui.text import shell_word

MAX_NAMED = 5
SOURCES = (JsonlSource,)


def log_path(path: str) -> str:
    """The log of a run directory, or the file itself."""
    return os.path.join(path, LOG_NAME) if Path(path).is_dir() else path


def _runs_in(path: str) -> list[str]:
    """The names of the run directories in a directory. Raises OSError."""
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if Path(entry.path, LOG_NAME).is_file())


def open_source(path: str) -> EventSource:
    """The source that reads `path`, a run directory or a log. A directory without a log yet is waited for.

    Raises CkptError when there is nothing at `path`, it may not be read, it is no log we know, or it is no run but
    holds runs.
    """
    try:
        Path(path).stat()
        where = log_path(path)
        if where != path and not os.path.lexists(where):
            if runs := _runs_in(path):
                some = ", ".join(shell_word(os.path.join(path, name)) for name in runs[:MAX_NAMED])
                more = f" and {len(runs) - MAX_NAMED:,} more" if len(runs) > MAX_NAMED else ""
                raise CkptError("A directory of runs", f"{path} is no run, it holds runs", f"Give one: {some}{more}.")
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
