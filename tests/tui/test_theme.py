"""Colours by terminal, and what is computed of every palette: contrast, 256 colours, colour-blind people."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from rich.color import Color, ColorSystem

from ckpt_tui.settings import THEME_NAMES, Settings
from ckpt_tui.tui import palettes, terminal, theme
from ckpt_tui.tui.palettes import GROUNDS, ROLES

TEXT_ROLES = ("good", "warning", "error", "accent", "dim", "bad", "axis", "cursor")
STATES = ("good", "warning", "error")
CURVES = ("train", "val", "abandoned")
RUNS = ("run1", "run2", "run3", "run4", "run5", "run6")
TOLD_APART = (*STATES, "accent", "dim", "track", *CURVES, "train_raw", "val_raw")
FULL = tuple(GROUNDS)


@pytest.mark.parametrize(
    ("env", "palette", "system"),
    [
        ({"TERM": "xterm-256color"}, "dark", "256"),
        ({"TERM": "screen-256color"}, "dark", "256"),
        ({"TERM": "tmux-256color"}, "dark", "256"),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, "dark", "truecolor"),
        ({"TERM": "xterm-direct"}, "dark", "truecolor"),
        ({"TERM": "xterm-kitty"}, "dark", "256"),
        ({"TERM": "alacritty"}, "dark", "256"),
        ({"TERM": "xterm-ghostty"}, "dark", "256"),
        ({"TERM": "xterm"}, "ansi", "standard"),
        ({"TERM": "screen"}, "ansi", "standard"),
        ({"TERM": "tmux"}, "ansi", "standard"),
        ({"TERM": "linux"}, "ansi", "standard"),
        ({"TERM": "rxvt", "COLORFGBG": "0;default;15"}, "ansi-light", "standard"),
        ({}, "ansi", "standard"),
        ({"TERM": "vt220"}, "none", "standard"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": "1"}, "none", "standard"),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, "dark", "256"),  # no-color.org: empty does not count
    ],
)
def test_few_colours_and_no_color_get_the_terminals_own(env: dict[str, str], palette: str, system: str) -> None:
    assert theme.choose(env).palette == palette
    assert terminal.colour_system(env) == system


@pytest.mark.parametrize(
    ("wanted", "on_256", "on_16", "without"),
    [
        ("auto", "dark", "ansi", "none"),
        ("dark", "dark", "ansi", "none"),
        ("light", "light", "ansi-light", "none"),
        ("colour-blind", "colour-blind", "ansi-colour-blind", "none"),
        ("ansi", "ansi", "ansi", "none"),
    ],
)
def test_a_wished_theme_as_far_as_the_terminal_can_show_it(wanted: str, on_256: str, on_16: str, without: str) -> None:
    settings = Settings(theme=wanted)
    assert theme.choose({"TERM": "xterm-256color"}, settings).palette == on_256
    assert theme.choose({"TERM": "xterm"}, settings).palette == on_16
    assert theme.choose({"TERM": "xterm", "NO_COLOR": "1"}, settings).palette == without


def test_every_theme_that_can_be_set_is_tested() -> None:
    assert [row[0] for row in test_a_wished_theme_as_far_as_the_terminal_can_show_it.pytestmark[0].args[1]] == list(
        THEME_NAMES
    )


def test_every_palette_has_every_role_and_makes_a_theme() -> None:
    assert all(roles.keys() == ROLES["dark"].keys() for roles in ROLES.values())
    for name in ROLES:
        look = theme.Look(palette=name)
        assert theme.theme_of(look).ansi is look.ansi
        assert theme.role_styles(look).keys() == ROLES["dark"].keys()


def test_unicode_can_be_wished_for_and_wished_away() -> None:
    latin = {"TERM": "xterm", "LANG": "de_DE.ISO-8859-1"}
    assert theme.choose(latin).unicode is False
    assert theme.choose(latin, Settings(unicode=True)).unicode is True
    assert theme.choose({"LANG": "C.UTF-8"}, Settings(unicode=False)).unicode is False


# -- what is computed ----------------------------------------------------------------------------------------------


def colour_of(name: str, role: str) -> str:
    return ROLES[name][role].rpartition(" ")[2]


def slot(colour: str) -> int | None:
    return Color.parse(colour).downgrade(ColorSystem.EIGHT_BIT).number


def linear(colour: str) -> list[float]:
    red, green, blue = Color.parse(colour).get_truecolor()
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (red / 255, green / 255, blue / 255)]


def contrast(first: str, second: str) -> float:
    """WCAG 2: (lighter + 0.05) / (darker + 0.05) of relative luminances."""
    luminances = [
        sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear(one), strict=True)) for one in (first, second)
    ]
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
EYES = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red cones": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "no green cones": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
}


def lab(colour: str, eyes: str) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of a colour as such eyes see it."""
    seen = linear(colour)
    red, green, blue = (min(max(sum(m * v for m, v in zip(row, seen, strict=True)), 0.0), 1.0) for row in EYES[eyes])
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883

    def f(t: float) -> float:
        return t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116

    return 116 * f(y) - 16, 500 * (f(x) - f(y)), 200 * (f(y) - f(z))


