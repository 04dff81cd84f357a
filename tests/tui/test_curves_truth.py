"""What the chart must never hide: a spike, a value that is not finite, a branch, at any zoom and any length of log."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.run.epochs import Epochs
from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.state import Segment, Series
from ckpt_tui.tui import plot
from ckpt_tui.tui.columns import pieces_of
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.points import extent_of, point_at
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.view import View, x_scale
from tests.builders.run_states import series

MILLION = 1_000_000
SPIKE_AT, NAN_AT = 654_321, 123_456


def text(one: plot.Plot) -> list[str]:
    return ["".join(part for part, _ in row) for row in one.rows]


def draw(
    one: Series, x: XScale, height: int = 12, *, unicode: bool = True, is_log: bool = False, y_range: str = "all"
) -> plot.Plot:
    lines = plot.lines_of([NamedCurve("train", one)], x, unicode=unicode)
    return plot.draw(lines, x, height, unicode=unicode, is_log=is_log, y_range=y_range)


@cache
def a_million_points() -> Series:
    """Noise around 2, one spike to 9, one NaN."""
    steps = range(1, MILLION + 1)
    values = [2.0 + 0.001 * (step * 7919 % 101) for step in steps]
    values[SPIKE_AT - 1] = 9.0
    values[NAN_AT - 1] = math.nan
    builder = SeriesBuilder("loss")
    for start in range(0, MILLION, 4096):
        block = slice(start, start + 4096)
        builder.add_all(1, list(steps[block]), [0.05 * step for step in steps[block]], values[block])
    return builder.freeze()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(min_value=20, max_value=MILLION), st.floats(min_value=0.02, max_value=0.98),
    st.integers(min_value=3, max_value=200), st.booleans(), st.sampled_from(["step", "time", "epoch"]),
    st.sampled_from(["all", "auto", "tight"]),
)  # fmt: skip
def test_a_spike_of_one_step_in_a_million_is_seen_in_every_window_that_holds_it(
    window: int, share: float, width: int, unicode: bool, axis: str, y_range: str
) -> None:
    epochs = Epochs((0.0, 1270.0), (0.0, 1.0))
    per_step = {"step": 1.0, "time": 0.05, "epoch": 1 / 1270}[axis]
    x0 = (SPIKE_AT - share * window) * per_step
    x = XScale(axis, x0, x0 + window * per_step, width, epochs)
    one = draw(a_million_points(), x, unicode=unicode, y_range=y_range)
    bucket = 1024 * per_step / (x.x1 - x.x0) * width  # where it is, as far as a series of bounded size knows
    cell = share * width
    low, high = max(int(cell - bucket) - 1, 0), int(cell) + 1
    tops = [row for row, line in enumerate(text(one)) if line[low : high + 1].strip()]
    assert tops[0] <= 1
    assert one.range is not None
    assert one.range.highest == 9.0


@settings(max_examples=30, deadline=None)
@given(
    st.integers(min_value=20, max_value=MILLION), st.floats(min_value=0.02, max_value=0.98),
    st.integers(min_value=3, max_value=200), st.booleans(),
)  # fmt: skip
def test_a_nan_of_one_step_in_a_million_is_marked_in_every_window_that_holds_it(
    window: int, share: float, width: int, unicode: bool
) -> None:
    x0 = NAN_AT - share * window
    one = draw(a_million_points(), XScale("step", x0, x0 + window, width), unicode=unicode)
    assert one.num_bad >= 1
    assert ("×" if unicode else "x") in text(one)[0]


def test_the_readout_tells_of_the_spike_under_the_cursor_and_where_it_is() -> None:
    x = XScale("step", 0, MILLION, 100)
    cell = x.cell(SPIKE_AT)
    assert cell is not None
    point = point_at(NamedCurve("train", a_million_points()), x, cell)
    assert point is not None
    assert point.hi == 9.0
    assert point.peak_step <= SPIKE_AT < point.peak_step + 1024


@pytest.mark.parametrize("unicode", [True, False])
def test_closer_than_the_series_knows_the_extremes_of_its_buckets_are_shaded_over_all_their_steps(
    unicode: bool,
) -> None:
    x = XScale("step", SPIKE_AT - 10_000, SPIKE_AT + 10_000, 200)
    shown = draw(a_million_points(), x, unicode=unicode, y_range="auto")
    assert shown.has_bands
    assert all(any(line[cell] != " " for line in text(shown)) for cell in range(0, 199, 4))
    assert not draw(a_million_points(), XScale("step", 0, MILLION, 200), unicode=unicode).has_bands
    # A value of its own is no bucket, however far the next one is.
    few = series("val_loss", [(100, 1.0), (5000, 2.0)])
    assert not draw(few, XScale("step", 0, 6000, 200), unicode=unicode).has_bands
    huge = replace(a_million_points(), segments=tuple(_spiked(one) for one in a_million_points().segments))
    cut = draw(huge, x, unicode=unicode, y_range="auto")
    assert cut.range is not None
    assert (cut.range.highest, cut.range.num_above) == (9e6, 1)


def _spiked(segment: Segment) -> Segment:
    return replace(segment, hi=array("d", [9e6 if value == 9.0 else value for value in segment.hi]))


# -- no value is lost, whatever the axis -------------------------------------------------------------------------

_values = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(min_value=1, max_value=50), _values), min_size=1, max_size=120),
    st.integers(min_value=1, max_value=90), st.floats(min_value=0, max_value=0.9),
    st.floats(min_value=0.05, max_value=1), st.sampled_from(["step", "time"]),
)  # fmt: skip
def test_columns_hold_every_value_in_view_and_no_other(
    gaps: list[tuple[int, float]], num_columns: int, start: float, length: float, axis: str
) -> None:
    points, at = [], 0
    for gap, value in gaps:
        at += gap
        points.append((at, value))
    one = series("loss", points, start_ts=0.0)
    x = XScale(axis, at * start, at * start + max(at * length, 1.0), 10)
    columns = [piece for segment in one.segments for piece in pieces_of(segment, x, num_columns)]
    shown = [(column.lo, column.hi) for piece in columns for column in piece.columns if column is not None]
    in_view = [value for step, value in points if x.x0 <= step <= x.x1]
    assert all(any(low <= value <= high for low, high in shown) for value in in_view)
    before = [value for step, value in points if step < x.x0][-1:]
    if shown:
        assert max(high for _, high in shown) <= max([*in_view, *before])
        assert min(low for low, _ in shown) >= min([*in_view, *before])


# -- branches ----------------------------------------------------------------------------------------------------


@st.composite
def resumes(draw_: st.DrawFn) -> list[tuple[int, int]]:
    """Sessions as (start, end), each from at or before the end of the one before it."""
    plan, end = [], 0
    for _ in range(draw_(st.integers(min_value=1, max_value=6))):
        start = draw_(st.integers(min_value=0, max_value=end))
        end = start + draw_(st.integers(min_value=5, max_value=300))
        plan.append((start, end))
    return plan


def trained(plan: Sequence[tuple[int, int]]) -> Series:
    """Every session's values are its own number, a second a step and an hour between sessions."""
    builder, ts = SeriesBuilder("loss"), 0.0
    for number, (start, end) in enumerate(plan, start=1):
        if number > 1:
            builder.abandon_after(start)
            ts += 3600
        steps = list(range(start + 1, end + 1))
        builder.add_all(number, steps, [ts + index for index in range(len(steps))], [float(number)] * len(steps))
        ts += len(steps)
    return builder.freeze()


