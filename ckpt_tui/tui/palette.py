"""The command palette: every key of the table that can be used now, and the checkpoints by name."""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from textual.app import SystemCommand

from ckpt_tui.text import safe_text
from ckpt_tui.tui import keys

if TYPE_CHECKING:
    from ckpt_tui.tui.app import CkptTuiApp

MAX_CHECKPOINTS = 200
_NOT_COMMANDS = frozenset({"chart.cursor_fast_left", "chart.cursor_fast_right", "app.palette"})


def commands(app: CkptTuiApp) -> Iterator[SystemCommand]:
    """What the palette offers. Titles are made safe; the palette itself shows them as they are."""
    overview = app.overview
    on_overview = app.screen is overview or (len(app.screen_stack) > 1 and app.screen_stack[-2] is overview)
    for key in (*keys.OVERVIEW_KEYS, *keys.APP_KEYS):
        if key.id in _NOT_COMMANDS or (app.readonly and key.is_act):
            continue
        if key in keys.OVERVIEW_KEYS and not on_overview:
            continue
        node = overview if key in keys.OVERVIEW_KEYS else app
        title = f"{key.group}: {key.label}"
        words = f"{key.tooltip}  ({keys.key_words(key.key)})"
        yield SystemCommand(title, words, partial(app.run_action, key.action, node))
    for name in list(app.checkpoint_names())[:MAX_CHECKPOINTS]:
        path = os.path.join(app.directory, name)
        title = safe_text(name, 100).replace("[", "(")
        yield SystemCommand(f"Inspect {title}", "What is in it", partial(app.open_screen, "inspect", path))
