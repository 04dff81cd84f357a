"""Hostile text is made harmless; sizes, spans and counts read as a person writes them."""

from __future__ import annotations

import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tui import text
from ckpt_tui.tui import facts


@given(st.text(max_size=400), st.integers(1, 300))
def test_safe_text_is_one_bounded_line_that_cannot_speak_to_a_terminal(hostile: str, limit: int) -> None:
    safe = text.safe_text(hostile, limit)
    assert len(safe) <= limit
    assert all(unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"} for char in safe)


@given(st.text(alphabet=st.characters(categories=("Lu", "Ll", "Nd", "Po", "Zs")), max_size=100))
def test_safe_text_leaves_ordinary_text_alone(ordinary: str) -> None:
    assert text.safe_text(ordinary) == ordinary


@pytest.mark.parametrize(
    ("hostile", "safe"),
    [
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("\x9b31m", "\\x9b31m"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("Größe 層", "Größe 層"),
    ],
)
def test_safe_text_shows_what_it_escapes(hostile: str, safe: str) -> None:
    assert text.safe_text(hostile) == safe


@given(st.text(max_size=60), st.integers(0, 50), st.sampled_from(["left", "right"]), st.sampled_from(["start", "end"]))
def test_fit_takes_exactly_the_width(string: str, width: int, align: str, keep: str) -> None:
    safe = text.safe_text(string)
    fitted = text.fit(safe, width, align, keep)
    # A wide character that has no room leaves one cell to padding.
    assert width - 1 <= text.cell_width(fitted) <= width or width == 0


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (10_400_000, "10.4 MB"), (999_960_000, "1.0 GB"), (5e15, "5.0 PB")],
)
def test_size(num_bytes: float, expected: str) -> None:
    assert text.size(num_bytes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0032, "3 ms"), (0.9996, "1.0 s"), (6.5, "6.5 s"), (9.97, "10 s"), (59.7, "1m 00s"), (234, "3m 54s"),
        (3599.6, "1h 00m"), (23_460, "6h 31m"), (2 * 86400 + 4 * 3600, "2d 4h"), (None, "-"), (math.nan, "-"),
        (math.inf, "-"), (-5, "-5.0 s"),
    ],
)  # fmt: skip
def test_duration(seconds: float | None, expected: str) -> None:
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.5, "500 ms"), (6.5, "6.5 s"), (59.7, "59 s"), (3599.6, "59m 59s"), (55_960, "15h 32m"), (262_000, "3d 0h")],
)
def test_elapsed_is_what_a_clock_has_counted(seconds: float, expected: str) -> None:
    """The header said 15h 32m ago where the line below it was silent for 15h 33m."""
    assert text.elapsed(seconds) == expected
    if seconds >= 3600:
        assert facts.ago_words(seconds) == f"{expected} ago"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.48213, "1.482"), (12.5, "12.500"), (0.0006, "6e-4"), (3e-4, "3e-4"), (0.0, "0.000"), (math.nan, "nan"),
        (-math.inf, "-inf"), (8421.4, "8,421"), (1.25e9, "1.25e9"), (None, "-"), (-0.25, "-0.250"), (1e-10, "1e-10"),
    ],
)  # fmt: skip
def test_metric(value: float | None, expected: str) -> None:
    assert text.metric(value) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(950, "950"), (8412, "8.41k"), (9400, "9.4k"), (999_600, "1M"), (2_600_000, "2.6M"), (124e6, "124M"), (7e9, "7B")],
)
def test_short_count(number: float, expected: str) -> None:
    assert text.short_count(number) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(9.9, "9 s"), (61, "1 m"), (6.6 * 3600, "6 h"), (13 * 86400, "13 d"), (-3, "0 s")]
)
def test_short_age(seconds: float, expected: str) -> None:
    assert text.short_age(seconds) == expected