def distance(first: str, second: str, eyes: str) -> float:
    return sum((a - b) ** 2 for a, b in zip(lab(first, eyes), lab(second, eyes), strict=True)) ** 0.5


def in_256(colour: str) -> str:
    """What a terminal of 256 colours shows for it. Rich takes light greys for the one below."""
    number = slot(colour)
    assert number is not None
    red, green, blue = Color.from_ansi(number).get_truecolor()
    return f"#{red:02x}{green:02x}{blue:02x}"


@pytest.mark.parametrize("name", FULL)
def test_every_colour_is_one_of_the_256(name: str) -> None:
    used = {colour_of(name, role) for role in ROLES[name] if role != "strong"}
    used |= {value for field in palettes.Grounds.__slots__ if isinstance(value := getattr(GROUNDS[name], field), str)}
    for colour in used:
        shown = in_256(colour)
        is_grey = len({colour[1:3], colour[3:5], colour[5:7]}) == 1
        assert shown == colour or (is_grey and 0 <= int(colour[1:3], 16) - int(shown[1:3], 16) <= 10), (colour, shown)


@pytest.mark.parametrize("name", FULL)
def test_what_is_told_apart_in_24_bit_is_told_apart_in_256_colours(name: str) -> None:
    numbers = {role: slot(colour_of(name, role)) for role in TOLD_APART}
    numbers |= {"text": slot(GROUNDS[name].foreground), "background": slot(GROUNDS[name].background)}
    assert len(set(numbers.values())) == len(numbers), numbers
    assert len({slot(colour_of(name, role)) for role in RUNS}) == len(RUNS)
    grounds = GROUNDS[name]
    assert len({slot(c) for c in (grounds.background, grounds.cursor, grounds.dull_cursor)}) == 3


@pytest.mark.parametrize("name", FULL)
def test_text_can_be_read_on_every_ground(name: str) -> None:
    grounds = GROUNDS[name]
    on = [grounds.background, grounds.surface, grounds.panel]
    pairs = [(colour_of(name, role), ground) for role in TEXT_ROLES for ground in on]
    pairs += [(grounds.foreground, ground) for ground in (*on, grounds.dull_cursor)]
    pairs += [(grounds.cursor_text, grounds.cursor), (grounds.footer_text, grounds.footer)]
    pairs += [(colour_of(name, role), grounds.background) for role in ("abandoned", *RUNS)]  # words in a chart's title
    pairs += [(in_256(text), in_256(ground)) for text, ground in pairs]
    low = {pair: round(contrast(*pair), 2) for pair in pairs if contrast(*pair) < 4.5}
    assert low == {}


@pytest.mark.parametrize("name", FULL)
def test_lines_of_a_chart_can_be_seen(name: str) -> None:
    ground = GROUNDS[name].background
    assert all(
        contrast(in_256(colour_of(name, role)), in_256(ground)) >= 3
        for role in (*CURVES, "train_raw", "val_raw", *RUNS)
    )


@pytest.mark.parametrize("eyes", EYES)
def test_colour_blind_people_tell_states_and_curves_apart(eyes: str) -> None:
    for group in (STATES, CURVES):
        for first, second in itertools.combinations(group, 2):
            apart = distance(colour_of("colour-blind", first), colour_of("colour-blind", second), eyes)
            assert apart >= 30, (first, second, eyes, round(apart))


def test_the_measure_finds_what_the_dark_theme_does_not_tell_apart() -> None:
    """Otherwise the test above could not fail."""
    assert distance(colour_of("dark", "good"), colour_of("dark", "error"), "no green cones") < 20
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert distance("#ff0000", "#ff0000", "no red cones") == 0


@pytest.mark.parametrize("name", ["colour-blind", "ansi-colour-blind"])
def test_no_red_and_no_green_for_the_colour_blind(name: str) -> None:
    for role in (*STATES, "bad"):
        colour = Color.parse(colour_of(name, role))
        if name == "ansi-colour-blind":
            assert colour.number not in (1, 2, 9, 10)
            continue
        red, green, blue = colour.get_truecolor()
        assert not (green > 1.2 * red and green > 1.2 * blue), f"{role} is green"
        assert not (red > 2 * green and red > 2 * blue), f"{role} is red"


def test_with_no_color_a_role_is_weight_and_line_only() -> None:
    styles: Any = theme.role_styles(theme.Look(palette="none"))
    assert all(style.color is None and style.bgcolor is None for style in styles.values())
    assert styles["error"].bold
