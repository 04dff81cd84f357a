"""A line with a title at its left and a few words at its right: the borders between parts of a screen."""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget, rule


class RuleLine(LinesWidget):
    """`─ title ─────────── right ─`."""

    DEFAULT_CSS = "RuleLine { height: 1; }"

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self._title = ""
        self._right: Sequence[tuple[str, str]] = ()

    def set(self, title: str, right: Sequence[tuple[str, str]]) -> None:
        self._title, self._right = title, right
        self.show()

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        return [rule(self._title, self._right, width, unicode=self.unicode)]
