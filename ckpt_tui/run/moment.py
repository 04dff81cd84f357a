"""What happened at a step: the metrics around it, the events before and after, the checkpoint to go back to.

Made from the state alone, so that the dialog and a plain command tell the same. Values of old steps are known by the
bucket that holds them, and the moment says from which step to which that is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from ckpt_tui.records import dataclass
from ckpt_tui.run.metrics import TRAINING, Metric, main_metric, metrics_of
from ckpt_tui.run.state import Marker, RunState, Save, Segment, Series, Session

NUM_AROUND = 8  # buckets before and after that make what is usual there
MAX_METRICS = 12
STANDS_OUT = 6.0  # usual spreads from before: worth a look
LEAST_SPIKE = 8.0  # times the usual; less is no spike
LEAST_USUAL = 0.005  # of the value itself: noise that is counted on, however quiet the run
OF_THE_STEP_S = 60.0
_WINDOW = 4  # buckets on either side that a spike stands out of
_RATES = ("lr", "learning_rate")
# What may be told of every step, and would say nothing as the event before.
_DULL = frozenset({"best"})


@dataclass(frozen=True, slots=True)
class MetricMoment:
    """before, after: the usual value there. at: the value that is furthest from before, of those in the bucket.
    num_bad: of these, how many are not finite. deviation: of `at` from before, in usual spreads."""

    name: str
    before: float | None
    at: float | None
    after: float | None
    num_bad: int = 0
    deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Moment:
    """first_step, last_step: what the values at it are of. save: the newest on the run's own branch, from before it,
    that is not known to be bad; passed_over: newer ones that are. continued_from: the step at which a later session
    went on, where this branch was abandoned."""

    step: int
    ts: float | None
    first_step: int
    last_step: int
    session: Session | None
    metrics: tuple[MetricMoment, ...]
    event_before: Marker | None
    event_after: Marker | None
    rate_name: str = ""
    rate_before: float | None = None
    rate_after: float | None = None
    save: Save | None = None
    passed_over: tuple[Save, ...] = ()
    continued_from: int | None = None
    now: float | None = None


def moment(
    state: RunState, step: int, *, session: int | None = None, bad_checkpoints: Iterable[str] = (),
    is_trouble: bool = True,
) -> Moment | None:  # fmt: skip
    """What happened at `step`; of `session`, or of the branch that is live. None when no metric was told near it.

    is_trouble: what was saved at the step itself is no way back, it holds what happened.
    """
    reached = []
    for metric in metrics_of(state.series):
        series = [one for one in metric.pair(state.series) if one is not None]
        reached += [(one, metric, place) for one in series if (place := _place(one, step, session)) is not None]
    trained = [one for one in reached if one[1].group == TRAINING] or reached
    if not trained:
        return None
    # The densest metric says best when and where it was.
    dense = max(trained, key=lambda one: one[0].num_points)[2]
    told = [_metric_moment(*one, dense.first_step) for one in reached]
    # How the machine did is told where it did otherwise than before.
    told = [one for one, (_, metric, _) in zip(told, reached, strict=True)
            if metric.group == TRAINING or one.deviation >= STANDS_OUT]  # fmt: skip
    told.sort(key=lambda one: (-bool(one.num_bad), -one.deviation))
    number = dense.segment.session
    rate_name, rate_before, rate_after = _rate(state.series, step, session)
    before, after = (_as_trained(marker, dense.segment) for marker in _events(state.markers, step, dense.ts))
    save, passed_over = _save_before(
        state, min(step, dense.first_step) if is_trouble else step + 1, number, frozenset(bad_checkpoints)
    )
    return Moment(
        step, dense.ts, dense.first_step, dense.last_step, _session(state.sessions, number), tuple(told[:MAX_METRICS]),
        before, after, rate_name, rate_before, rate_after, save, passed_over,
        dense.segment.abandoned_after if dense.is_abandoned else None, state.now,
    )  # fmt: skip


def worst_spike(state: RunState) -> int | None:
    """The step of the main metric's first value that is not finite, or that stands out most of those around it; None
    when nothing does. Only what is live: what was abandoned has been dealt with. Of a loss only what is too high."""
    metric = main_metric(state)
    series = next((one for one in metric.pair(state.series) if one is not None), None) if metric else None
    if series is None:
        return None
    outs: list[tuple[float, int]] = []  # how far out, its step
    for segment in series.segments:
        size = _live_size(segment)
        for index in range(size):
            if segment.hi[index] != segment.hi[index]:
                return segment.steps[index]
            before = _finite(segment.last[max(index - _WINDOW, 0) : index])
            after = _finite(segment.last[index + 1 : min(index + 1 + _WINDOW, size)])
            if len(before) == _WINDOW:
                # Out of both sides: what falls or rises goes on as it was.
                sides = [median(before), median(after) if after else median(before)]
                above, below = segment.hi[index] - max(sides), min(sides) - segment.lo[index]
                out = above if "loss" in series.name else max(above, below)
                outs.append((out / max(abs(sides[0]), 1e-300), segment.steps[index]))
    worst, step = max(outs, default=(-1.0, 0))
    usual = max(median(abs(out) for out, _ in outs), LEAST_USUAL) if outs else 0.0
    return step if worst > LEAST_SPIKE * usual else None


@dataclass(frozen=True, slots=True)
class _Place:
    """A bucket of a series, and the first and last step that it may stand for."""

    segment: Segment
    index: int
    first_step: int
    last_step: int
    ts: float
    is_abandoned: bool


def _live_size(segment: Segment) -> int:
    limit = segment.abandoned_after
    return len(segment.steps) if limit is None else bisect_right(segment.steps, limit)


def _place(series: Series, step: int, session: int | None) -> _Place | None:
    """The bucket at `step` or just before it: of a session if it is named, else of the live branch, else of any."""
    best: tuple[tuple[bool, int], _Place] | None = None
    for segment in series.segments:
        if (session is not None and segment.session != session) or not len(segment.steps):
            continue
        index = bisect_right(segment.steps, step) - 1
        if index < 0:
            continue
        is_abandoned = index >= _live_size(segment)
        last = segment.steps[index + 1] - 1 if index + 1 < len(segment.steps) else max(
            segment.end[0] if segment.end is not None else 0, segment.steps[index]
        )  # fmt: skip
        is_one = len(segment.num_finite) <= index or segment.num_finite[index] + segment.bad[index] <= 1
        place = _Place(
            segment, index, segment.steps[index], segment.steps[index] if is_one else last, segment.ts[index],
            is_abandoned,
        )  # fmt: skip
        # Of several that reach so far the live one, of those the one that told of the step itself or just before.
        rank = (is_abandoned, step - min(place.last_step, step))
        if best is None or rank <= best[0]:
            best = (rank, place)
    return best[1] if best else None


def _metric_moment(series: Series, metric: Metric, place: _Place, first_step: int) -> MetricMoment:
    """first_step: of the moment. What was told of earlier steps alone (an evaluation) was before it, and not here."""
    segment, index = place.segment, place.index
    if place.last_step < first_step:
        return _not_told_here(series, metric, place)
    stop = len(segment.steps) if place.is_abandoned else _live_size(segment)
    before = _finite(segment.last[max(index - NUM_AROUND, 0) : index]) or _live_before(series, segment)
    after = _finite(segment.last[index + 1 : min(index + 1 + NUM_AROUND, stop)])
    usual = median(before) if before else None
    low, high, last = segment.lo[index], segment.hi[index], segment.last[index]
    at = None if last != last else last
    deviation = 0.0
    if at is not None and usual is not None:
        at = high if abs(high - usual) >= abs(low - usual) else low
        spread = median(abs(value - usual) for value in before)
        deviation = abs(at - usual) / max(spread, abs(usual) * 1e-6, 1e-300)
    name = f"{series.name}, {metric.unit}" if metric.unit else series.name

    def shown(value: float | None) -> float | None:
        return None if value is None else value * metric.scale

    return MetricMoment(
        name, shown(usual), shown(at), shown(median(after) if after else None), segment.bad[index], deviation
    )


def _not_told_here(series: Series, metric: Metric, place: _Place) -> MetricMoment:
    segment, index = place.segment, place.index
    stop = len(segment.steps) if place.is_abandoned else _live_size(segment)
    before = _finite(segment.last[max(index + 1 - NUM_AROUND, 0) : index + 1]) or _live_before(series, segment)
    after = _finite(segment.last[index + 1 : min(index + 1 + NUM_AROUND, stop)])
    usual = median(before) * metric.scale if before else None
    name = f"{series.name}, {metric.unit}" if metric.unit else series.name
    return MetricMoment(name, usual, None, median(after) * metric.scale if after else None)


def _live_before(series: Series, segment: Segment) -> list[float]:
    """The newest values of the live branch before a segment's first step."""
    for earlier in reversed(series.segments[: series.segments.index(segment)]):
        size = min(bisect_left(earlier.steps, segment.steps[0]), _live_size(earlier))
        if size:
            return _finite(earlier.last[max(size - NUM_AROUND, 0) : size])
    return []


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if value == value]


