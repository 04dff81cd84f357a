"""A command's `--screen`: the same on a screen of its own, which ends like the command without it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.settings import Settings, read_settings
from ckpt_tui.tui.terminal import can_draw, settle_colours

if TYPE_CHECKING:
    from ckpt_tui.tui.inspect_app import InspectApp


def check_before(paths: Sequence[str]) -> Settings:
    """The person's settings. Raises CkptError or OSError where there is no terminal to draw on, or nothing to show."""
    if not can_draw(os.environ):
        raise CkptError(
            "No terminal",
            "the screen draws on a terminal, and this is not one (or TERM is dumb)",
            "Without --screen the same is printed.",
        )
    for path in paths:
        Path(path).stat()
    settings = read_settings(os.environ)
    settle_colours(os.environ)
    return settings


def run_app(app: InspectApp) -> int:
    """Show it until it is left. What could not be opened is also an error of the command, said once the screen is
    gone: a script that starts it must be able to tell."""
    app.run()
    if app.problem is not None:
        raise app.problem
    return app.return_code or 0
