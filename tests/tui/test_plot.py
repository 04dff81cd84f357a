"""Curves tell the truth: spikes at every width, gaps with marks, abandoned branches apart, no zig-zag."""

from __future__ import annotations

import pytest

from ckpt_tui.run.state import Series
from ckpt_tui.tui import plot
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.points import extent_of, point_at
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.widgets.chart import train_and_val
from tests.builders.run_states import falling, resumed_series, running, series


def drawn(
    train: Series | None, val: Series | None = None, *, width: int = 40, height: int = 8, last: float = 400,
    is_log: bool = False, unicode: bool = True, axis: str = "step", first: float = 0,
) -> plot.Plot:  # fmt: skip
    x = XScale(axis, first, last, width)
    lines = plot.lines_of(plot.train_and_val_curves(train, val), x, unicode=unicode)
    return plot.draw(lines, x, height, is_log=is_log, unicode=unicode)


def text(one: plot.Plot) -> list[str]:
    return ["".join(part for part, _ in row) for row in one.rows]


def roles(one: plot.Plot, role: str) -> int:
    return sum(len(part.strip()) for row in one.rows for part, its in row if its == role)


def rows_with_ink(one: plot.Plot, low_cell: int, high_cell: int) -> list[int]:
    return [row for row, line in enumerate(text(one)) if line[low_cell:high_cell].strip()]


def test_every_row_has_the_width_asked_for() -> None:
    for width in (3, 17, 40, 200):
        assert {len(line) for line in text(drawn(series("loss", falling(1, 400)), width=width))} == {width}


def test_a_falling_loss_falls() -> None:
    lines = text(drawn(series("loss", falling(1, 400)), unicode=False))
    assert lines[0].startswith("*") or lines[1].startswith("*")
    tops = [next(row for row, line in enumerate(lines) if line[cell] == "*") for cell in range(40)]
    assert tops == sorted(tops)


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [5, 20, 70, 200])
def test_a_spike_of_one_step_is_seen_at_every_width(width: int, unicode: bool) -> None:
    flat = [(step, 1.0) for step in range(1, 20_001)]
    flat[12_345] = (12_346, 9.0)
    one = drawn(series("loss", flat), width=width, last=20_000, unicode=unicode)
    cell = int(12_346 / 20_000 * width)
    assert rows_with_ink(one, cell, cell + 1)[0] <= 1
    flat[12_345] = (12_346, 1.0)
    without = drawn(series("loss", flat), width=width, last=20_000, unicode=unicode)
    assert text(without) != text(one)


def test_a_value_that_is_not_finite_is_a_gap_with_a_mark() -> None:
    points = [(step, float("nan") if 190 <= step <= 215 else 2.0 + step / 1000) for step in range(1, 401)]
    one = drawn(series("loss", points))
    assert text(one)[0][20] == "×"
    assert rows_with_ink(one, 20, 21) == [0]  # nothing bridges it
    assert one.num_bad > 0


def test_only_values_that_are_not_finite_still_draw() -> None:
    one = drawn(series("loss", [(step, float("inf")) for step in range(1, 50)]))
    assert "×" in text(one)[0]
    assert one.labels == {}


def test_the_abandoned_branch_is_apart_and_below_the_live_one() -> None:
    first = [(step, 2.0) for step in range(1, 301)]
    second = [(step, 1.0) for step in range(201, 401)]
    one = drawn(resumed_series("loss", first, 200, second))
    assert roles(one, plot.ABANDONED) >= 9  # steps 201 to 300, a quarter of 40 cells
    live = [its for line in one.rows for part, its in line for char in part if char.strip()]
    assert live.count(plot.TRAIN) > live.count(plot.ABANDONED)
    # No line leads back from step 300 to step 200: the live line is one line a column but for its own step down.
    last_column = [row for row, line in enumerate(text(one)) if line[39].strip()]
    assert len(last_column) == 1


def test_abandoned_branches_of_two_crashes_are_not_joined() -> None:
    from ckpt_tui.run.series import SeriesBuilder

    builder = SeriesBuilder("loss")
    for session, (start, end) in enumerate(((0, 120), (100, 340), (300, 400)), start=1):
        if session > 1:
            builder.abandon_after(start)
        for step in range(start + 1, end + 1):
            builder.add_all(session, [step], [float(step + 1000 * session)], [float(session)])
    one = drawn(builder.freeze())
    assert roles(one, plot.ABANDONED) <= 10  # 20 + 40 steps of 400 in 40 cells, not the 180 between them


