"""Sentences over several lines, in which a number stays with its unit: never `33 /` and `s` on the next one.

Textual breaks lines at every space, no-break spaces included; so they are broken here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from textual.content import Content

from ckpt_tui.text import cell_width, safe_text
from ckpt_tui.tui.styled import line, lines

# A number and what it counts; the parts of `1m 36s` and of `33 / s`.
_STAYS_WITH_NEXT = re.compile(r"[(~<>]?[-+]?\d[\d.,:]*[a-z%]{0,2}|/|[-=]{1,2}>|[A-Z]")
_STAYS_WITH_LAST = re.compile(r"[/%].{0,3}|[kMGT]?B[.,;)]?|(?:ms|s|m|h|d|steps?|MB/s|GB/s)[.,;:)]?")


def broken(sentence: str, width: int) -> list[str]:
    """`sentence` in lines of at most `width` cells. A word that is longer is cut."""
    pieces: list[str] = []
    for word in sentence.split(" "):
        if pieces and (_is_bound(pieces[-1].rpartition(" ")[2], word)) and cell_width(pieces[-1]) + 1 < width:
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    found: list[str] = []
    now = ""
    for piece in pieces:
        together = f"{now} {piece}" if now else piece
        if cell_width(together) <= width:
            now = together
            continue
        if now:
            found.append(now)
        while cell_width(piece) > width:
            head = _head(piece, width)
            found.append(head)
            piece = piece[len(head) :].lstrip()
        now = piece
    return [*found, now] if now or not found else found


def _is_bound(word: str, following: str) -> bool:
    return bool(_STAYS_WITH_NEXT.fullmatch(word) and _STAYS_WITH_LAST.fullmatch(following)) or (
        bool(re.fullmatch(r"\d+[a-z]", word)) and bool(re.fullmatch(r"\d\d?[a-z][.,;)]?", following))
    )


def _head(piece: str, width: int) -> str:
    """The part of it that fits; at a space where there is one."""
    cells = 0
    for index, char in enumerate(piece):
        cells += cell_width(char)
        if cells > width:
            space = piece.rfind(" ", 0, index)
            return piece[: space if space > 0 else max(index, 1)]
    return piece


def paragraph(sentence: str, width: int, role: str = "", *, mark: str = "") -> Content:
    """A sentence as lines of one role; `mark` stands before the first, the others are in line with it."""
    text = safe_text(sentence, 4000)
    room = max(width - cell_width(mark), 10)
    rows = broken(text, room)
    indent = " " * cell_width(mark)
    return lines(*(line((mark if at == 0 else indent, role), (row, role), limit=4000) for at, row in enumerate(rows)))


def paragraphs(sentences: Sequence[str], width: int) -> Content:
    """One after the other."""
    return lines(*(paragraph(sentence, width) for sentence in sentences))
