"""How often to save: Young's and Daly's optimum from what was measured, and a what-if table.

Formulas and their sources: J. W. Young, "A first order approximation to the optimum checkpoint interval" (1974);
J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps" (2006). Times in one unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from ckpt_tui.run.state import Phase, RunState

PRIOR_MEAN_TIME_BETWEEN_FAILURES_S = 24 * 3600.0


def young_interval(save_cost: float, mean_time_between_failures: float) -> float:
    """sqrt(2 c M): compute time between saves."""
    return math.sqrt(2 * save_cost * mean_time_between_failures)


def daly_interval(save_cost: float, mean_time_between_failures: float) -> float:
    """Daly's higher order estimate; M itself when a save costs twice M or more."""
    c, m = save_cost, mean_time_between_failures
    if c >= 2 * m:
        return m
    return math.sqrt(2 * c * m) * (1 + math.sqrt(c / (2 * m)) / 3 + c / (2 * m) / 9) - c


def exact_interval(save_cost: float, mean_time_between_failures: float) -> float:
    """The minimum of Daly's complete model, M (1 + W0(-exp(-1 - c/M))), by Newton's method on W e^W."""
    ratio = save_cost / mean_time_between_failures
    target = -math.exp(-1 - ratio)
    w = -1 + math.sqrt(2 * ratio) if ratio < 0.5 else target
    for _ in range(100):
        e = math.exp(w)
        step = (w * e - target) / (e * (w + 1))
        w -= step
        if abs(step) < 1e-14:
            break
    return mean_time_between_failures * (1 + w)


def mean_time_between_failures(
    observed_s: float, num_failures: int, prior_s: float = PRIOR_MEAN_TIME_BETWEEN_FAILURES_S
) -> float:
    """(T0 + T) / (1 + n): few failures lean on the prior T0, many on what was seen."""
    return (prior_s + observed_s) / (1 + num_failures)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """At most `steps` steps, `seconds` of training, are lost when saving every `steps`."""

    label: str
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Advice:
    """recommended_steps is None when save cost or pace is not measured yet; assumptions say what it rests on."""

    seconds_per_step: float | None
    save_cost_s: float | None
    num_saves_measured: int
    num_failures: int
    observed_s: float
    mean_time_between_failures_s: float
    save_every_steps: int | None
    recommended_s: float | None
    recommended_steps: int | None
    young_s: float | None
    what_if: tuple[WhatIf, ...]
    assumptions: tuple[str, ...]


def what_if_rows(save_every_steps: int | None, steps_per_epoch: int, seconds_per_step: float) -> tuple[WhatIf, ...]:
    """What each interval puts at risk: the present one, 200 steps, once an epoch."""
    rows: list[WhatIf] = []
    if save_every_steps:
        rows.append(WhatIf(f"every {save_every_steps:,} steps (now)", save_every_steps, 0.0))
    if save_every_steps != 200:
        rows.append(WhatIf("every 200 steps", 200, 0.0))
    if steps_per_epoch and steps_per_epoch not in (save_every_steps, 200):
        rows.append(WhatIf("once an epoch", steps_per_epoch, 0.0))
    return tuple(WhatIf(row.label, row.steps, row.steps * seconds_per_step) for row in rows)


def advise(state: RunState) -> Advice:
    """From what the run measured of itself. Failures are sessions whose steps had to be trained again."""
    pace = 1 / state.steps_per_s if state.steps_per_s else None
    stalls = sorted(save.stall_s for save in state.saves if save.stall_s is not None and save.stall_s > 0)
    cost = stalls[len(stalls) // 2] if stalls else None
    failures = sum(1 for s in state.sessions if s.phase in (Phase.CRASHED, Phase.FAILED, Phase.DIVERGED))
    observed = sum(max(session.last_ts - session.start_ts, 0.0) for session in state.sessions)
    mtbf = mean_time_between_failures(observed, failures)
    every = _save_every(state)
    recommended = steps = young = None
    if cost is not None and pace:
        recommended, young = daly_interval(cost, mtbf), young_interval(cost, mtbf)
        steps = max(1, round(recommended / pace))
    assumptions = [
        f"mean time between failures: a day beforehand, then {failures} in {observed / 3600:.1f} h seen",
        "a save costs the time that training stood still (the median), not the slow-down while it is written",
        "the optimum is flat: twice or half the interval costs 25 % more of the overhead",
    ]
    if cost is None:
        assumptions.append("no save has told how long training stood still: nothing is recommended yet")
    return Advice(
        pace, cost, len(stalls), failures, observed, mtbf, every, recommended, steps, young,
        what_if_rows(every, state.steps_per_epoch, pace) if pace else (), tuple(assumptions),
    )  # fmt: skip


def _save_every(state: RunState) -> int | None:
    """The interval of saves: as configured, else the median distance of the log's saves."""
    configured = state.config.get("checkpoint_freq")
    if isinstance(configured, int) and not isinstance(configured, bool) and configured > 0:
        return configured
    gaps: list[int] = []
    for session in state.sessions:
        steps = sorted({session.start_step, *session.save_steps})
        gaps += [b - a for a, b in pairwise(steps)]
    return sorted(gaps)[len(gaps) // 2] if gaps else None
