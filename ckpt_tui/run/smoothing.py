"""A smoothed line to draw over the raw one: a time-weighted, debiased exponential moving average.

With points of value y_i, each the mean of n_i, at steps x_i and a time constant T in steps:

    d_i = exp(-(x_i - x_(i-1)) / T)
    s_i = d_i s_(i-1) + n_i y_i,    w_i = d_i w_(i-1) + n_i,    smoothed_i = s_i / w_i

Dividing by w_i takes out the pull towards the zero it began with (the bias correction of Kingma and Ba, Adam, 2015,
section 3), and the decay by distance makes uneven steps count for what they are; it is the "time weighted EMA" of
Weights & Biases (docs.wandb.ai, "Smooth line plots"), with the weight told as a time constant, and with n_i because
old points are kept as means of buckets: one of 512 points weighs what its points would.

It does not go over a gap of values that are not finite (it begins anew behind it), and follows the live branch only:
where a session was resumed, it goes on from the state of the step that the resume began at.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right

from ckpt_tui.run.state import Segment, Series

# Strength -> the time constant as a part of the steps so far, and in points at least.
STRENGTHS = {"light": (1 / 256, 3.0), "heavy": (1 / 32, 10.0)}

_NAN = float("nan")
_State = tuple[float, float, int]  # the average so far, its weight, the step it is of


def smoothed(series: Series, strength: str) -> Series:
    """`series` smoothed: lo, hi and last of a bucket are its smoothed value, NaN in a gap. Only what is live."""
    constant = time_constant(series, *STRENGTHS[strength])
    average = _Average(constant)
    segments = []
    for segment in series.segments:
        limit = segment.abandoned_after
        size = len(segment.steps) if limit is None else bisect_right(segment.steps, limit)
        if size:
            is_over = segment is not series.segments[-1]
            segments.append((_remembered if is_over else _smoothed_segment)(segment, size, average))
    last = segments[-1].last[-1] if segments else None
    return Series(series.name, tuple(segments), series.num_points, last)


def time_constant(series: Series, share: float, num_points: float) -> float:
    """In steps. Steps so far and steps a point count as the next power of two: the line does not change with every new
    point."""
    firsts = [segment.steps[0] for segment in series.segments if len(segment.steps)]
    lasts = [segment.steps[-1] for segment in series.segments if len(segment.steps)]
    span = max(lasts, default=1) - min(firsts, default=0)
    if span <= 0:
        return num_points
    per_point = max(span / max(series.num_points - 1, 1), 2.0**-10)
    return float(max(_power_of_two(span) * share, _power_of_two(per_point) * num_points))


def _power_of_two(value: float) -> float:
    """The next one that is not smaller; what is just above one counts as it."""
    return 2.0 ** math.ceil(math.log2(value) - 0.01)


# Sessions that are over stay as they are, while the last one grows: (its segment, how much of it is live, how the
# average stood before it) -> the segment, kept alive so that no other has its id; the result; how it stood after it.
_done: dict[tuple[object, ...], tuple[Segment, Segment, _State]] = {}
_MOST_DONE = 256


def _remembered(segment: Segment, size: int, average: _Average) -> Segment:
    key = (id(segment), size, average.constant, average.state)
    known = _done.get(key)
    if known is None:
        if len(_done) >= _MOST_DONE:
            _done.clear()
        known = (segment, _smoothed_segment(segment, size, average), average.state)
        _done[key] = known
    average.state = known[2]
    return known[1]


def _smoothed_segment(segment: Segment, size: int, average: _Average) -> Segment:
    values, bad = array("d"), array("q")
    has_means = len(segment.num_finite) >= size
    for index in range(size):
        num = segment.num_finite[index] if has_means else int(segment.last[index] == segment.last[index])
        mean = segment.total[index] / num if has_means and num else segment.last[index]
        if not math.isfinite(mean):  # a sum beyond what a float holds
            mean = segment.last[index]
        value = average.add(segment.steps[index], mean, num)
        values.append(value)
        bad.append(value != value)
    return Segment(segment.session, segment.steps[:size], segment.ts[:size], values, values, values, bad)


class _Average:
    def __init__(self, constant: float) -> None:
        self.constant = constant
        self.state: _State = (0.0, 0.0, 0)

    def add(self, step: int, value: float, num: int) -> float:
        """The average with `num` more points of mean `value`; NaN, and all forgotten, with none."""
        if not num or not math.isfinite(value):
            self.state = (0.0, 0.0, 0)
            return _NAN
        average, weight, before = self.state
        decay = math.exp(min(before - step, 0) / self.constant) if weight else 0.0
        weight = decay * weight + num
        # s_i / w_i without s_i, which would overflow with values near the largest float.
        average += (value - average) * (num / weight)
        self.state = (average, weight, step)
        return average
