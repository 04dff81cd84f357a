"""The keys of a screen on its last line, drawn as one text.

Textual's `Footer` makes a widget per key and all of them anew whenever a binding changes: 60 ms of work and a new
layout each time another view is shown. This one draws a line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.segment import Segment
from textual import events
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from ckpt_tui.text import cell_width, fit, safe_text
from ckpt_tui.tui.keys import place_of
from ckpt_tui.tui.theme import Look, role_styles

_GAP = "  "


def _width(key: Sequence[str]) -> int:
    return cell_width(key[2]) + 1 + cell_width(key[3]) + len(_GAP)


def _is_needed(key_id: str) -> bool:
    return key_id in ("app.help", "app.quit", "view.runs") or key_id.endswith(".leave")


def fitting(keys: Sequence[Sequence[str]], width: int, needed: Collection[str] = frozenset()) -> list[Sequence[str]]:
    """Those of the keys (id, key to press, key and label as drawn) that have room, each whole. The least important
    goes first, that is the last of them; the way to the others and the way out only when there is nothing else,
    and what the screen says is `needed` there."""
    kept = list(keys)
    while kept and sum(map(_width, kept)) - len(_GAP) > width:
        needless = [one for one in kept if not _is_needed(one[0]) and one[0] not in needed]
        kept.remove((needless or kept)[-1])
    return kept


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
        self._keys: list[tuple[str, str, str, tuple[str, ...]]] = []  # id, key to press, as written, what it does
        self._said = ("", "")

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)
        self._bindings_changed(self.screen)

    def _bindings_changed(self, screen: Screen[object]) -> None:
        if not screen.is_attached or not self.is_attached:
            return
        shown: dict[str, tuple[int, str, str, str, tuple[str, ...]]] = {}
        now: Mapping[str, tuple[str, ...]] = getattr(screen, "key_labels", {})
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and active.enabled and binding.action not in shown:
                key_id = binding.id or ""
                written = self.app.get_key_display(binding)
                labels = now.get(key_id, (binding.description,))
                shown[binding.action] = (place_of(key_id), key_id, binding.key, written, labels)
        keys = [one[1:] for one in sorted(shown.values(), key=lambda one: one[0]) if one[4]]
        if keys != self._keys:
            self._keys = keys
            self.refresh()

    def labels_changed(self) -> None:
        """What the screen says of its keys (`key_labels`) is not what it was."""
        self._bindings_changed(self.screen)

    def _drawn(self, width: int) -> list[Sequence[str]]:
        """The keys with the longest of their labels with which all have room; else with the shortest."""
        for place in range(max((len(labels) for *_, labels in self._keys), default=1)):
            drawn = [(*one, labels[min(place, len(labels) - 1)]) for *one, labels in self._keys]
            if sum(map(_width, drawn)) - len(_GAP) <= width:
                break
        return fitting(drawn, width, getattr(self.screen, "needed_keys", ())) if self._keys else []

    def _places(self) -> list[tuple[str, str, str, int]]:
        """Key to press, key and label as drawn, the column where they begin."""
        places, x = [], 1
        for one in self._drawn(self.size.width - 1):
            places.append((one[1], one[2], one[3], x))
            x += _width(one)
        return places

    def say(self, words: str, role: str = "") -> None:
        """Words in place of the keys, until `say("")`."""
        if (words, role) != self._said:
            self._said = (words, role)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        words, role = self._said
        if words and y == 0:
            style = base + role_styles(getattr(self.app, "look", Look()))[role] if role else base
            text = fit(f" {safe_text(words, 1000)}", width)
            return Strip([Segment(text, style)]).adjust_cell_length(width, base)
        key_style = self.get_component_rich_style("key-line--key")
        segments: list[Segment] = []
        used = 0
        for _, key, label, x in self._places() if y == 0 else ():
            segments += [Segment(" " * (x - used), base), Segment(key, key_style), Segment(f" {label}", base)]
            used = x + cell_width(key) + 1 + cell_width(label)
        return Strip(segments).adjust_cell_length(width, base)

    async def _on_click(self, event: events.Click) -> None:
        if self._said[0]:
            self.say("")
            return
        for press, key, label, x in self._places():
            if x <= event.x < x + cell_width(key) + 1 + cell_width(label):
                event.stop()
                self.app.simulate_key(press.split(",")[0])
                return
