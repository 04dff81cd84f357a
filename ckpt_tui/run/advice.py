"""How often to save: the optimum from what a run's log measured, and a what-if table. Formulas: `save_interval`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ckpt_tui import text
from ckpt_tui.run.health import median
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.save_interval import (
    daly_interval,
    interval_between_failures,
    mean_time_between_failures,
    young_interval,
)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """At most `steps` steps, `seconds` of training, are lost when saving every `steps`."""

    label: str
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Advice:
    """recommended_steps is None when save cost or pace is not measured yet; assumptions say what it rests on.

    save_cost_s: how long training stands still for a save; background_s: how long it is written on after that.
    restart_s: from the end of a session to the first step of the next, num_restarts of them measured; medians all.
    failures_every_s: 95 % interval of the time between failures from what was seen. bytes_per_day: written by saves
    at the recommended interval, one copy each.
    """

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
    background_s: float | None = None
    restart_s: float | None = None
    num_restarts: int = 0
    failures_every_s: tuple[float, float | None] = (0.0, None)
    bytes_per_day: float | None = None


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
    stalls = [save.stall_s for save in state.saves if save.stall_s is not None and save.stall_s > 0]
    cost = median(stalls)
    background = median([
        max(save.save_s - save.stall_s, 0.0) for save in state.saves
        if save.save_s is not None and save.stall_s is not None
    ])  # fmt: skip
    restarts = [
        max(after.first_step_ts - before.last_ts, 0.0) for before, after in pairwise(state.sessions)
        if after.first_step_ts is not None
    ]  # fmt: skip
    failures = sum(1 for s in state.sessions if s.phase in (Phase.CRASHED, Phase.FAILED, Phase.DIVERGED))
    observed = sum(max(session.last_ts - session.start_ts, 0.0) for session in state.sessions)
    mtbf = mean_time_between_failures(observed, failures)
    every = _save_every(state)
    recommended = steps = young = bytes_per_day = None
    if cost is not None and pace:
        recommended, young = daly_interval(cost, mtbf), young_interval(cost, mtbf)
        steps = max(1, round(recommended / pace))
        size = median([float(save.size_bytes) for save in state.saves if save.size_bytes > 0])
        bytes_per_day = size * 86400 / max(steps * pace, cost) if size is not None else None
    return Advice(
        pace, cost, len(stalls), failures, observed, mtbf, every, recommended, steps, young,
        what_if_rows(every, state.steps_per_epoch, pace) if pace else (),
        _assumptions(failures, observed, mtbf, cost, background),
        background, median(restarts), len(restarts), interval_between_failures(observed, failures), bytes_per_day,
    )  # fmt: skip


def _assumptions(
    num_failures: int, observed_s: float, mtbf_s: float, cost_s: float | None, background_s: float | None
) -> tuple[str, ...]:
    """What the advice rests on, for people."""
    low_s, high_s = interval_between_failures(observed_s, num_failures)
    if num_failures:
        failures = (
            f"One failure every {text.duration(mtbf_s)} is expected: one a day was the guess beforehand, and "
            f"{text.plural(num_failures, 'failure')} came in {text.duration(observed_s)}."
        )
        if high_s is not None:
            failures += f" That alone says every {text.duration(low_s)} to {text.duration(high_s)} (95 % sure)."
    else:
        failures = (
            f"One failure a day is expected: a guess, since none came in the {text.duration(observed_s)} seen. "
            f"That alone says only: rarer than once in {text.duration(low_s)} (95 % sure)."
        )
    lines = [failures]
    if cost_s is None:
        lines.append("No save has told how long training stood still for it, so nothing is recommended yet.")
    elif background_s:
        lines.append(
            f"A save is written for {text.duration(background_s)} more while training goes on; how much that slows "
            "the training is not measured and not counted."
        )
    lines.append("It need not be exact: twice or half the interval costs a quarter more of the time that saves cost.")
    return tuple(lines)


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
