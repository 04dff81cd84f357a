"""Opens the log of a run: ours as it is, another program's with what the files beside it tell."""

from __future__ import annotations

from ckpt_tui.services.surroundings import run_directory
from ckpt_tui.sources.base import EventSource
from ckpt_tui.sources.registry import open_source


def open_log(path: str) -> EventSource:
    """The source for the run at `path`. Raises CkptError as `open_source` does."""
    source = open_source(path)
    if not hasattr(source, "is_foreign"):
        return source
    from ckpt_tui.services.foreign_log import ForeignLog

    return ForeignLog(source, run_directory(path))
