"""Bytes of a terminal to keys: none is lost, whatever comes together, and nothing that comes ends the watch."""

from __future__ import annotations

from typing import Any

import pytest
from textual import events

from ckpt_tui.tui import driver
from ckpt_tui.tui.driver import KeysParser, alt_keys_of


def read(*pieces: str, parser: KeysParser | None = None, ticks: bool = True) -> list[str]:
    """What the pieces, each read at once, come to."""
    parser = parser or KeysParser()
    found: list[Any] = []
    for piece in pieces:
        found += parser.feed(piece)
    if ticks:
        found += parser._time_out() if parser._awaiting.timeout is not None else []
    return [one.text if isinstance(one, events.Paste) else getattr(one, "key", type(one).__name__) for one in found]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["\x1be"], ["escape", "e"]),
        (["\x1b", "e"], ["escape", "e"]),
        (["\x1b\r"], ["escape", "enter"]),
        (["\x1b\x1b\r"], ["escape", "escape", "enter"]),
        (["\x1bjjjj"], ["escape", "j", "j", "j", "j"]),
        (["\x1bb\x1bf"], ["escape", "b", "escape", "f"]),
        (["\x1b["], ["escape", "left_square_bracket"]),
        (["\x1b"], ["escape"]),
        (["\x1b[A\x1b[B"], ["up", "down"]),
        (["\x1b\x1b[A"], ["escape", "up"]),
        (["\x1b[", "A"], ["up"]),
        (["\x1bOP\x1b[15~"], ["f1", "f5"]),
        (["\x1b[<0;5;5M"], ["MouseDown"]),
        (["e\x1b?"], ["e", "escape", "question_mark"]),
    ],
)
def test_escape_and_what_follows_are_two_keys(pieces: list[str], expected: list[str]) -> None:
    assert read(*pieces) == expected


def test_the_key_after_an_escape_waits_for_nothing() -> None:
    assert read("\x1bj", ticks=False) == ["escape", "j"]


def test_alt_stays_where_it_means_something() -> None:
    own = alt_keys_of({"view.events": "alt+e", "view.alerts": "f3,alt+shift+a"})
    assert own == {"e", "A"}
    assert read("\x1be\x1bx", parser=KeysParser(alt_keys=own)) == ["alt+e", "escape", "x"]
    typing = KeysParser(is_typing=lambda: True)
    assert read("\x1bb\x1bfx", parser=typing) == ["ctrl+left", "ctrl+right", "x"]
    assert read("\x1be", parser=typing) == ["escape", "e"]


def test_a_paste_is_text_and_no_keys() -> None:
    begin, end = "\x1b[200~", "\x1b[201~"
    assert read(f"a{begin}q\x1b[31mred\x1bq\n{end}b") == ["a", "q\x1b[31mred\x1bq\n", "b"]
    assert read(f"{begin}one", " two", f" three{end[:3]}", f"{end[3:]}x") == ["one two three", "x"]
    assert read(f"{begin}{end}{begin}{end}") == ["", ""]


def test_a_paste_without_end_takes_no_keys_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(driver.time, "monotonic", lambda: now[0])
    parser = KeysParser()
    assert read("\x1b[200~lost", parser=parser) == []
    assert list(parser.tick()) == []
    now[0] += 2 * driver.PASTE_ENDS_S
    assert [type(one) for one in parser.tick()] == [events.Paste]
    assert read("q", parser=parser) == ["q"]
