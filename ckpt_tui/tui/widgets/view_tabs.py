"""One line that names the views of a screen with their keys, the present one marked; a click chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from ckpt_tui.text import cell_width
from ckpt_tui.tui.keys import key_words, table_name


class View(NamedTuple):
    """One view. `role`: how its label is drawn when it is not the present one (error where it holds bad news)."""

    id: str
    key: str
    label: str
    role: str = ""


class ViewTabs(Widget):
    """`tree (t)  tensors (n)  ...`; the present one is reversed, and in brackets where there is no colour."""

    COMPONENT_CLASSES = {"view-tabs--active", "view-tabs--error", "view-tabs--key"}  # noqa: RUF012 - Textual's way
    DEFAULT_CSS = """
    ViewTabs {
        height: 1;
        .view-tabs--active { text-style: bold reverse; }
        .view-tabs--error { color: $text-error; text-style: bold; }
        .view-tabs--key { color: $foreground-muted; }
    }
    """
    active: reactive[str] = reactive("")

    class Chosen(Message):
        def __init__(self, view_id: str) -> None:
            super().__init__()
            self.view_id = view_id

    def __init__(self, views: Sequence[View], *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._views = tuple(views)
        self.set_reactive(ViewTabs.active, self._views[0].id)

    def set_views(self, views: Sequence[View]) -> None:
        self._views = tuple(views)
        self.refresh()

    def _places(self) -> list[tuple[View, str, str, int]]:
        """Each view with its label, its key and the column it begins at; keys go when the line is too narrow, and
        then the labels of those that are not shown: their keys stay."""
        places: list[tuple[View, str, str, int]] = []
        for key_format, has_labels in ((" ({}) ", True), (" {} ", True), (" ", True), ("{} ", False)):
            places, x = [], 0
            for view in self._views:
                is_named = has_labels or view.id == self.active
                label = f" {view.label}" if is_named else " "
                key = (" " if is_named and not has_labels else key_format).format(self._key_of(view))
                places.append((view, label, key, x))
                x += cell_width(label) + cell_width(key)
            if x <= self.size.width:
                break
        return places

    def _key_of(self, view: View) -> str:
        """As it is pressed: a person may have moved it."""
        settings = getattr(self.app, "settings", None)
        moved = settings.keymap.get(f"{table_name(self.screen)}.{view.id}") if settings is not None else None
        return key_words(moved) if moved else view.key

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        segments: list[Segment] = []
        for view, label, key, _ in self._places() if y == 0 else ():
            if view.id == self.active:
                segments.append(Segment(label + key, self._style("active")))
            else:
                label_style = self._style(view.role) if view.role else base
                segments += [Segment(label, label_style), Segment(key, self._style("key"))]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"view-tabs--{name}")

    async def _on_click(self, event: events.Click) -> None:
        for view, label, key, x in self._places():
            if x <= event.x < x + cell_width(label) + cell_width(key):
                event.stop()
                self.post_message(self.Chosen(view.id))
