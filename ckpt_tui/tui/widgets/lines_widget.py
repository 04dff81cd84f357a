"""A widget of lines of (text, role), that sends only the lines that changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from ckpt_tui.text import cell_width, fit, safe_text
from ckpt_tui.tui.theme import Look, role_styles

Cells = tuple[tuple[str, str], ...]  # (text, role), in order


class LinesWidget(Widget):
    """Subclasses make their lines in `lines_now(width, height)`; `show()` compares them and redraws what differs.

    Roles are those of `theme.role_styles`; text is made safe here once more, and is never markup.
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id, classes=classes)
        self._lines: list[Cells] = []
        self._role_styles: Mapping[str, Style] | None = None
        self.num_lines_redrawn = 0  # for tests: what the wire saw

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        """The lines to show in `width` x `height` cells."""
        raise NotImplementedError

    def show(self) -> None:
        """Make the lines again and redraw those that differ."""
        width, height = self.size
        if not width or not height:
            return
        before, self._lines = self._lines, list(self.lines_now(width, height))
        for row in range(max(len(before), len(self._lines))):
            old = before[row] if row < len(before) else None
            new = self._lines[row] if row < len(self._lines) else None
            if old != new:
                self.refresh(Region(0, row, width, 1))
                self.num_lines_redrawn += 1

    def look_changed(self) -> None:
        """The app wears another theme."""
        self._role_styles = None
        self.refresh()

    def on_resize(self) -> None:
        self._lines = []
        self.show()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        width = self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, base)
        segments = [Segment(_safe(text), self._style(role, base)) for text, role in self._lines[y]]
        return Strip(segments).adjust_cell_length(width, base)

    def _style(self, role: str, base: Style) -> Style:
        if self._role_styles is None:
            # Not component classes: each of them is matched against every rule at the start, for every widget.
            self._role_styles = role_styles(getattr(self.app, "look", Look()))
        return base + self._role_styles[role] if role else base


def _safe(text: str) -> str:
    return text if text.isprintable() else safe_text(text, 4000)


def cut(parts: Iterable[tuple[str, str]], room: int) -> Cells:
    """`parts` in `room` cells, cut with an ellipsis where they are wider."""
    kept: list[tuple[str, str]] = []
    for text, role in parts:
        have = cell_width(text)
        if have > room:
            kept.append((fit(text, room), role))
            break
        kept.append((text, role))
        room -= have
    return tuple(kept)


def rule(
    left: str, right: Sequence[tuple[str, str]], width: int, *, unicode: bool = True, is_focused: bool = False
) -> Cells:
    """`─ title ───────────── right ─` in `width` cells; `right` goes, from its end, where there is no room.

    is_focused: the keys go to what is below it; seen by the heavy line, and by the title's colour.
    """
    dash = "─" if unicode else "-"
    first, role = (("━" if unicode else "="), "accent") if is_focused else (dash, "track")
    parts = list(right)
    while parts and cell_width(left) + sum(cell_width(text) for text, _ in parts) + 9 > width:
        parts.pop()
    left = fit(left, max(min(cell_width(left), width - 4), 0)) if left else ""
    cells: list[tuple[str, str]] = [(first, role)]
    if left:
        cells += [(f" {left} ", "accent" if is_focused else "strong")]
    used = sum(cell_width(text) for text, _ in cells)
    if not parts:
        return (*cells, (dash * max(width - used, 0), "track"))
    fill = width - used - sum(cell_width(text) for text, _ in parts) - 3
    return (*cells, (dash * max(fill, 0) + " ", "track"), *parts, (f" {dash}", "track"))
