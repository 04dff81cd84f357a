"""What is sent makes a terminal show what was drawn, whatever it showed before, and nothing is sent for nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

from ckpt_tui.tui.wire import Wire
from tests.builders.small_terminal import Look, SmallTerminal

WIDTH, HEIGHT = 12, 3
SEEN_ON_BLANK = {"underline", "reverse", "strike", "underline2", "overline"}
COLOURS = [None, "#5fafff", "#121212", "#010203", "#dadada", "red", "bright_black", "default"]
STYLES = st.builds(
    lambda front, back, **on: Style(color=front, bgcolor=back, **on),
    st.sampled_from(COLOURS),
    st.sampled_from(COLOURS),
    **{name: st.sampled_from([None, None, True, False])
       for name in ("bold", "dim", "italic", "underline", "reverse", "strike", "underline2", "overline")},
)  # fmt: skip
TEXTS = st.text(st.sampled_from("ab  ⣀─●你é\u0301"), min_size=1, max_size=6)


def strip_of(segments: list[Segment], width: int) -> Strip:
    return Strip(segments).adjust_cell_length(width)


STRIPS = st.lists(st.builds(lambda text, style: Segment(text, style), TEXTS, st.one_of(st.none(), STYLES)), max_size=5)


def colour_of(colour: Any) -> object:
    if colour is None or colour.is_default:
        return None
    return tuple(colour.triplet) if colour.triplet is not None else f"ansi {colour.number}"


def look_of(style: Style | None) -> Look:
    if style is None:
        return Look()
    names = ("bold", "dim", "italic", "underline", "reverse", "strike", "underline2", "overline")
    return Look(frozenset(n for n in names if getattr(style, n)), colour_of(style.color), colour_of(style.bgcolor))


def seen(text: str, look: Look) -> tuple[str, Look]:
    """Of a space only what can be seen of one."""
    if text != " ":
        return text, look
    on = look.on & SEEN_ON_BLANK
    return text, Look(on, look.front if on else None, look.back)


def expected(strip: Strip) -> list[tuple[str, Look]]:
    other = SmallTerminal(strip.cell_length + 2, 1)
    line: list[tuple[str, Look]] = []
    for text, style, _ in strip:
        for char in text:
            if other._write(0, 0, char, Look()) == 0 and line:
                at = max(i for i, (one, _) in enumerate(line) if one)
                line[at] = (line[at][0] + char, line[at][1])
            else:
                width = other._write(0, 0, char, Look())
                line += [(char, look_of(style)), *[("", look_of(style))] * (width - 1)]
    return line


def shown(terminal: SmallTerminal) -> list[list[tuple[str, Look]]]:
    return [[seen(*cell) for cell in line] for line in terminal.cells]


def no_mark_first(strip: Strip) -> bool:
    """A strip that begins with a combining mark has nothing to put it on."""
    return not strip.text.startswith("\u0301")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1), STRIPS.map(lambda s: strip_of(s, WIDTH)))
        .filter(lambda piece: no_mark_first(piece[2])),
        min_size=1,
        max_size=8,
    )
)  # fmt: skip
def test_the_terminal_shows_what_was_drawn(pieces: list[tuple[int, int, Strip]]) -> None:
    wire, terminal = Wire(), SmallTerminal(WIDTH, HEIGHT)
    blank = Strip.blank(WIDTH)
    wants = [[seen(*cell) for cell in expected(blank)] for _ in range(HEIGHT)]
    terminal.feed(wire.encode(LayoutUpdate([[blank]] * HEIGHT, Region(0, 0, WIDTH, HEIGHT)), WIDTH, HEIGHT, TRUE))
    for y, cut, strip in pieces:
        parts = {0: strip.crop(0, cut)} if cut else {}
        parts[cut] = strip.crop(cut, WIDTH)
        if not all(no_mark_first(part) for part in parts.values()):
            continue
        chops: list[dict[int, Strip | None]] = [{} for _ in range(HEIGHT)]
        chops[y] = dict(parts)
        ends: list[list[int]] = [[] for _ in range(HEIGHT)]
        ends[y] = [*sorted(parts)[1:], WIDTH]
        update = ChopsUpdate(chops, [(y, 0, WIDTH)], ends)
        terminal.feed(wire.encode(update, WIDTH, HEIGHT, TRUE))
        wants[y] = [seen(*cell) for part in parts.values() for cell in expected(part)]
        assert shown(terminal) == wants
        assert wire.encode(update, WIDTH, HEIGHT, TRUE) == "", "what is shown is not sent again"


TRUE = ColorSystem.TRUECOLOR


def drawn(*segments: tuple[str, str]) -> LayoutUpdate:
    strip = Strip([Segment(text, Style.parse(style)) for text, style in segments])
    return LayoutUpdate([[strip.adjust_cell_length(40)]], Region(0, 0, 40, 1))


def test_a_counter_that_goes_on_sends_its_digits() -> None:
    wire = Wire()
    wire.encode(drawn(("step ", "#8a8a8a on #121212"), ("1,337", "bold #dadada on #121212")), 40, 1, TRUE)
    update = drawn(("step ", "#8a8a8a on #121212"), ("1,438", "bold #dadada on #121212"))
    assert wire.encode(update, 40, 1, TRUE) == "\x1b[1;8H\x1b[1;38;5;253;48;5;233m438\x1b[m"


def test_what_goes_off_with_another_is_switched_on_again() -> None:
    """22 ends bold and dim alike."""
    for before, after in (("bold dim", "bold"), ("bold dim", "dim"), ("underline underline2", "underline")):
        terminal = SmallTerminal(40, 1)
        look = "#5fafff on #121212"
        terminal.feed(Wire().encode(drawn(("a", f"{before} {look}"), ("b", f"{after} {look}")), 40, 1, TRUE))
        assert terminal.cells[0][1][1].on == set(after.split())


def test_a_colour_that_is_none_of_the_256_is_sent_as_it_is() -> None:
    sent = Wire().encode(drawn(("x", "#010203")), 40, 1, TRUE)
    assert "38;2;1;2;3" in sent


def test_colours_that_a_shell_theme_changes_are_not_taken_for_others() -> None:
    assert "38;2;0;0;255" in Wire().encode(drawn(("x", "#0000ff")), 40, 1, TRUE)


def test_everything_is_sent_again_when_the_terminal_was_left() -> None:
    wire = Wire()
    first = wire.encode(drawn(("abc", "bold")), 40, 1, TRUE)
    assert wire.encode(drawn(("abc", "bold")), 40, 1, TRUE) == ""
    wire.forget()
    assert wire.encode(drawn(("abc", "bold")), 40, 1, TRUE) == first


def test_another_size_begins_anew() -> None:
    wire = Wire()
    wire.encode(drawn(("abc", "bold")), 40, 1, TRUE)
    assert "abc" in wire.encode(drawn(("abc", "bold")), 41, 1, TRUE)
