"""How often to save: the optimum from what a run's log measured, and a what-if table. Formulas: `save_interval`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from ckpt_tui import text
from ckpt_tui.records import dataclass
from ckpt_tui.run.alerts import UNPLANNED_KINDS
from ckpt_tui.run.health import median
from ckpt_tui.run.state import RunState
from ckpt_tui.save_interval import (
    DAY_S,
    OVERHEAD_BUDGET,
    interval_between_failures,
    is_failure,
    mean_time_between_failures,
    overhead,
    recommend,
    young_interval,
)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """At most `steps` steps, `seconds` of training, are lost when saving every `steps`.

    overhead: the fraction of the training that saves and lost work then take together, None when not known.
    """

    label: str
    steps: int
    seconds: float
    overhead: float | None = None


@dataclass(frozen=True, slots=True)
class FailureCost:
    """What the end of `session` cost, and what the trainer had predicted before; None: not known."""

    session: int
    steps: int
    seconds: float | None
    predicted_s: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """recommended_steps is None when save cost or pace is not measured yet; assumptions say what it rests on.

    save_cost_s: how long training stands still for a save; background_s: how long it is written on after that.
    restart_s: from the end of a session to the first step of the next, num_restarts of them measured; medians all.
    failures_every_s: 95 % interval of the time between failures from what was seen. bytes_per_day: written by saves
    at the recommended interval. slowdown: fraction of its pace that training loses while a save is written in the
    background; only the trainer can tell. bound_by: "", or why it is longer than the optimum: writing, budget.
    lost_per_failure_s: what the trainer predicts at its present interval; failures: what they cost.
    saving_overhead: fraction of the training that saves have stopped it for so far. overhead: what failures have cost,
    as in `Lost`; goodput: the fraction of all training time that was not trained in vain. None: not known.
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
    slowdown: float | None = None
    bound_by: str = ""
    lost_per_failure_s: float | None = None
    failures: tuple[FailureCost, ...] = ()
    saving_overhead: float | None = None
    overhead: float | None = None
    goodput: float | None = None


def what_if_rows(
    save_every_steps: int | None,
    steps_per_epoch: int,
    seconds_per_step: float,
    recommended_steps: int | None = None,
    overhead_of: Callable[[float], float] | None = None,
) -> tuple[WhatIf, ...]:
    """What each interval puts at risk and costs: the present one, 200 steps, once an epoch, the recommended one.

    overhead_of: the fraction of the training that saving every so many seconds takes, failures included.
    """
    labels: dict[int, str] = {}
    if save_every_steps:
        labels[save_every_steps] = f"every {save_every_steps:,} steps (now)"
    labels.setdefault(200, "every 200 steps")
    if steps_per_epoch:
        labels.setdefault(steps_per_epoch, "once an epoch")
    if recommended_steps:
        labels.setdefault(recommended_steps, f"every {text.plural(recommended_steps, 'step')} (best)")
    spans = [(label, steps, steps * seconds_per_step) for steps, label in labels.items()]
    return tuple(
        WhatIf(label, steps, seconds, overhead_of(seconds) if overhead_of is not None and seconds > 0 else None)
        for label, steps, seconds in spans
    )


def advise(state: RunState) -> Advice:
    """From what the run measured of itself. What the trainer says of its saves counts before what the log tells."""
    told = state.advice
    pace = 1 / state.steps_per_s if state.steps_per_s else None
    stalls = [save.stall_s for save in state.saves if save.stall_s is not None and save.stall_s > 0]
    cost, num_measured = median(stalls), len(stalls)
    background = median([
        max(save.save_s - save.stall_s, 0.0) for save in state.saves
        if save.save_s is not None and save.stall_s is not None
    ])  # fmt: skip
    written = median([float(save.size_bytes) for save in state.saves if save.size_bytes > 0])
    slowdown = None
    if told is not None and told.save_cost_seconds is not None and told.save_cost_seconds > 0:
        cost, background, slowdown = told.save_cost_seconds, told.background_seconds, told.slowdown
        num_measured = told.num_saves
        if told.bytes_per_day and told.save_every_seconds:
            written = told.bytes_per_day * told.save_every_seconds / DAY_S
    restarts = [
        max(after.first_step_ts - before.last_ts, 0.0) for before, after in pairwise(state.sessions)
        if after.first_step_ts is not None
    ]  # fmt: skip
    # Where a person went back on purpose is not told: a stop that lost steps is taken for that.
    failures = sum(is_failure(s.phase.value, s.lost_steps, is_chosen=True) for s in state.sessions)
    observed = sum(max(session.last_ts - session.start_ts, 0.0) for session in state.sessions)
    mtbf = mean_time_between_failures(observed, failures)
    every = _save_every(state)
    recommended = steps = young = bytes_per_day = None
    bound_by = ""
    overhead_of: Callable[[float], float] | None = None
    if cost is not None and pace:
        best = recommend(cost_s=cost, mean_time_between_failures_s=mtbf, step_s=pace, background_s=background or 0.0,
                         bytes_per_save=written)  # fmt: skip
        recommended, steps, bound_by, bytes_per_day = best.seconds, best.steps, best.bound_by, best.bytes_per_day
        young = young_interval(cost, mtbf)
        overhead_of = partial(overhead, cost=cost, mean_time_between_failures=mtbf, background=background or 0.0)
    return Advice(
        pace, cost, num_measured, failures, observed, mtbf, every, recommended, steps, young,
        what_if_rows(every, state.steps_per_epoch, pace, steps, overhead_of) if pace else (),
        _assumptions(failures, observed, mtbf, cost, background if slowdown is None else None, bound_by),
        background, median(restarts), len(restarts), interval_between_failures(observed, failures), bytes_per_day,
        slowdown, bound_by, told.lost_per_failure_seconds if told is not None else None,
        tuple(
            FailureCost(one.lost_session, max(one.to_step - one.from_step, 0), one.seconds, one.predicted_seconds)
            for one in state.lost_work
        ),
        sum(stalls) / observed if stalls and observed > 0 else None, state.lost.overhead, state.lost.goodput,
    )  # fmt: skip


