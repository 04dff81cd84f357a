"""Tables stay aligned and inside the terminal; colour is never part of a width."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tui import text
from ckpt_tui.output import Column, Style, table

COLUMNS = [Column("name", shrink=True, keep="end"), Column("bytes", align="right"), Column("state")]


def test_a_table_is_aligned() -> None:
    rows = [["latest.pt", "10.4 MB", ("valid", "good")], ["rolling_step_000250.pt", "9 B", ("damaged", "bad")]]
    assert table(COLUMNS, rows, Style()) == [
        "name                      bytes  state",
        "latest.pt               10.4 MB  valid",
        "rolling_step_000250.pt      9 B  damaged",
    ]


def test_colour_changes_no_position() -> None:
    rows = [["latest.pt", "10.4 MB", ("valid", "good")]]
    painted = table(COLUMNS, rows, Style(colour=True))
    assert "\x1b[32m" in painted[1]
    assert [re.sub(r"\x1b\[\d*m", "", line) for line in painted] == table(COLUMNS, rows, Style())


@given(st.lists(st.text(max_size=120), min_size=1, max_size=5), st.integers(40, 200))
def test_a_table_fits_the_width_when_a_column_may_shrink(names: list[str], width: int) -> None:
    rows = [[text.safe_text(name), "10.4 MB", "valid"] for name in names]
    for line in table(COLUMNS, rows, Style(width=width)):
        assert text.cell_width(line) <= width


def test_columns_leave_one_by_one_where_a_line_is_still_too_long() -> None:
    columns = [Column("run", shrink=True), Column("step", leaves=2), Column("seen", leaves=1), Column("at risk")]
    rows = [["a" * 20, "1,500 / 1,500", "9 m", "30, 332 ms"]]
    titles = [table(columns, rows, Style(width=width))[0].split() for width in (60, 45, 40, 24, 10)]
    assert titles == [
        ["run", "step", "seen", "at", "risk"], ["run", "step", "seen", "at", "risk"], ["run", "step", "at", "risk"],
        ["run", "at", "risk"], ["run", "at", "risk"],
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_tables_of_runs_and_checkpoints_fit(width: int) -> None:
    from ckpt_tui.commands import several

    row = ["a-long-name-of-a-run", "● running", "100 %", "1,500 / 1,500", "2.183", "30, 332 ms", "18 m"]
    assert max(map(text.cell_width, table(several.COLUMNS, [row], Style(width=width)))) <= width


def test_where_none_may_leave_the_columns_that_shrink_become_as_narrow_as_it_takes() -> None:
    columns = [Column("setting", shrink=True, keep="end"), *(Column(letter, shrink=True) for letter in "ABCDEFGH")]
    rows = [["optimizer.learning_rate", *["0.0003000000000001"] * 8]]
    widths = [max(map(text.cell_width, table(columns, rows, Style(width=width)))) for width in (200, 130, 80, 62)]
    assert widths == [183, 130, 80, 62]
