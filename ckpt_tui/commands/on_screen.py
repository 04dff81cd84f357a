"""A command's `--screen`: the same on a screen of its own, which ends like the command without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError

if TYPE_CHECKING:
    from ckpt_tui.tui.inspect_app import InspectApp


def check_before(paths: Sequence[str]) -> None:
    """Raise CkptError or OSError where there is no terminal to draw on, or nothing to show."""
    if not (sys.stdout.isatty() and sys.stdin.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise CkptError(
            "No terminal",
            "the screen draws on a terminal, and this is not one (or TERM is dumb)",
            "Without --screen the same is printed.",
        )
    for path in paths:
        Path(path).stat()


def run_app(app: InspectApp) -> int:
    """Show it until it is left. What could not be opened is also an error of the command, said once the screen is
    gone: a script that starts it must be able to tell."""
    app.run()
    if app.problem is not None:
        raise app.problem
    return app.return_code or 0