def _rate(series: Mapping[str, Series], step: int, session: int | None) -> tuple[str, float | None, float | None]:
    """The learning rate just before and just after a step."""
    name = next((name for name in _RATES if name in series), "")
    name = name or next((one for one in series if one.rpartition("/")[2] in _RATES or one.startswith("lr/")), "")
    place = _place(series[name], step, session) if name else None
    if place is None:
        return "", None, None
    segment, index = place.segment, place.index
    before = _finite(segment.last[max(index - 1, 0) : index]) or _live_before(series[name], segment)[-1:]
    after = _finite(segment.last[index : index + 2])
    return name, before[-1] if before else None, after[-1] if after else None


def _events(markers: Sequence[Marker], step: int, ts: float) -> tuple[Marker | None, Marker | None]:
    """The last event at or before a step, and the first one after it, by time: steps go back."""
    telling = [marker for marker in markers if marker.kind not in _DULL]
    before = [marker for marker in telling if marker.ts < ts or (marker.ts == ts and marker.step <= step)]
    later = sorted((marker for marker in telling if marker.ts >= ts and marker not in before), key=lambda one: one.ts)
    # What is told of the step itself comes a little later; behind another step's news it is of another time that the
    # step was trained.
    num_of_it = next(
        (at for at, one in enumerate(later) if one.step != step or one.ts - ts >= OF_THE_STEP_S), len(later)
    )
    before, after = [*before, *later[:num_of_it]], later[num_of_it:]
    return (
        max(before, key=lambda marker: marker.ts, default=None),
        min(after, key=lambda marker: marker.ts, default=None),
    )