def test_val_is_a_line_of_its_own_style() -> None:
    one = drawn(series("loss", falling(1, 400)), series("val_loss", [(step, 3.5) for step in range(50, 401, 50)]))
    val_cells = [part for row in one.rows for part, role in row if role == plot.VAL]
    assert val_cells
    gaps = "".join("".join(part for part, _ in row) for row in one.rows if any(role == plot.VAL for _, role in row))
    assert " " in gaps.strip()  # dashed


def test_log_y_spreads_what_linear_y_squeezes() -> None:
    points = [(step, 1000.0 * 0.97**step) for step in range(1, 401)]
    linear, log = (drawn(series("loss", points), is_log=is_log) for is_log in (False, True))
    assert len(rows_with_ink(linear, 20, 40)) == 1
    assert len(rows_with_ink(log, 20, 40)) >= 3
    assert all("e" in label or label.endswith("k") or float(label) > 0 for label in log.labels.values())


def test_log_y_with_zero_and_negative_values_draws_the_rest() -> None:
    one = drawn(series("loss", [(1, -1.0), (2, 0.0), (3, 1.0), (4, 10.0), (5, 100.0)]), is_log=True, last=5)
    assert one.labels
    assert not drawn(series("loss", [(1, -1.0), (2, 0.0)]), is_log=True, last=5).labels


def test_one_point_is_seen() -> None:
    assert "".join(text(drawn(series("loss", [(7, 2.5)]), last=10))).strip()


def test_nothing_at_all_draws_nothing() -> None:
    assert not "".join(text(drawn(None))).strip()


def test_on_the_time_axis_the_dead_time_between_sessions_is_empty() -> None:
    first = [(step, 2.0) for step in range(1, 101)]
    one_series = resumed_series("loss", first, 100, [(step, 1.0) for step in range(101, 201)])
    found = extent_of([NamedCurve("train", one_series)], "time")
    assert found is not None
    one = drawn(one_series, axis="time", first=found[0], last=found[1], width=70)
    assert rows_with_ink(one, 20, 40) == []


def test_the_point_under_the_cursor_is_the_nearest_of_the_live_branch() -> None:
    both = resumed_series(
        "loss", [(step, 2.0) for step in range(1, 301)], 200, [(step, 1.0) for step in range(201, 401)]
    )
    x = XScale("step", 0, 400, 400)
    point = point_at(NamedCurve("train", both), x, 250)
    assert point is not None
    assert (point.step, point.last, point.is_abandoned) == (250, 1.0, False)
    assert point_at(NamedCurve("train", Series("loss")), x, 1) is None


def test_the_cursor_does_not_hide_what_is_there() -> None:
    cells = plot.with_cursor((("  ⣿ ", "train"),), 1, True)
    assert "".join(part for part, _ in cells) == " │⣿ "
    assert "".join(part for part, _ in plot.with_cursor((("  ⣿ ", "train"),), 2, True)) == "  ⣿ "


def test_the_chart_never_takes_the_machine_for_the_training() -> None:
    machine = {name: series(name, [(1, 50.0)]) for name in ("cpu_percent", "rss_bytes")}
    both_vals = {name: series(name, [(1, 2.0)]) for name in ("val_loss", "eval_loss")}
    assert train_and_val(running(series=machine)) == (None, None)
    assert train_and_val(running(series={**machine, **both_vals})) == (None, both_vals["val_loss"])
    accuracy = series("accuracy", [(1, 0.5)])
    assert train_and_val(running(series={**machine, "accuracy": accuracy})) == (accuracy, None)


def test_a_value_that_is_not_finite_on_an_abandoned_branch_is_marked_less_loudly() -> None:
    nan = float("nan")
    first = [(step, nan if step > 240 else 2.0) for step in range(1, 301)]
    one = drawn(resumed_series("loss", first, 200, [(step, 1.0) for step in range(201, 401)]))
    assert (roles(one, "bad"), one.num_bad) == (0, 0)
    assert "×" in text(one)[0][24:30]
    assert drawn(resumed_series("loss", first, 270, [(step, 1.0) for step in range(271, 401)])).num_bad > 0
