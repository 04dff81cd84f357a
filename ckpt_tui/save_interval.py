"""How often to save: the formulas, for the trainer, which measures itself, and for the viewer. Nothing is read here.

Sources: J. W. Young, "A first order approximation to the optimum checkpoint interval" (1974); J. T. Daly, "A higher
order estimate of the optimum checkpoint interval for restart dumps" (2006); Mohan et al., "CheckFreq" (2021), for the
overhead budget. Times are in one unit, seconds unless a caller wants another. Names: c is what a save costs the
training, w how long it is written on in the background, M the mean time between failures that lose work, R what a
restart takes, tau the training time between two saves.
"""

from __future__ import annotations

import math

from ckpt_tui.records import dataclass

MAX_FAILURES_COUNTED = 500  # more make the interval no narrower than anybody needs
PRIOR_MEAN_TIME_BETWEEN_FAILURES_S = 24 * 3600.0
OVERHEAD_BUDGET = 0.035  # of the training time, for saving; CheckFreq's
DAY_S = 86400.0


def save_cost(stall: float, background: float, slowdown: float) -> float:
    """c = d + s w: the time training stood still, and what the writing in the background took from it.

    slowdown: the fraction of its pace that training loses while a save is in flight.
    """
    return max(stall, 0.0) + max(slowdown, 0.0) * max(background, 0.0)


def young_interval(cost: float, mean_time_between_failures: float) -> float:
    """sqrt(2 c M): compute time between saves."""
    return math.sqrt(2 * cost * mean_time_between_failures)


def daly_interval(cost: float, mean_time_between_failures: float) -> float:
    """Daly's higher order estimate; M itself when a save costs twice M or more."""
    c, m = cost, mean_time_between_failures
    if c >= 2 * m:
        return m
    return math.sqrt(2 * c * m) * (1 + math.sqrt(c / (2 * m)) / 3 + c / (2 * m) / 9) - c


def exact_interval(cost: float, mean_time_between_failures: float) -> float:
    """The minimum of Daly's complete model, M (1 + W0(-exp(-1 - c/M))), by Newton's method on W e^W."""
    ratio = cost / mean_time_between_failures
    target = -math.exp(-1 - ratio)
    w = -1 + math.sqrt(2 * ratio) if ratio < 0.5 else target
    for _ in range(100):
        e = math.exp(w)
        step = (w * e - target) / (e * (w + 1)) if w > -1 else 0.0
        w -= step
        if abs(step) < 1e-14:
            break
    return mean_time_between_failures * (1 + w)


def expected_wall_time(
    work: float, interval: float, cost: float, mean_time_between_failures: float, restart: float = 0.0
) -> float:
    """Daly's complete model: what `work` takes with its saves, its failures and its restarts. Infinity when never."""
    m = mean_time_between_failures
    try:
        return m * math.exp(restart / m) * math.expm1((interval + cost) / m) * work / interval
    except OverflowError:
        return math.inf


def overhead(
    interval: float, cost: float, mean_time_between_failures: float, background: float = 0.0, restart: float = 0.0
) -> float:
    """First order: c/tau for saving, and (tau/2 + w + R)/M for what failures cost, as a fraction of the work."""
    return cost / interval + (interval / 2 + background + restart) / mean_time_between_failures


def lost_per_failure(interval: float, background: float = 0.0) -> float:
    """tau/2 + w: what a failure costs on average. One that comes while a save is in flight falls back behind it."""
    return interval / 2 + background


def is_failure(status: str, lost_steps: int, is_chosen: bool = False) -> bool:
    """Whether the end of a session counts as a failure that loses work.

    status: of its `run_end`, "" (or crashed) for a session that has none: it was killed. lost_steps: trained by it and
    again by the next one. is_chosen: a person named the checkpoint that the next one began from. A stop that saved
    loses nothing, and what a person goes back over was not lost by a failure.
    """
    if status in ("", "crashed", "diverged"):
        return True
    return status != "finished" and lost_steps > 0 and (status == "failed" or not is_chosen)


def mean_time_between_failures(
    observed_s: float, num_failures: int, prior_s: float = PRIOR_MEAN_TIME_BETWEEN_FAILURES_S
) -> float:
    """(T0 + T) / (1 + n): few failures lean on the prior T0, many on what was seen."""
    return (prior_s + observed_s) / (1 + num_failures)


def chi_square_quantile(probability: float, half_degrees: int) -> float:
    """Of the chi-square distribution with 2 * half_degrees degrees of freedom, by bisection.

    Even degrees of freedom make its upper tail a sum of Poisson terms: e^-h (1 + h + h^2/2! + ...), h = x/2.
    """

    def upper_tail(half: float) -> float:
        term = total = 1.0
        for i in range(1, half_degrees):
            term *= half / i
            total += term
        return math.exp(-half) * total

    low, high = 0.0, half_degrees + 10 * math.sqrt(half_degrees) + 20
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(middle) > 1 - probability else (low, middle)
    return low + high


def interval_between_failures(observed_s: float, num_failures: int) -> tuple[float, float | None]:
    """95 % interval of the mean time between failures from what was seen alone; None: no upper end.

    [2T / chi2(.975, 2n+2), 2T / chi2(.025, 2n)]; without a failure only its lower end T/3, 95 % from one side.
    """
    counted = min(num_failures, MAX_FAILURES_COUNTED)
    if not counted:
        return observed_s / 3, None
    return (
        2 * observed_s / chi_square_quantile(0.975, counted + 1),
        2 * observed_s / chi_square_quantile(0.025, counted),
    )


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How often to save. seconds: training time between saves, `steps` of them; optimum_s: before any bound.

    bound_by: "" when the optimum stands, "writing" when one save is written for longer than that, "budget" when saving
    so often would cost more than `OVERHEAD_BUDGET`. overhead: fraction of the work that saving takes;
    lost_per_failure_s: expected; bytes_per_day: written, all copies.
    """

    seconds: float
    steps: int
    optimum_s: float
    bound_by: str
    overhead: float
    lost_per_failure_s: float
    bytes_per_day: float | None


def recommend(
    *,
    cost_s: float,
    mean_time_between_failures_s: float,
    step_s: float,
    background_s: float = 0.0,
    bytes_per_save: float | None = None,
    budget: float = OVERHEAD_BUDGET,
) -> Recommendation:
    """Daly's optimum within its bounds (one save in flight, the overhead budget), in whole steps."""
    optimum = daly_interval(cost_s, mean_time_between_failures_s)
    seconds, bound_by = optimum, ""
    for least, why in ((background_s, "writing"), (cost_s / budget, "budget")):
        if least > seconds:
            seconds, bound_by = least, why
    # Never fewer steps than a bound asks for: rounding down would break it.
    steps = max(1, math.ceil(seconds / step_s - 1e-9) if bound_by else round(seconds / step_s))
    seconds = steps * step_s
    return Recommendation(
        seconds=seconds, steps=steps, optimum_s=optimum, bound_by=bound_by, overhead=cost_s / seconds,
        lost_per_failure_s=lost_per_failure(seconds, background_s),
        bytes_per_day=bytes_per_save * DAY_S / (seconds + cost_s) if bytes_per_save is not None else None,
    )  # fmt: skip
