"""Sentences broken into lines: numbers stay with their units, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tui.text import cell_width
from ckpt_tui.tui.paragraphs import broken, paragraph


@pytest.mark.parametrize(
    ("sentence", "width", "expected"),
    [
        ("trains at 33 / s.", 15, ["trains at", "33 / s."]),
        ("then about 1m 36s.", 13, ["then about", "1m 36s."]),
        ("it is 10.4 MB in all", 9, ["it is", "10.4 MB", "in all"]),
        ("redoes 140 steps (2.0 s), more", 12, ["redoes", "140 steps", "(2.0 s),", "more"]),
        ("41 % of it", 3, ["41", "%", "of", "it"]),
        ("step 3,300; valid", 11, ["step 3,300;", "valid"]),
        ("/a/very/long/path here", 10, ["/a/very/lo", "ng/path", "here"]),
        ("", 10, [""]),
    ],
)
def test_a_number_stays_with_its_unit(sentence: str, width: int, expected: list[str]) -> None:
    assert broken(sentence, width) == expected


@given(st.text(alphabet="ab1 2/%s,.界", max_size=80), st.integers(min_value=2, max_value=30))
def test_no_line_is_too_long_and_no_character_is_lost(sentence: str, width: int) -> None:
    found = broken(sentence, width)
    assert all(cell_width(row) <= width for row in found)
    assert "".join(found).replace(" ", "") == sentence.replace(" ", "")


def test_the_lines_of_a_mark_are_in_line() -> None:
    text = paragraph("one two three four", 12, "warning", mark="▲ ").plain
    assert text == "▲ one two\n  three four"
    assert "\x1b" not in paragraph("a\x1b[2Jb", 40).plain
