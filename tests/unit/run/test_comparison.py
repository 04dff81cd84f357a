"""Runs beside each other: which settings differ, what came of each, which metric is compared."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ckpt_tui.run import comparison
from ckpt_tui.run.comparison import MISSING, Setting, differing, outcome_of, setting_words, settings_of
from ckpt_tui.run.state import Lost, Phase, RunState, Session
from tests.builders.run_states import NOW, falling, running, series


def with_config(**config: object) -> RunState:
    return RunState(NOW, config=config)


def keys_that_differ(*states: RunState) -> list[str]:
    return [one.key for one in differing(settings_of(states), states)]


def test_only_keys_that_differ_and_nested_ones_by_their_path() -> None:
    a = with_config(lr=3e-4, seed=1, model={"n_layer": 4, "rope": {"theta": 1e4}}, betas=[0.9, 0.95])
    b = with_config(lr=6e-4, seed=1, model={"n_layer": 4, "rope": {"theta": 5e5}}, betas=[0.9, 0.95])
    assert keys_that_differ(a, b) == ["lr", "model.rope.theta"]
    assert [one.key for one in settings_of([a, b])][:3] == ["lr", "seed", "model.n_layer"]


def test_a_key_that_one_run_lacks_differs_and_null_is_a_value() -> None:
    a, b = with_config(ema=None, lr=1), with_config(lr=1)
    (setting,) = differing(settings_of([a, b]), [a, b])
    assert setting == Setting("ema", (None, MISSING))
    assert [setting_words(value) for value in setting.values] == ["None", "-"]


def test_what_is_the_same_does_not_differ() -> None:
    nan = float("nan")
    assert keys_that_differ(with_config(a=nan, b=1, c=(1, 2)), with_config(a=nan, b=1.0, c=(1, 2))) == []
    assert keys_that_differ(with_config(flag=True), with_config(flag=1)) == ["flag"]


def test_a_run_that_tells_no_settings_does_not_differ_by_that() -> None:
    a, silent, b = with_config(lr=1, seed=1), RunState(NOW), with_config(lr=2, seed=1)
    assert keys_that_differ(a, silent, b) == ["lr"]
    assert keys_that_differ(a, silent) == []
    assert keys_that_differ(silent, silent) == []


def test_hostile_settings_are_bounded() -> None:
    deep: dict[str, object] = {}
    inner = deep
    for _ in range(2000):
        inner["x"] = {}
        inner = inner["x"]  # type: ignore[assignment]
    wide = {str(index): index for index in range(comparison.MAX_SETTINGS + 500)}
    assert len(settings_of([with_config(**deep)])) == 1
    assert len(settings_of([with_config(**wide)])) == comparison.MAX_SETTINGS
    assert setting_words("\x1b[2J\n") == "\\x1b[2J\\n"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3e-4, "3e-4"),
        (1.25e-4, "1.25e-4"),
        (-2e-4, "-2e-4"),
        (1e-3, "0.001"),
        (0.0, "0"),
        (6e-5, "6e-5"),
        (1e20, "1e+20"),
        (True, "True"),
        ("adamw", "adamw"),
        ([0.9, 0.95], "[0.9, 0.95]"),
    ],
)
def test_settings_as_people_write_them(value: object, words: str) -> None:
    assert setting_words(value) == words


def test_what_came_of_a_run() -> None:
    state = running(
        sessions=(
            Session(1, 0, 300, NOW - 1000, NOW - 700, Phase.CRASHED),
            Session(2, 250, 400, NOW - 100, NOW, Phase.RUNNING),
        ),
        lost=Lost(50, 12.5, 0.31),
    )
    metric = comparison.metric_to_begin_with([state])
    outcome = outcome_of(state, metric)
    assert (outcome.phase, outcome.step, outcome.seconds, outcome.num_sessions) == (Phase.RUNNING, 400, 400.0, 2)
    assert (outcome.lost_steps, outcome.lost_s, outcome.overhead, outcome.best) == (50, 12.5, 0.31, 1.467)
    assert outcome.last == pytest.approx(1 + 3 * math.exp(-4))
    assert outcome.lowest == outcome.last
    empty = outcome_of(RunState(NOW), None)
    assert (empty.last, empty.lowest, empty.seconds) == (None, None, None)


def test_which_metrics_are_compared() -> None:
    def state(*names: str) -> RunState:
        return RunState(NOW, series={name: series(name, falling(1, 3)) for name in names})

    both = [state("lr", "loss", "val_loss"), state("loss", "acc", "val_loss")]
    metrics = comparison.metrics_to_compare(both)
    assert [metric.name for metric in metrics[:2]] == ["loss", "val_loss"]
    assert {metric.train for metric in metrics} == {"loss", "val_loss", "lr", "acc"}
    begin = comparison.metric_to_begin_with(both)
    assert begin is not None
    assert begin.train == "loss"
    # Two trainers, two names for the same.
    mixed = [state("train_loss"), state("loss")]
    begin = comparison.metric_to_begin_with(mixed)
    assert begin is not None
    assert [comparison.series_of(one, begin) is not None for one in mixed] == [True, True]
    assert comparison.metric_to_begin_with([RunState(NOW)]) is None
    assert comparison.metric_of(metrics, "acc") is not None
    assert comparison.metric_of(metrics, "nothing") is None


def test_units_are_those_of_the_metric() -> None:
    state = RunState(NOW, series={"rss_bytes": series("rss_bytes", [(1, 2e9), (2, 3e9)])})
    metric = comparison.metric_of(comparison.metrics_to_compare([state]), "rss_bytes")
    outcome = outcome_of(replace(state, step=2), metric)
    assert (outcome.last, outcome.lowest) == (3.0, 2.0)


def test_what_the_title_over_the_settings_says() -> None:
    assert comparison.settings_title(3, 9, []) == "settings: 3 of 9 differ"
    assert comparison.settings_title(0, 9, [1]) == "settings: all 9 the same; B tells none"
    assert comparison.settings_title(1, 2, [0, 2]) == "settings: 1 of 2 differ; A, C tell none"
    assert comparison.settings_title(0, 0, [0, 1]) == "settings: no run tells any"


def test_names_without_what_all_of_them_share() -> None:
    assert comparison.names_that_tell_apart(["sweep/lr/a", "sweep/lr/b"]) == ["a", "b"]
    assert comparison.names_that_tell_apart(["sweep/a", "other/a"]) == ["sweep/a", "other/a"]
    assert comparison.names_that_tell_apart(["sweep", "sweep/a"]) == ["sweep", "sweep/a"]
    assert comparison.names_that_tell_apart(["a", "a"]) == ["a", "a"]
