"""The colours of the themes: what each role looks like, and the grounds it is drawn on.

Every colour is one of the 256 that a terminal has over SSH (`COLORTERM` is not forwarded), so what is told apart in
24 bit is told apart there. Text has a contrast of 4.5:1 at least on every ground of its theme (WCAG AA), lines of a
chart 3:1. `colour-blind` is Okabe and Ito's palette at the nearest of the 256: blue is good, yellow a warning and
orange an error, which people without red or without green cones still tell apart. Tests compute all of this.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_tui.records import dataclass


@dataclass(frozen=True, slots=True)
class Grounds:
    """What is painted behind and around. cursor: of the row under the cursor, dull while its list has no focus."""

    background: str
    surface: str
    panel: str
    foreground: str
    footer: str
    footer_text: str
    cursor: str
    cursor_text: str
    dull_cursor: str
    is_dark: bool = True


_BLACK = Grounds(
    background="#121212",  # 233
    surface="#1c1c1c",  # 234
    panel="#262626",  # 235
    foreground="#dadada",  # 253
    footer="#1c1c1c",
    footer_text="#a8a8a8",  # 248
    cursor="#005f87",  # 24
    cursor_text="#eeeeee",  # 255
    dull_cursor="#303030",  # 236
)

GROUNDS: Mapping[str, Grounds] = {
    "dark": _BLACK,
    "colour-blind": _BLACK,
    "light": Grounds(
        background="#ffffff",  # 231
        surface="#eeeeee",  # 255
        panel="#eeeeee",
        foreground="#1c1c1c",  # 234
        footer="#eeeeee",
        footer_text="#4e4e4e",  # 239
        cursor="#005f87",  # 24
        cursor_text="#ffffff",
        dull_cursor="#dadada",  # 253
        is_dark=False,
    ),
}

# A role by palette. run1 ... run6: runs on top of each other; each has a letter besides.
ROLES: Mapping[str, Mapping[str, str]] = {
    "dark": {
        "good": "#5fd787", "warning": "#ffaf5f", "error": "bold #ff5f5f", "accent": "#5fd7ff", "dim": "#949494",
        "strong": "bold", "track": "#626262", "axis": "#949494", "cursor": "#ffd787", "bad": "bold #ff5f5f",
        "train": "#5fafff", "val": "#d787ff", "abandoned": "#808080", "train_raw": "#5f87af", "val_raw": "#875f87",
        "run1": "#5fafff", "run2": "#ffaf5f", "run3": "#5fd787", "run4": "#d787ff", "run5": "#5fd7ff",
        "run6": "#ff8787",
    },
    "light": {
        "good": "#005f00", "warning": "#875f00", "error": "bold #af0000", "accent": "#005f87", "dim": "#585858",
        "strong": "bold", "track": "#9e9e9e", "axis": "#585858", "cursor": "#875f00", "bad": "bold #af0000",
        "train": "#005fd7", "val": "#8700af", "abandoned": "#6c6c6c", "train_raw": "#5f87af", "val_raw": "#af5faf",
        "run1": "#005fd7", "run2": "#af5f00", "run3": "#005f00", "run4": "#8700af", "run5": "#005f87",
        "run6": "#af0000",
    },
    "colour-blind": {
        "good": "#5fafff", "warning": "#ffff87", "error": "bold #ff8700", "accent": "#d787af", "dim": "#949494",
        "strong": "bold", "track": "#626262", "axis": "#949494", "cursor": "#ffffff", "bad": "bold #ff8700",
        "train": "#87d7ff", "val": "#ffaf00", "abandoned": "#808080", "train_raw": "#5f87af", "val_raw": "#875f00",
        "run1": "#5fafff", "run2": "#ffaf00", "run3": "#00af87", "run4": "#ffff87", "run5": "#d787af",
        "run6": "#ff5f00",
    },
    # The terminal's own sixteen, on its own background.
    "ansi": {
        "good": "green", "warning": "yellow", "error": "bold red", "accent": "cyan", "dim": "dim",
        "strong": "bold", "track": "dim", "axis": "dim", "cursor": "yellow", "bad": "bold red",
        "train": "blue", "val": "magenta", "abandoned": "dim", "train_raw": "dim", "val_raw": "dim",
        "run1": "blue", "run2": "yellow", "run3": "green", "run4": "magenta", "run5": "cyan", "run6": "red",
    },
    "ansi-light": {
        "good": "green", "warning": "magenta", "error": "bold red", "accent": "blue", "dim": "dim",
        "strong": "bold", "track": "dim", "axis": "dim", "cursor": "magenta", "bad": "bold red",
        "train": "blue", "val": "magenta", "abandoned": "dim", "train_raw": "dim", "val_raw": "dim",
        "run1": "blue", "run2": "red", "run3": "green", "run4": "magenta", "run5": "cyan", "run6": "yellow",
    },
    "ansi-colour-blind": {
        "good": "bright_blue", "warning": "yellow", "error": "bold bright_magenta", "accent": "cyan", "dim": "dim",
        "strong": "bold", "track": "dim", "axis": "dim", "cursor": "bright_white", "bad": "bold bright_magenta",
        "train": "cyan", "val": "yellow", "abandoned": "dim", "train_raw": "dim", "val_raw": "dim",
        "run1": "bright_blue", "run2": "yellow", "run3": "cyan", "run4": "magenta", "run5": "white",
        "run6": "bright_magenta",
    },
    # NO_COLOR: weight and lines only.
    "none": {
        "good": "", "warning": "bold", "error": "bold", "accent": "bold", "dim": "dim",
        "strong": "bold", "track": "dim", "axis": "dim", "cursor": "bold", "bad": "bold",
        "train": "", "val": "", "abandoned": "dim", "train_raw": "dim", "val_raw": "dim",
        "run1": "", "run2": "", "run3": "", "run4": "", "run5": "", "run6": "",
    },
}  # fmt: skip
