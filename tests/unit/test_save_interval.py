"""The formulas of how often to save, against figures of the papers and against each other."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tui.save_interval import (
    chi_square_quantile,
    daly_interval,
    exact_interval,
    expected_wall_time,
    interval_between_failures,
    lost_per_failure,
    mean_time_between_failures,
    overhead,
    recommend,
    save_cost,
    young_interval,
)

DAY = 86400.0


@pytest.mark.parametrize(
    ("m", "daly", "exact", "young", "young_costs_percent"),
    [(1440, 116.69, 116.69, 120.0, 0.003), (360, 56.71, 56.71, 60.0, 0.03), (15, 9.14, 9.17, 12.25, 2.8)],
)
def test_the_minutes_of_dalys_paper(
    m: float, daly: float, exact: float, young: float, young_costs_percent: float
) -> None:
    """A save takes 5 minutes; the paper rounds to 117, 57 and 9.1."""
    assert daly_interval(5, m) == pytest.approx(daly, abs=0.006)
    assert exact_interval(5, m) == pytest.approx(exact, abs=0.006)
    assert young_interval(5, m) == pytest.approx(young, abs=0.006)
    best, youngs = (expected_wall_time(1000, tau, 5, m) for tau in (exact_interval(5, m), young_interval(5, m)))
    assert 100 * (youngs / best - 1) == pytest.approx(young_costs_percent, rel=0.25)


@pytest.mark.parametrize(("c", "seconds", "percent"), [(0.5, 294, 0.34), (0.02, 59, 0.07)])
def test_our_own_example_with_a_failure_a_day(c: float, seconds: float, percent: float) -> None:
    tau = daly_interval(c, DAY)
    assert tau == pytest.approx(seconds, abs=0.6)
    assert 100 * overhead(tau, c, DAY) == pytest.approx(percent, abs=0.005)
    assert overhead(tau, c, DAY) == pytest.approx(math.sqrt(2 * c / DAY), rel=1e-3)


def test_llama_3_405b_stopped_every_three_hours() -> None:
    """419 unexpected stops in 54 days on 16,384 GPUs."""
    observed = 54 * DAY
    assert mean_time_between_failures(observed, 419) / 3600 == pytest.approx(3.1, abs=0.05)
    low, high = interval_between_failures(observed, 419)
    assert high is not None
    assert low < observed / 419 < high
    assert observed * 16384 / 419 / 3600 == pytest.approx(50_700, rel=0.01)


def test_a_save_once_a_minute_writes_a_terabyte_a_day() -> None:
    advice = recommend(
        cost_s=0.0, mean_time_between_failures_s=DAY, step_s=60.0, bytes_per_save=3 * 258e6, background_s=1.0
    )
    assert advice.seconds == 60.0
    assert advice.bytes_per_day == pytest.approx(1.1e12, rel=0.02)


@pytest.mark.parametrize(("p", "degrees", "expected"), [(0.975, 2, 7.3778), (0.025, 2, 0.0506), (0.975, 4, 11.1433),
                                                        (0.025, 20, 9.5908), (0.95, 2, 5.9915)])  # fmt: skip
def test_chi_square_quantiles_of_the_tables(p: float, degrees: int, expected: float) -> None:
    assert chi_square_quantile(p, degrees // 2) == pytest.approx(expected, abs=1e-4)


def test_what_few_failures_say() -> None:
    assert interval_between_failures(3600.0, 0) == (1200.0, None)
    low, high = interval_between_failures(3600.0, 1)
    assert (low, high) == (pytest.approx(7200 / 11.1433, rel=1e-4), pytest.approx(7200 / 0.0506356, rel=1e-4))
    assert interval_between_failures(3600.0, 10**9)[0] > 0
    assert mean_time_between_failures(0.0, 0) == DAY
    assert mean_time_between_failures(12 * 3600.0, 2, prior_s=6 * 3600.0) == 6 * 3600.0


def test_interference_is_a_cost_and_a_failure_while_writing_falls_back_further() -> None:
    assert save_cost(0.013, 0.8, 0.25) == pytest.approx(0.213)
    assert save_cost(0.013, 0.8, -0.1) == 0.013  # noise: nothing speeds up because a save is in flight
    assert lost_per_failure(100.0, 8.0) == 58.0


@given(c=st.floats(1e-3, 1e3), m=st.floats(1e2, 1e7))
def test_the_exact_optimum_is_one_and_daly_is_near_it(c: float, m: float) -> None:
    best = exact_interval(c, m)
    at_best = expected_wall_time(1.0, best, c, m)
    for factor in (0.7, 0.95, 1.05, 1.4):
        assert at_best <= expected_wall_time(1.0, best * factor, c, m) * (1 + 1e-9)
    # Three tenths of a percent of wall time, unless a save costs as much as the time between two failures.
    if c < m / 2:
        assert expected_wall_time(1.0, daly_interval(c, m), c, m) <= at_best * 1.003


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_an_interval_wrong_by_k_multiplies_the_overhead_by_half_of_k_and_its_inverse(factor: float) -> None:
    tau = young_interval(1.0, DAY)
    expected = overhead(tau, 1.0, DAY) * (factor + 1 / factor) / 2
    assert overhead(tau * factor, 1.0, DAY) == pytest.approx(expected, rel=1e-9)


def test_bounds_of_a_recommendation() -> None:
    free = recommend(cost_s=0.5, mean_time_between_failures_s=DAY, step_s=1.0)
    assert (free.steps, free.bound_by) == (294, "")
    writing = recommend(cost_s=0.01, mean_time_between_failures_s=60.0, step_s=1.0, background_s=20.5)
    assert (writing.steps, writing.bound_by, writing.lost_per_failure_s) == (21, "writing", 31.0)
    budget = recommend(cost_s=1.0, mean_time_between_failures_s=60.0, step_s=1.0)
    assert (budget.steps, budget.bound_by) == (29, "budget")
    assert budget.overhead <= 0.035
    slow = recommend(cost_s=0.001, mean_time_between_failures_s=DAY, step_s=500.0)
    assert (slow.steps, slow.seconds) == (1, 500.0)


def test_a_run_that_never_gets_through_takes_for_ever() -> None:
    assert expected_wall_time(1.0, 1e9, 1.0, 1.0) == math.inf
