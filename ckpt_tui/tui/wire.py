"""What goes over the line: of each picture only the cells that differ from what the terminal shows already.

Textual sends whole lines, and for each change of colour the full style and a reset: 37 bytes for a letter. Over a slow
SSH line that is what a person waits for. Here every cell that was sent is remembered, a picture is compared with
them, and what differs goes out with the shortest change of style: a step counter that goes on is 20 bytes, where its
line is 600. It holds for every widget, whatever it redraws.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len, get_character_cell_size
from rich.color import Color, ColorSystem
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.strip import Strip

from ckpt_tui.tui.styled import PLAIN_GLYPHS

# Attributes as bits in the order of Rich, with what switches them on and off.
_ON = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "21", "51", "52", "53")
_OFF = ("22", "22", "23", "24", "25", "25", "27", "28", "29", "24", "54", "54", "55")
_SEEN_ON_BLANK = sum(1 << bit for bit in (3, 6, 8, 9, 10, 11, 12))  # underlines, reverse, strike, frames, overline
_ONE_CELL = re.compile("[ -~\u00a1-\u00ac\u00ae-\u00ff\u2500-\u25fc\u2800-\u28ff]*")
_UNKNOWN = "\0"
MOST_BRIDGED = 4  # cells that stay and are sent all the same, because going over them costs as much


class Pen(NamedTuple):
    """How a cell is drawn: attribute bits, codes of the colours ("" for the terminal's own), a link."""

    attributes: int
    front: str
    back: str
    link: str
    is_blank: bool = False  # a space: only what is seen of one is in it


DEFAULT_PEN = Pen(0, "", "", "")


class Encoded(CompositorUpdate):
    """An update that is encoded already."""

    def __init__(self, text: str) -> None:
        self.text = text

    def render_segments(self, console: object) -> str:
        return self.text


class Wire:
    """Remembers what the terminal shows. `encode()` gives the bytes that make it show an update, "" if it does.

    is_plain: the terminal shows ASCII only, whoever draws: Textual's own frames and bars, too, and any name.
    """

    def __init__(self, *, is_plain: bool = False) -> None:
        self._is_plain = is_plain
        self._width = self._height = 0
        self._texts: list[list[str]] = []
        self._pens: list[list[Pen]] = []
        self._cursor = (-1, -1)  # line and column where the last text ended
        self._known_pens: dict[Pen, Pen] = {}
        self._pens_of: dict[tuple[Style | None, ColorSystem], tuple[Pen, Pen]] = {}
        self._changes: dict[tuple[Pen, Pen], tuple[str, Pen]] = {}
        self.num_chars_sent = 0  # for tests

    def forget(self) -> None:
        """Nothing is known of what the terminal shows: it was left, or somebody else wrote on it."""
        self._texts = [[_UNKNOWN] * self._width for _ in range(self._height)]
        self._pens = [[DEFAULT_PEN] * self._width for _ in range(self._height)]

    def encode(self, update: LayoutUpdate | ChopsUpdate, width: int, height: int, colours: ColorSystem) -> str:
        if (width, height) != (self._width, self._height):
            self._width, self._height = width, height
            self.forget()
        out: list[str] = []
        pen = DEFAULT_PEN
        self._cursor = (-1, -1)
        for y, x, strip, most in _pieces(update):
            if 0 <= y < height and 0 <= x < width:
                texts, pens = self._cells(strip, colours)
                most = min(most, width - x)
                pen = self._put(out, y, x, texts[:most], pens[:most], pen)
        if pen != DEFAULT_PEN:
            out.append(self._change(pen, DEFAULT_PEN)[0])
        text = "".join(out)
        self.num_chars_sent += len(text)
        return text

    def _put(self, out: list[str], y: int, x: int, texts: list[str], pens: list[Pen], pen: Pen) -> Pen:
        num = len(texts)
        old_texts, old_pens = self._texts[y][x : x + num], self._pens[y][x : x + num]
        if old_texts == texts and old_pens == pens:
            return pen
        self._texts[y][x : x + num], self._pens[y][x : x + num] = texts, pens
        differs = [
            old_text != text or old_pen != new_pen
            for old_text, text, old_pen, new_pen in zip(old_texts, texts, old_pens, pens, strict=True)
        ]
        for start, end in _runs(differs, pens):
            if self._cursor != (y, x + start):
                is_in_line = self._cursor[0] == y
                out.append(f"\x1b[{x + start + 1}G" if is_in_line else f"\x1b[{y + 1};{x + start + 1}H")
            self._cursor = (y, x + end)
            at = start
            while at < end:
                same = pens[at]
                until = at + 1
                while until < end and pens[until] is same:
                    until += 1
                if same != pen:
                    codes, pen = self._change(pen, same)
                    out.append(codes)
                out.append("".join(texts[at:until]))
                at = until
        return pen

    # -- cells --------------------------------------------------------------------------------------------------

    def _cells(self, strip: Strip, colours: ColorSystem) -> tuple[list[str], list[Pen]]:
        """A text and a pen for each cell. The second cell of a wide character has no text."""
        texts: list[str] = []
        pens: list[Pen] = []
        pen_before = DEFAULT_PEN
        for text, style, _ in strip:
            try:
                pen, blank = self._pens_of[style, colours]
            except KeyError:
                pen, blank = (self._known_pens.setdefault(one, one) for one in _pens_of(style, colours))
                self._pens_of[style, colours] = pen, blank
            if text.isascii() or _ONE_CELL.fullmatch(text):
                cells: Iterable[str] = text
            else:
                while text and texts and get_character_cell_size(text[0]) == 0:  # a mark on the character before
                    lead = _lead(texts)
                    texts[lead], pens[lead] = texts[lead] + text[0], pen_before
                    text = text[1:]
                cells = _cells_of(text)
            if self._is_plain and not text.isascii():
                cells = [cell if cell.isascii() and cell else plain_character(cell) for cell in cells]
            for cell in cells:
                texts.append(cell)
                pens.append(blank if cell == " " else pen)
            pen_before = pen if cells else pen_before
        return texts, pens

    def _change(self, before: Pen, after: Pen) -> tuple[str, Pen]:
        """What changes the pen, in the fewest bytes, and the pen that it is then."""
        try:
            return self._changes[before, after]
        except KeyError:
            found = self._changes[before, after] = _change(before, after)
            return found


def _pieces(update: LayoutUpdate | ChopsUpdate) -> Iterator[tuple[int, int, Strip, int]]:
    """Line, column, what stands there from it on, and how many cells of that."""
    if isinstance(update, LayoutUpdate):
        for y, line in enumerate(update.strips, update.region.y):
            x = update.region.x
            for strip in line:
                if strip is not None:
                    yield y, x, strip, strip.cell_length
                    x += strip.cell_length
        return
    for y, x1, x2 in update.spans:
        for end, (x, strip_or_none) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if strip_or_none is not None and x <= x2 and end > x1:
                yield y, x, strip_or_none, end - x


def _runs(differs: Sequence[bool], pens: Sequence[Pen]) -> Iterator[tuple[int, int]]:
    """What to send, as (start, end): cells that differ, over short gaps of the same pen. Where the first cell of a wide
    character is new its second is drawn with it, and where the first is not, the second is not either."""
    num, at = len(differs), 0
    while at < num:
        if not differs[at]:
            at += 1
            continue
        start = end = at
        while at < num and (differs[at] or (at - end < MOST_BRIDGED and pens[at] is pens[end])):
            if differs[at]:
                end = at
            at += 1
        end += 1
        yield start, end


def _lead(texts: Sequence[str]) -> int:
    """Where the last character begins."""
    lead = len(texts) - 1
    while lead and not texts[lead]:
        lead -= 1
    return lead


def _cells_of(text: str) -> Sequence[str]:
    cells: list[str] = []
    for char in text:
        width = 1 if _ONE_CELL.fullmatch(char) else get_character_cell_size(char)
        if width == 0 and cells:
            cells[_lead(cells)] += char
        elif width:
            cells += [char, *[""] * (width - 1)]
    width = cell_len(text)
    if len(cells) != width:  # characters that are one together: only Rich knows how wide
        return [text, *[""] * (width - 1)] if width else []
    return cells


def plain_character(cell: str) -> str:
    """What stands for a cell that is not ASCII where only that is shown. Frames stay frames."""
    plain = cell.translate(PLAIN_GLYPHS)
    if len(plain) == 1 and plain.isascii():
        return plain
    first = cell[:1]
    if "\u2500" <= first <= "\u257f":
        return "-" if first in "─━┄┅┈┉═╌╍╴╶╸╺╼╾" else "|" if first in "│┃┆┇┊┋║╎╏╵╷╹╻╽╿" else "+"
    return " " if "\u2580" <= first <= "\u259f" else "?"


# -- styles -------------------------------------------------------------------------------------------------------


def _pens_of(style: Style | None, colours: ColorSystem) -> tuple[Pen, Pen]:
    """For a cell with a character, and for a blank one."""
    if style is None:
        return DEFAULT_PEN, DEFAULT_PEN._replace(is_blank=True)
    attributes = style._attributes & style._set_attributes
    link = f"id={style._link_id};{style._link}" if style._link else ""
    pen = Pen(attributes, _code(style.color, colours, True), _code(style.bgcolor, colours, False), link)
    seen = attributes & _SEEN_ON_BLANK
    return pen, Pen(seen, pen.front if seen else "", pen.back, link, True)


def _code(colour: Color | None, colours: ColorSystem, is_front: bool) -> str:
    if colour is None:
        return ""
    colour = colour.downgrade(colours)
    codes = ";".join(colour.get_ansi_codes(is_front))
    if colours is ColorSystem.TRUECOLOR and colour.triplet is not None:
        # The same colour by its number in the 256, where it is one of them: half of the bytes.
        number = _number_in_256(*colour.triplet)
        if number:
            return f"{38 if is_front else 48};5;{number}"
    return "" if codes in ("39", "49") else codes


def _number_in_256(red: int, green: int, blue: int) -> int:
    """Of the cube of 6 x 6 x 6 or the greys; 0 where it is none, or one that themes of shells change (up to 21)."""
    steps = (0, 95, 135, 175, 215, 255)
    if red in steps and green in steps and blue in steps:
        number = 16 + 36 * steps.index(red) + 6 * steps.index(green) + steps.index(blue)
        return number if number > 21 else 0
    if red == green == blue and 8 <= red <= 238 and (red - 8) % 10 == 0:
        return 232 + (red - 8) // 10
    return 0


def _change(before: Pen, after: Pen) -> tuple[str, Pen]:
    if after.is_blank:
        # What is not seen of a space may stay as it is.
        attributes = (before.attributes & ~_SEEN_ON_BLANK) | after.attributes
        after = Pen(attributes, after.front if after.attributes else before.front, after.back, after.link)
    else:
        after = after._replace(is_blank=False)
    before = before._replace(is_blank=False)
    codes: list[str] = []
    gone = before.attributes & ~after.attributes
    off = {_OFF[bit] for bit in range(len(_OFF)) if gone >> bit & 1}
    # Bold and dim, and both underlines, go together.
    stays = before.attributes & ~sum(1 << bit for bit in range(len(_OFF)) if _OFF[bit] in off)
    codes += sorted(off)
    codes += [_ON[bit] for bit in range(len(_ON)) if (after.attributes & ~stays) >> bit & 1]
    if before.front != after.front:
        codes.append(after.front or "39")
    if before.back != after.back:
        codes.append(after.back or "49")
    anew = ["0", *(_ON[bit] for bit in range(len(_ON)) if after.attributes >> bit & 1)]
    anew += [code for code in (after.front, after.back) if code]
    shortest = min(";".join(codes), ";".join(anew), key=len) if codes else ""
    text = f"\x1b[{'' if shortest == '0' else shortest}m" if shortest else ""
    if before.link != after.link:
        text += f"\x1b]8;{after.link}\x1b\\" if after.link else "\x1b]8;;\x1b\\"
    return text, after
