"""A line to type in whose cursor stands still: one that blinks sends bytes twice a second over a slow line."""

from __future__ import annotations

from textual.reactive import reactive
from textual.widgets import Input


class SteadyInput(Input):
    """Textual's Input, but for the blinking."""

    cursor_blink = reactive(False, init=False)