@settings(max_examples=80, deadline=None)
@given(resumes(), st.sampled_from(["step", "epoch"]))
def test_after_any_number_of_resumes_the_live_line_shows_what_is_live_and_nothing_else(
    plan: list[tuple[int, int]], axis: str
) -> None:
    live: dict[int, float] = {}
    for number, (start, end) in enumerate(plan, start=1):
        live = {step: value for step, value in live.items() if step <= start}
        live |= dict.fromkeys(range(start + 1, end + 1), float(number))
    last = max(live)
    epochs = Epochs((0.0, 100.0), (0.0, 1.0))
    per_step = 1.0 if axis == "step" else 0.01
    x = XScale(axis, 0.5 * per_step, (last + 0.5) * per_step, 10, epochs)
    columns = [
        (index, column)
        for segment in trained(plan).segments
        for piece in pieces_of(segment, x, last)
        if not piece.is_abandoned
        for index, column in enumerate(piece.columns, piece.first)
        if column is not None
    ]
    seen = {index + 1: column.lo for index, column in columns if column.lo == column.hi}
    assert all(abs(step - near) <= 1 for step in live for near in [min(seen, key=lambda one: abs(one - step))])
    wrong = [step for step, value in seen.items() if value not in {live.get(step + by) for by in (-1, 0, 1)}]
    assert not wrong


