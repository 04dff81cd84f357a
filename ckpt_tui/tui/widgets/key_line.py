"""The keys of a screen on its last line, drawn as one text.

Textual's `Footer` makes a widget per key and all of them anew whenever a binding changes: 60 ms of work and a new
layout each time another view is shown. This one draws a line.
"""

from __future__ import annotations

from rich.segment import Segment
from textual import events
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from ckpt_tui.text import cell_width

_GAP = "  "


class KeyLine(Widget):
    """`/ filter  z sort  x statistics ...`: what `show=True` says of the bindings that work now; a click presses."""

    COMPONENT_CLASSES = {"key-line--key"}  # noqa: RUF012 - Textual's way
    DEFAULT_CSS = """
    KeyLine {
        dock: bottom;
        height: 1;
        color: $footer-description-foreground;
        background: $footer-background;
        .key-line--key { color: $footer-key-foreground; background: $footer-background; text-style: bold; }
    }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._keys: list[tuple[str, str, str]] = []  # key to press, how it is written, what it does

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)
        self._bindings_changed(self.screen)

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if not screen.is_attached or not self.is_attached:
            return
        keys: list[tuple[str, str, str]] = []
        seen: set[str] = set()
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and active.enabled and binding.action not in seen:
                seen.add(binding.action)
                keys.append((binding.key, self.app.get_key_display(binding), binding.description))
        if keys != self._keys:
            self._keys = keys
            self.refresh()

    def _places(self) -> list[tuple[str, str, str, int]]:
        """Key to press, key and label as drawn, the column where they begin; what has no room is left out."""
        places, x = [], 1
        for press, key, label in self._keys:
            width = cell_width(key) + 1 + cell_width(label)
            if x + width > self.size.width:
                break
            places.append((press, key, label, x))
            x += width + len(_GAP)
        return places

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        key_style = self.get_component_rich_style("key-line--key")
        segments: list[Segment] = []
        used = 0
        for _, key, label, x in self._places() if y == 0 else ():
            segments += [Segment(" " * (x - used), base), Segment(key, key_style), Segment(f" {label}", base)]
            used = x + cell_width(key) + 1 + cell_width(label)
        return Strip(segments).adjust_cell_length(width, base)

    async def _on_click(self, event: events.Click) -> None:
        for press, key, label, x in self._places():
            if x <= event.x < x + cell_width(key) + 1 + cell_width(label):
                event.stop()
                self.app.simulate_key(press.split(",")[0])
                return
