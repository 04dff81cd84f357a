"""What can be drawn and on which axis: metrics with their twins, epochs, changed settings, smoothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tui.events.schema import Event, RunStart, Step
from ckpt_tui.run import smoothing
from ckpt_tui.run.epochs import epochs_of
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.metrics import MACHINE, main_metric, metric_named, metrics_of
from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.smoothing import smoothed, time_constant
from ckpt_tui.run.state import RunState, Series
from tests.builders.run_states import resumed_series, running, series


def pairs(*names: str) -> dict[str, tuple[str | None, str | None]]:
    return {one.name: (one.train, one.val) for one in metrics_of(names)}


def test_validation_twins_of_every_spelling_find_their_metric() -> None:
    assert pairs("loss", "val_loss") == {"loss": ("loss", "val_loss")}
    assert pairs("train_loss", "eval_loss") == {"train_loss": ("train_loss", "eval_loss")}
    assert pairs("train/box_loss", "val/box_loss") == {"train/box_loss": ("train/box_loss", "val/box_loss")}
    assert pairs("acc", "acc_val") == {"acc": ("acc", "acc_val")}
    assert pairs("loss", "test_loss") == {"loss": ("loss", "test_loss")}


def test_of_several_twins_one_is_taken_and_the_others_stay() -> None:
    assert pairs("test_loss", "loss", "eval_loss", "val_loss") == {
        "loss": ("loss", "val_loss"), "test_loss": (None, "test_loss"), "eval_loss": (None, "eval_loss"),
    }  # fmt: skip
    assert pairs("train_loss", "loss", "val_loss") == {"loss": ("loss", "val_loss"), "train_loss": ("train_loss", None)}


@given(st.lists(st.sampled_from(
    ["loss", "train_loss", "val_loss", "eval_loss", "loss_val", "lr", "val", "val_", "train_val_x", "rss_bytes",
     "gpu0_percent", "eval/acc", "acc", "val_val_loss"]), unique=True))  # fmt: skip
def test_every_series_is_on_exactly_one_chart(names: list[str]) -> None:
    shown = [name for one in metrics_of(names) for name in (one.train, one.val) if name is not None]
    assert sorted(shown) == sorted(names)
    assert len({one.name for one in metrics_of(names)}) == len(metrics_of(names))


def test_the_machine_is_a_group_of_its_own_with_units() -> None:
    metrics = metrics_of(["gpu0_memory_bytes", "rss_bytes", "loss", "gpu0_percent", "cpu_percent"])
    assert [one.name for one in metrics] == ["loss", "cpu_percent", "gpu0_memory_bytes", "gpu0_percent", "rss_bytes"]
    assert {one.name: (one.unit, one.scale) for one in metrics if one.group == MACHINE}["rss_bytes"] == ("GB", 1e-9)
    assert main_metric(running(series={"rss_bytes": series("rss_bytes", [(1, 1.0)])})) is None


def test_a_metric_is_found_by_the_name_of_its_twin_too() -> None:
    found = metric_named(["loss", "val_loss"], "val_loss")
    assert found is not None
    assert found.name == "loss"
    assert metric_named(["loss"], "nothing") is None
    assert metric_named(["loss"], "") is None


# -- epochs -------------------------------------------------------------------------------------------------------


def folded(*events: Event) -> RunState:
    fold = RunFold()
    fold.apply_all(events)
    return fold.state(2e9)


def step(at: int, epoch: float | None, session: int = 1) -> Step:
    return Step(step=at, ts=1e9 + at, session=session, seq=at, epoch=epoch, metrics={"loss": 1.0})


def test_epochs_come_from_the_steps_of_one() -> None:
    epochs = epochs_of(folded(RunStart(steps_per_epoch=50, seq=0), *(step(at, None) for at in range(1, 101))))
    assert epochs is not None
    assert [epochs.of_step(at) for at in (0, 25, 100, 1000)] == [0, 0.5, 2, 20]


def test_epochs_come_from_fractions_in_the_lines() -> None:
    epochs = epochs_of(folded(*(step(at, at / 400) for at in range(10, 2000, 10))))
    assert epochs is not None
    assert epochs.of_step(600) == pytest.approx(1.5)
    assert epochs.of_step(4000) == pytest.approx(10.0)


def test_epochs_come_from_whole_numbers_in_the_lines() -> None:
    epochs = epochs_of(folded(*(step(at, (at - 1) // 100) for at in range(1, 351))))
    assert epochs is not None
    assert [epochs.of_step(at) for at in (0, 50, 100, 200, 250, 350)] == [0, 0.5, 1, 2, 2.5, 3.5]


def test_epochs_told_again_after_a_resume_are_the_same() -> None:
    first = [step(at, at / 100) for at in range(1, 301)]
    again = [step(at, at / 100, session=2) for at in range(201, 401)]
    epochs = epochs_of(folded(*first, *again))
    assert epochs is not None
    assert epochs.of_step(350) == pytest.approx(3.5)


@pytest.mark.parametrize("epoch", [None, 0, 3.0])
def test_no_epochs_where_the_log_does_not_tell_of_two(epoch: float | None) -> None:
    assert epochs_of(folded(*(step(at, epoch) for at in range(1, 101)))) is None


# -- settings that a resume changed --------------------------------------------------------------------------------


def test_a_resume_with_other_settings_is_marked_with_what_changed() -> None:
    state = folded(
        RunStart(session=1, seq=1, ts=1e9, config={"lr": 0.002, "batch_size": 8, "out": "a"}),
        *(step(at, None) for at in range(2, 100)),
        RunStart(session=2, seq=100, ts=1e9 + 200, start_step=50, config={"lr": 0.001, "batch_size": 8, "out": "b"}),
    )
    assert [(one.step, one.label) for one in state.markers if one.kind == "config"] == [(50, "lr 0.002 -> 0.001")]


def test_a_resume_with_the_same_settings_is_not_marked() -> None:
    config = {"lr": 0.002, "nan": math.nan}
    state = folded(
        RunStart(session=1, seq=1, config=config), step(2, None), RunStart(session=2, seq=3, config=dict(config))
    )
    assert not [one for one in state.markers if one.kind == "config"]


# -- smoothing ----------------------------------------------------------------------------------------------------


def last_values(one: Series) -> list[float]:
    return [value for segment in one.segments for value in segment.last]


def test_the_first_smoothed_value_is_the_first_value() -> None:
    """Debiased: no pull towards zero."""
    assert last_values(smoothed(series("loss", [(step, 5.0) for step in range(1, 200)]), "heavy"))[0] == 5.0
    assert last_values(smoothed(series("loss", [(7, 5.0)]), "light")) == [5.0]


def test_a_constant_stays_and_noise_shrinks() -> None:
    flat = smoothed(series("loss", [(step, 2.5) for step in range(1, 5000)]), "heavy")
    assert set(last_values(flat)) == {2.5}
    noisy = series("loss", [(step, 2.0 + (-1) ** step) for step in range(1, 5000)])
    light, heavy = (last_values(smoothed(noisy, strength))[1000:] for strength in ("light", "heavy"))
    assert max(abs(value - 2.0) for value in heavy) < max(abs(value - 2.0) for value in light) < 0.3


def test_by_the_formula_also_with_uneven_steps() -> None:
    points = [(1, 1.0), (2, 3.0), (10, 2.0), (11, 7.0), (400, 1.0)]
    one = series("loss", points)
    constant = time_constant(one, 1 / 32, 10.0)
    total = weight = 0.0
    before = 1
    for (at, value), seen in zip(points, last_values(smoothed(one, "heavy")), strict=True):
        decay = math.exp(-(at - before) / constant)
        total, weight, before = total * decay + value, weight * decay + 1, at
        assert seen == pytest.approx(total / weight)


def test_a_gap_is_not_bridged_and_forgotten() -> None:
    points = [(at, math.nan if 100 <= at < 120 else 1.0 if at < 100 else 9.0) for at in range(1, 200)]
    values = last_values(smoothed(series("loss", points), "heavy"))
    assert all(math.isnan(value) for value in values[99:119])
    assert values[98] == 1.0
    assert values[119] == 9.0


def test_it_goes_on_from_the_step_of_the_resume_and_knows_nothing_of_what_was_abandoned() -> None:
    both = resumed_series(
        "loss", [(at, 2.0 if at <= 200 else 50.0) for at in range(1, 301)], 200, [(at, 2.0) for at in range(201, 401)]
    )
    one = smoothed(both, "heavy")
    assert set(last_values(one)) == {2.0}
    assert [segment.session for segment in one.segments] == [1, 2]
    assert max(one.segments[0].steps) == 200


def test_buckets_of_many_points_smooth_as_their_points_would() -> None:
    """A spike lies in a bucket of hundreds: it counts as one point, not as the whole bucket."""
    steps = list(range(1, 300_001))
    values = [2.0] * len(steps)
    values[150_000] = 1e4
    builder = SeriesBuilder("loss")
    builder.add_all(1, steps, [float(at) for at in steps], values)
    one = builder.freeze()
    shown = last_values(smoothed(one, "heavy"))
    constant = time_constant(one, 1 / 32, 10.0)
    assert max(shown) - 2.0 == pytest.approx(1e4 / constant, rel=0.1)
    assert len(shown) == len(one.segments[0].steps)


def test_values_near_the_largest_float_do_not_overflow() -> None:
    shown = last_values(smoothed(series("loss", [(at, 1e308) for at in range(1, 100)]), "light"))
    assert all(math.isfinite(value) for value in shown)


def test_a_live_run_leaves_nothing_behind_and_looks_the_same_when_asked_again() -> None:
    builder = SeriesBuilder("loss")
    builder.add_all(1, list(range(1, 101)), [1.0] * 100, [3.0] * 100)
    builder.abandon_after(90)
    smoothing._done.clear()
    for tick in range(50):
        builder.add_all(2, [91 + tick], [2.0], [1.0 + tick])
        shown = smoothed(builder.freeze(), "heavy")
        assert len(smoothing._done) <= 3  # of the session that is over, for each time constant there was
    smoothing._done.clear()
    assert last_values(smoothed(builder.freeze(), "heavy")) == last_values(shown)


def test_the_time_constant_changes_rarely_while_a_run_grows() -> None:
    builder = SeriesBuilder("loss")
    constants = set()
    for step in range(1, 3000):
        builder.add_all(1, [step], [float(step)], [1.0])
        constants.add(time_constant(builder.freeze(), 1 / 32, 10.0))
    assert len(constants) <= 8