def _assumptions(
    num_failures: int,
    observed_s: float,
    mtbf_s: float,
    cost_s: float | None,
    background_s: float | None,
    bound_by: str,
) -> tuple[str, ...]:
    """What the advice rests on, for people. background_s: when what it takes from the training is not known."""
    low_s, high_s = interval_between_failures(observed_s, num_failures)
    if observed_s <= 0:  # another program's log that tells no times
        seen = f", and {text.plural(num_failures, 'failure')} came" if num_failures else ""
        failures = f"One failure a day is expected: a guess{seen}; the log does not tell how long it trained."
    elif num_failures:
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
    if bound_by == "writing":
        lines.append("Shorter would be better, but a save takes that long until it is on the disk.")
    elif bound_by == "budget":
        lines.append(
            f"Shorter would lose less, but saving is to take no more than {100 * OVERHEAD_BUDGET:g} % of the time."
        )
    lines.append("It need not be exact: twice or half the interval costs a quarter more of the time that saves cost.")
    return tuple(lines)


def _save_every(state: RunState) -> int | None:
    """The interval of saves: as configured, else the median distance of the log's saves. A new best and a stop come
    when they come: what they save tells no interval."""
    configured = state.config.get("checkpoint_freq")
    is_number = isinstance(configured, int) and not isinstance(configured, bool)
    if isinstance(configured, int) and is_number and configured > 0 and not state.config.get("checkpoint_auto"):
        return configured
    planned: dict[int, set[int]] = {}
    for save in state.saves:
        if save.kind not in UNPLANNED_KINDS:
            planned.setdefault(save.session, set()).add(save.step)
    gaps: list[int] = []
    for session in state.sessions:
        if steps := planned.get(session.number):
            gaps += [b - a for a, b in pairwise(sorted(steps | {session.start_step}))]
    return sorted(gaps)[len(gaps) // 2] if gaps else None


def measured_sentences(advice: Advice) -> list[str]:
    """What was measured of saves, failures and restarts, for people."""
    lines = [f"One step takes {text.duration(advice.seconds_per_step)}."] if advice.seconds_per_step else []
    usual = f"(the usual of {text.plural(advice.num_saves_measured, 'save')})"
    if advice.save_cost_s is not None and advice.slowdown is not None:
        lines.append(
            f"A save costs {text.duration(advice.save_cost_s)} of training {usual}: it is written for "
            f"{text.duration(advice.background_s)} meanwhile, which slows the steps by "
            f"{text.percent(max(advice.slowdown, 0))}."
        )
    elif advice.save_cost_s is not None:
        lines.append(f"A save stops training for {text.duration(advice.save_cost_s)} {usual}.")
    if advice.saving_overhead is not None:
        lines.append(f"Saving has taken {text.percent(advice.saving_overhead)} of the training so far.")
    if advice.observed_s <= 0:
        lines.append("The log does not tell how long it trained.")
    elif advice.num_failures:
        seen = text.plural(advice.num_failures, "failure")
        lines.append(f"{seen} in {text.duration(advice.observed_s)} of training.")
    else:
        lines.append(f"No failure so far, in {text.duration(advice.observed_s)} of training.")
    if advice.overhead is not None and advice.overhead > 0:
        lines.append(
            f"Training again what they lost took {text.percent(advice.overhead)} more time "
            f"(goodput {text.percent(advice.goodput)})."
        )
    if advice.restart_s is not None:
        lines.append(
            f"From the end of a session to the next one's first step: {text.duration(advice.restart_s)} "
            f"(the usual of {advice.num_restarts})."
        )
    known = [failure for failure in advice.failures if failure.seconds is not None]
    if known:
        lost_s = sum(failure.seconds or 0.0 for failure in known) / len(known)
        predicted = [failure.predicted_s for failure in known if failure.predicted_s is not None]
        said = f"; {text.duration(sum(predicted) / len(predicted))} was predicted" if predicted else ""
        lines.append(f"A failure cost {text.duration(lost_s)} of training (mean of {len(known)}){said}.")
    if advice.lost_per_failure_s is not None:
        lines.append(f"A failure is predicted to lose {text.duration(advice.lost_per_failure_s)} of training.")
    if advice.bytes_per_day is not None:
        lines.append(f"Saves at that interval write {text.size(advice.bytes_per_day)} a day.")
    return lines


def recommendation(advice: Advice) -> tuple[str, bool]:
    """What to do, in a sentence, and whether there is anything to recommend."""
    if advice.recommended_steps is None:
        return "No interval can be recommended yet.", False
    every = text.plural(advice.recommended_steps, "step") if advice.recommended_steps != 1 else "step"
    return f"Save every {every} ({text.duration(advice.recommended_s)}).", True


WHAT_IF_TITLES = ("saving", "at risk at most", "time", "costs in all")


def what_if_cells(row: WhatIf) -> tuple[str, str, str, str]:
    """A row of the table, under WHAT_IF_TITLES."""
    return row.label, text.plural(row.steps, "step"), text.duration(row.seconds), text.percent(row.overhead)
