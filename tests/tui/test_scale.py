"""Axes: clean numbers, whole steps, nothing outside."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.tui import scale
from ckpt_tui.tui.scale import XScale


def labels(ticks: tuple[scale.Tick, ...]) -> list[str]:
    return [tick.label for tick in ticks]


def test_y_labels_are_clean_numbers() -> None:
    assert labels(scale.y_scale(1.05, 4.1, 7).ticks(9)) == ["1", "2", "3", "4"]
    assert labels(scale.y_scale(2.2301, 2.4498, 9).ticks(9)) == ["2.2", "2.3", "2.4"]
    assert labels(scale.y_scale(0.0, 0.0009, 8).ticks(9)) == ["0", "2.5e-4", "5e-4", "7.5e-4"]
    assert labels(scale.y_scale(-5.0, 5.0, 9).ticks(9)) == ["-5.0", "-2.5", "0.0", "2.5", "5.0"]


@settings(max_examples=80, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 60))
def test_the_y_axis_holds_the_data_and_spaces_its_ticks_evenly(low: float, span: float, num_rows: int) -> None:
    y = scale.y_scale(low, low + span, num_rows)
    assert y.low <= low + 1e-6 * abs(low)
    assert y.high >= (low + span) - 1e-6 * abs(low)
    rows = [int((1 - y.fraction(tick.value)) * num_rows) for tick in y.ticks(9)]
    gaps = {before - after for before, after in pairwise(rows)}
    assert len(gaps) <= 1 or span / max(abs(low), 1) < 1e-9, (rows, y)
    if span > 1e-3 * abs(low):
        assert rows, "no tick"
        assert all(len(tick.label) <= 7 for tick in y.ticks(9)), labels(y.ticks(9))


@pytest.mark.parametrize("value", [0.0, 1e-9, 5.0, -3.0, 1e12])
def test_a_flat_line_has_an_axis(value: float) -> None:
    y = scale.y_scale(value, value, 8)
    assert y.low < value < y.high


def test_log_ticks_are_powers_with_two_and_five_where_there_is_room() -> None:
    assert labels(scale.log_ticks(0.5, 200, 9)) == ["0.5", "1", "2", "5", "10", "20", "50", "100", "200"]
    assert labels(scale.log_ticks(1e-6, 1e6, 4)) == ["1e-6", "0.001", "1", "1k", "1M"]


def test_step_ticks_are_whole_and_tell_apart() -> None:
    assert labels(scale.step_ticks(0, 8500, 5)) == ["0", "2k", "4k", "6k", "8k"]
    assert labels(scale.step_ticks(0, 8, 6)) == ["0", "2", "4", "6", "8"]
    assert labels(scale.step_ticks(123_400, 123_420, 4)) == ["123,400", "123,405", "123,410", "123,415", "123,420"]


def test_time_ticks_count_from_the_start() -> None:
    assert labels(scale.time_ticks(1000, 1000 + 5400, 1000, 6)) == ["0", "15m", "30m", "45m", "1h", "1h15", "1h30"]
    assert labels(scale.time_ticks(1000, 1090, 1000, 6)) == ["0", "15s", "30s", "45s", "1m", "1:15", "1:30"]


def test_cells_and_values_agree() -> None:
    x = XScale("step", 100, 200, 40)
    assert [x.cell(x.value(cell)) for cell in range(40)] == list(range(40))
    assert (x.cell(100), x.cell(200), x.cell(99), x.cell(201)) == (0, 39, None, None)
