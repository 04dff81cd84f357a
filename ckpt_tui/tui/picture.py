"""A picture of the screen as it is, as an SVG file: in the person's current directory, never in the run's."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

_MAX_PICTURES = 10_000
# Rich's SVG would fetch its font from a web server whenever somebody looks at it.
_REMOTE_FONT = re.compile(r",?\s*url\(\"https?://[^)]*\)\s*format\(\"[a-z0-9]+\"\)")


def save_picture(svg: str, name: str, not_in: str | None) -> str:
    """Write it under a name that is free, and give the path. not_in: the run directory, or None. Raises CkptError."""
    svg = _REMOTE_FONT.sub("", svg)
    reason = ""
    for directory in _places():
        if not_in is not None and _is_inside(directory, not_in):
            reason = reason or f"{safe_text(directory, 500)} is the run's own directory"
            continue
        try:
            return _write(directory, name, svg)
        except OSError as error:
            reason = reason or f"{safe_text(directory, 500)}: {error.strerror or error}"
    raise CkptError("No picture", reason, "Start the watch in a directory that you may write to.")


def _places() -> Iterator[str]:
    for place in (os.getcwd, lambda: str(Path.home()), tempfile.gettempdir):
        try:
            yield place()
        except (OSError, RuntimeError):  # the current directory is gone; nobody knows a home
            continue


def _is_inside(directory: str, run_directory: str) -> bool:
    inner, outer = os.path.realpath(directory), os.path.realpath(run_directory)
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")


def _write(directory: str, name: str, svg: str) -> str:
    for number in range(1, _MAX_PICTURES):
        path = os.path.join(directory, f"ckpt-tui-{name}-{number}.svg")
        try:
            file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - two kinds of error: there already, and no room
        except FileExistsError:
            continue
        try:
            with file:
                file.write(svg)
        except OSError:  # a full disk: half a picture is none
            Path(path).unlink()
            raise
        return path
    raise FileExistsError(0, "there are too many pictures already")