def _as_trained(marker: Marker | None, segment: Segment) -> Marker | None:
    """A save at the time of its step, where that is known: it is told of when it is durable, and what is trained since
    then is not what was trained since its step, which the header tells."""
    if marker is None or marker.kind != "save" or marker.session != segment.session:
        return marker
    index = bisect_left(segment.steps, marker.step)
    is_known = index < len(segment.steps) and segment.steps[index] == marker.step
    return replace(marker, ts=min(segment.ts[index], marker.ts)) if is_known else marker


def _session(sessions: Sequence[Session], number: int) -> Session | None:
    return next((one for one in reversed(sessions) if one.number == number), None)


def _save_before(state: RunState, step: int, session: int, bad: frozenset[str]) -> tuple[Save | None, tuple[Save, ...]]:
    """The newest checkpoint from before `step` that leads to it, and newer ones that are of no use."""
    candidates = sorted(
        (save for save in state.saves
         if save.step < step and not save.removed and save.session <= session and _leads_to(save, session, state)),
        key=lambda save: (save.step, save.ts), reverse=True,
    )  # fmt: skip
    passed_over: list[Save] = []
    stand_in = state.at_risk.checkpoint if state.at_risk is not None else None
    for save in candidates:
        if save.path not in bad:
            return save, tuple(passed_over)
        if stand_in in save.names and stand_in not in bad and state.at_risk.checkpoint_step == save.step:  # type: ignore[union-attr]
            assert stand_in is not None
            return replace(save, path=stand_in, kind=""), (*passed_over, save)  # a backup of it is good
        passed_over.append(save)
    return None, tuple(passed_over)


def _leads_to(save: Save, session: int, state: RunState) -> bool:
    """Whether what was saved is an ancestor of what `session` trained: no resume in between went back behind it."""
    return all(one.start_step >= save.step for one in state.sessions if save.session < one.number <= session)
