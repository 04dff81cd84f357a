"""A static text that shows its glyphs as plain characters on a terminal that has no others."""

from __future__ import annotations

from textual.content import Content
from textual.visual import VisualType
from textual.widgets import Static

from ckpt_tui.tui.styled import for_terminal, has_glyphs


class Words(Static):
    """`Static` for `Content` that `styled.line()` made."""

    def on_mount(self) -> None:
        if not has_glyphs(self.app):
            self.update(self.content)

    def update(self, content: VisualType = "", *, layout: bool = True) -> None:
        if isinstance(content, Content):
            content = for_terminal(self.app, content)
        super().update(content, layout=layout)