@settings(max_examples=40, deadline=None)
@given(resumes(), st.sampled_from(["step", "time", "epoch"]), st.integers(min_value=8, max_value=120))
def test_no_line_joins_two_branches(plan: list[tuple[int, int]], axis: str, width: int) -> None:
    """Sessions are level lines: an abandoned one that were joined to another would rise in between."""
    one = trained(plan)
    epochs = Epochs((0.0, 100.0), (0.0, 1.0))
    curve = NamedCurve("train", one, epochs=epochs)
    extent = extent_of([curve], axis)
    assert extent is not None
    x = XScale(axis, extent[0], max(extent[1], extent[0] + 1e-6), width, epochs)
    for line in plot.lines_of([curve], x):
        if line.role == plot.ABANDONED or axis == "time":
            for piece in line.pieces:
                values = {column.lo for column in piece.columns if column is not None}
                assert len(values) <= 1


def test_a_clock_that_jumps_back_shows_every_value_once() -> None:
    builder = SeriesBuilder("loss")
    times = [*range(100), *range(40, 140)]
    builder.add_all(1, list(range(1, 201)), [float(ts) for ts in times], [float(step) for step in range(1, 201)])
    shown = draw(builder.freeze(), XScale("time", 45, 60, 70))
    assert shown.range is not None
    assert (shown.range.lowest, shown.range.highest) == (46.0, 121.0)


def test_the_last_steps_of_a_session_are_there_however_close_one_looks() -> None:
    builder = SeriesBuilder("loss")
    steps = list(range(1, 10_001))
    builder.add_all(1, steps, [float(step) for step in steps], [2.0] * len(steps))
    builder.abandon_after(5000)
    builder.add_all(2, list(range(5001, 5101)), [2e4 + step for step in range(100)], [1.0] * 100)
    assert builder.freeze().segments[0].steps[-1] < 9999  # its last bucket begins before the window
    for axis, end in (("step", 10_000.0), ("time", 10_000.0)):
        assert draw(builder.freeze(), XScale(axis, end - 1, end + 1, 40)).range is not None
        assert draw(builder.freeze(), XScale(axis, end + 50, end + 60, 40)).range is None


