"""Series: whatever the length, no spike is lost and memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.run.series import MAX_BUCKETS, SeriesBuilder

numbers = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=300)


@settings(max_examples=50)
@given(numbers, st.integers(1, 97), st.integers(1, 40))
def test_minimum_and_maximum_survive(values: list[float], size: int, repeat: int) -> None:
    values = values * repeat
    builder = SeriesBuilder("loss")
    for start in range(0, len(values), size):
        part = values[start : start + size]
        steps = list(range(start + 1, start + 1 + len(part)))
        builder.add_all(1, steps, [float(step) for step in steps], part)
    finite = [value for value in values if value == value]
    (segment,) = builder.freeze().segments
    assert len(segment.steps) <= MAX_BUCKETS
    assert sum(segment.bad) == len(values) - len(finite)
    assert min((v for v in segment.lo if v == v), default=None) == min(finite, default=None)
    assert max((v for v in segment.hi if v == v), default=None) == max(finite, default=None)


def rising(place: int) -> float:
    return place // 700 / 7  # as an epoch, or a constant for a while


def nearly_rising(place: int) -> float:
    return rising(place) - (50.0 if place % 501 == 250 else 0.0)  # a dip where nobody probes


def rising_with_gaps(place: int) -> float:
    return float("nan") if place % 401 in (0, 7) else rising(place) * (-1) ** (place // 3000)


@pytest.mark.parametrize("curve", [rising, nearly_rising, rising_with_gaps], ids=lambda curve: curve.__name__)
@pytest.mark.parametrize("size", [5, 300, 1400, 4096])
def test_what_rises_goes_into_the_same_buckets_as_point_by_point(curve: Callable[[int], float], size: int) -> None:
    single, blocks = SeriesBuilder("epoch"), SeriesBuilder("epoch")
    for place in range(12_000):
        single.add_all(1, [place], [float(place)], [curve(place)])
    for start in range(0, 12_000, size):
        steps = list(range(start, min(start + size, 12_000)))
        blocks.add_all(1, steps, list(map(float, steps)), list(map(curve, steps)))
    ours, theirs = blocks.freeze().segments[0], single.freeze().segments[0]
    assert list(ours.total) == pytest.approx(list(theirs.total), nan_ok=True)
    assert repr(replace(ours, total=theirs.total)) == repr(theirs)
    assert blocks.best == single.best


def test_an_unchanged_series_is_not_copied_again() -> None:
    builder = SeriesBuilder("loss")
    builder.add_all(1, [1], [1.0], [1.0])
    assert builder.freeze() is builder.freeze()


def test_a_long_segment_is_parted_exactly_at_the_save_that_a_resume_takes() -> None:
    """20,000 steps, a save every 500 told of three steps late; values above step 19,500 are of the abandoned branch."""
    builder = SeriesBuilder("loss")
    for step in range(1, 20_001):
        builder.add_all(1, [step], [float(step)], [1.0 if step <= 19_500 else 2.0])
        if step % 500 == 3:
            builder.cut_after(step - 3)
    builder.abandon_after(19_500)
    (segment,) = builder.freeze().segments
    assert len(segment.steps) <= MAX_BUCKETS
    parts = list(zip(segment.steps, segment.lo, segment.hi, strict=True))
    assert {(lo, hi) for step, lo, hi in parts if step <= 19_500} == {(1.0, 1.0)}
    assert {(lo, hi) for step, lo, hi in parts if step > 19_500} == {(2.0, 2.0)}
    assert 19_501 in list(segment.steps)


@pytest.mark.parametrize("size", [7, 256, 300, 4096])
def test_batches_make_no_difference_to_buckets_and_cuts(size: int) -> None:
    single, blocks = SeriesBuilder("loss"), SeriesBuilder("loss")
    start = 1
    for told_at in (*range(403, 9_000, 400), 9_000):
        steps = list(range(start, told_at + 1))
        for step in steps:
            single.add_all(1, [step], [float(step)], [float(step % 97)])
        for at in range(0, len(steps), size):
            part = steps[at : at + size]
            blocks.add_all(1, part, [float(step) for step in part], [float(step % 97) for step in part])
        for builder in (single, blocks):
            builder.cut_after(told_at - 3)
        start = told_at + 1
    assert single.freeze() == blocks.freeze()


@pytest.mark.parametrize("size", [7, 300, 511, 4096])
def test_a_save_told_of_long_after_its_step_parts_nothing_whatever_the_batches(size: int) -> None:
    """Points older than the newest 256 are in buckets already when the cut is told, also where they came at once."""
    single, blocks = SeriesBuilder("loss"), SeriesBuilder("loss")
    for start in range(1, 12_000, 500):
        steps = list(range(start, start + 500))
        values = [float(step % 97) for step in steps]
        for step, value in zip(steps, values, strict=True):
            single.add_all(1, [step], [float(step)], [value])
        for at in range(0, 500, size):
            part = steps[at : at + size]
            blocks.add_all(1, part, [float(step) for step in part], values[at : at + size])
        for builder in (single, blocks):
            builder.cut_after(start + 170)
    assert repr(single.freeze()) == repr(blocks.freeze())


def test_buckets_without_a_finite_value_hide_none_when_neighbours_are_joined() -> None:
    builder = SeriesBuilder("loss")
    steps = list(range(1, 9_001))
    values = [float("nan") if step % 2 or step % 1000 < 30 else float(step) for step in steps]
    for at in range(0, 9_000, 100):
        builder.add_all(1, steps[at : at + 100], [float(step) for step in steps[at : at + 100]], values[at : at + 100])
    (segment,) = builder.freeze().segments
    assert len(segment.steps) < 3_000
    firsts = [*segment.steps, 9_001]
    for index, first in enumerate(segment.steps):
        inside = [value for value in values[first - 1 : firsts[index + 1] - 1] if value == value]
        told = (segment.lo[index], segment.hi[index], segment.last[index])
        assert told == (min(inside), max(inside), inside[-1]) if inside else all(value != value for value in told)
