"""A terminal that understands what `tui/wire.py` sends, and nothing else: an unknown sequence is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from rich.cells import get_character_cell_size

_TOKEN = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|\x1b\]8;([^\x1b]*)\x1b\\|(.)", re.DOTALL)
_ON = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 5: "blink", 7: "reverse", 9: "strike", 21: "underline2",
       53: "overline"}  # fmt: skip
_OFF = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline", "underline2"), 25: ("blink",), 27: ("reverse",),
        29: ("strike",), 55: ("overline",)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """Of a cell: what is switched on, and its colours, as 256-colour numbers, (r, g, b), or None."""

    on: frozenset[str] = frozenset()
    front: object = None
    back: object = None


@dataclass(slots=True)
class SmallTerminal:
    width: int
    height: int
    cells: list[list[tuple[str, Look]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cells = [[(" ", Look())] * self.width for _ in range(self.height)]

    def feed(self, data: str) -> None:
        x = y = 0
        look = Look()
        for match in _TOKEN.finditer(data):
            numbers, final, _, char = match.groups()
            if final == "H":
                y, x = (int(number) - 1 for number in numbers.split(";"))
            elif final == "G":
                x = int(numbers) - 1
            elif final == "m":
                look = _sgr(look, [int(number or 0) for number in numbers.split(";")])
            elif final:
                raise AssertionError(f"unknown sequence {match.group()!r}")
            elif char is not None:
                assert char >= " ", f"a control character {char!r}"
                x = self._write(x, y, char, look)
        assert look == Look(), "the pen is left as it was found"

    def _write(self, x: int, y: int, char: str, look: Look) -> int:
        width = get_character_cell_size(char)
        line = self.cells[y]
        if width == 0:
            lead = x - 1
            while not line[lead][0]:
                lead -= 1
            line[lead] = (line[lead][0] + char, line[lead][1])
            return x
        for at in range(x, x + width):
            if not line[at][0]:  # the second half of a wide one: its first half goes
                line[at - 1] = (" ", line[at - 1][1])
            if at + 1 < self.width and not line[at + 1][0]:
                line[at + 1] = (" ", line[at + 1][1])
        line[x] = (char, look)
        for at in range(x + 1, x + width):
            line[at] = ("", look)
        return x + width

    def text(self) -> list[str]:
        return ["".join(text for text, _ in line) for line in self.cells]


def _sgr(look: Look, codes: list[int]) -> Look:
    while codes:
        code = codes.pop(0)
        if code == 0:
            look = Look()
        elif code in _ON:
            look = replace(look, on=look.on | {_ON[code]})
        elif code in _OFF:
            look = replace(look, on=look.on - set(_OFF[code]))
        elif code in (38, 48):
            kind = codes.pop(0)
            colour: object
            if kind == 5:
                colour = rgb_of(codes.pop(0))
            else:
                colour, codes = tuple(codes[:3]), codes[3:]
            look = replace(look, front=colour) if code == 38 else replace(look, back=colour)
        elif code == 39:
            look = replace(look, front=None)
        elif code == 49:
            look = replace(look, back=None)
        elif 30 <= code <= 37 or 90 <= code <= 97:
            look = replace(look, front=f"ansi {code % 10 + (8 if code >= 90 else 0)}")
        elif 40 <= code <= 47 or 100 <= code <= 107:
            look = replace(look, back=f"ansi {code % 10 + (8 if code >= 100 else 0)}")
        else:
            raise AssertionError(f"unknown SGR {code}")
    return look


def rgb_of(number: int) -> tuple[int, int, int]:
    """A colour of the 256 as xterm shows it, from 16 on."""
    if number >= 232:
        return (8 + 10 * (number - 232),) * 3
    steps = (0, 95, 135, 175, 215, 255)
    number -= 16
    return steps[number // 36], steps[number // 6 % 6], steps[number % 6]