# -- odd values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("is_log", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [2.5], [2.5, 2.5], [1.0, 2.0], [0.0] * 50, [-3.0, -2.0, -1.0] * 20, [1e-12 * step for step in range(1, 60)],
        [1e30 * step for step in range(1, 60)], [1e30, 1e-30] * 20, [1.7e308, -1.7e308] * 10, [5e-324] * 10,
        [math.nan] * 30, [math.inf, 1.0, -math.inf], [1e15 + step for step in range(30)],
    ],
)  # fmt: skip
def test_odd_values_are_drawn_with_labels_that_fit(values: list[float], is_log: bool, unicode: bool) -> None:
    one = series("loss", list(enumerate(values, start=1)))
    for y_range in ("all", "auto", "tight"):
        for height in (1, 2, 4, 25):
            x = XScale("step", 0, max(len(values), 2), 40)
            shown = draw(one, x, height, unicode=unicode, is_log=is_log, y_range=y_range)
            assert len(shown.rows) == height
            assert {len(line) for line in text(shown)} == {40}
            assert all(len(label) <= 6 for label in shown.labels.values()), shown.labels
            drawable = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
            assert bool("".join(text(shown)).strip()) == bool(drawable or shown.num_bad or shown.num_unloggable)


def test_log_y_marks_what_it_cannot_show() -> None:
    one = series("loss", [(step, -1.0 if step == 50 else 0.0 if step == 80 else 10.0) for step in range(1, 101)])
    shown = draw(one, XScale("step", 0, 100, 50), is_log=True)
    assert shown.num_unloggable == 2
    assert [index for index, char in enumerate(text(shown)[-1]) if char == "▼"] == [25, 40]
    assert draw(one, XScale("step", 0, 100, 50)).num_unloggable == 0


@pytest.mark.parametrize("first", [0, 2**53, 2**62])
def test_steps_beyond_what_a_float_counts_are_drawn(first: int) -> None:
    one = series("loss", [(first + step, 1.0 + step % 7) for step in range(1, 400)], start_ts=0.0)
    curve = NamedCurve("train", one)
    extent = extent_of([curve], "step")
    x = x_scale(View(), extent, 60, is_over=False)
    assert x is not None
    assert x.x1 > x.x0
    assert "".join(text(draw(one, x))).strip()
    assert any(point_at(curve, x, cell) is not None for cell in range(60))


# -- one spike does not flatten the rest -------------------------------------------------------------------------


def course(*spikes: tuple[int, float]) -> Series:
    points = {step: 1.5 + 3 * math.exp(-step / 100) + 0.02 * (step % 5) for step in range(1, 1001)} | dict(spikes)
    return series("loss", list(points.items()))


def rows_used(shown: plot.Plot) -> int:
    return sum(bool(line[:10].strip()) for line in text(shown))


def test_a_huge_spike_is_cut_off_and_marked_so_that_the_curve_stays_a_curve() -> None:
    x = XScale("step", 0, 1000, 50)
    flat, cut = (draw(course((700, 1.2e6)), x, y_range=choice) for choice in ("all", "auto"))
    assert rows_used(flat) == 1
    assert rows_used(cut) >= 6
    assert text(cut)[0].index("▲") == 35
    assert cut.range is not None
    assert (cut.range.num_above, cut.range.highest) == (1, 1.2e6)


def test_a_modest_spike_and_the_high_start_of_a_curve_stay_in_view() -> None:
    shown = draw(course((700, 9.0)), XScale("step", 0, 1000, 50), y_range="auto")
    assert shown.range is not None
    assert (shown.range.high, shown.range.num_above) == (9.0, 0)
    steep = series("loss", [(step, 1.0 + 1e4 * math.exp(-step / 3)) for step in range(1, 1001)])
    start = draw(steep, XScale("step", 0, 1000, 50), y_range="auto")
    assert start.range is not None
    assert start.range.num_above <= 1


def test_a_tight_range_cuts_what_auto_leaves_in_view_and_downward_spikes_too() -> None:
    tight = draw(course((700, 9.0), (300, -4.0)), XScale("step", 0, 1000, 50), y_range="tight")
    assert tight.range is not None
    assert (tight.range.num_above, tight.range.num_below) == (1, 1)
    assert "▲" in text(tight)[0]
    assert "▼" in text(tight)[-1]
    plain = draw(course((700, 9.0)), XScale("step", 0, 1000, 50), y_range="tight", unicode=False)
    assert "^" in text(plain)[0]
