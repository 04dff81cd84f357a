"""Axes: where the ticks are, how they are written, and which cell or dot a value falls on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ckpt_tui.records import dataclass
from ckpt_tui.run.epochs import Epochs
from ckpt_tui.text import short_count

# Spans of time that people count in, seconds.
_TIME_STEPS = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800,
)  # fmt: skip
MAX_TICKS = 50
MAX_LABEL_CELLS = 6  # of the y axis
# Beyond these the arithmetic of an axis leaves what a float holds, and labels their six cells.
_SMALLEST, _LARGEST = 1e-90, 1e300


@dataclass(frozen=True, slots=True)
class Tick:
    value: float
    label: str


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that cuts `span` into at most `most` pieces."""
    assert span > 0, span
    rough = span / max(most, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10.0 * power


def number_label(value: float, step: float) -> str:
    """`value` with the decimals that `step` needs, in at most six cells: `2.5`, `0.002`, `12k`, `3e-5`."""
    if value == 0:
        return "0" if _decimals(step) in (0, *range(5, 13)) else f"{0:.{_decimals(step)}f}"
    magnitude = max(abs(value), step)
    if magnitude >= 1e4:
        return _thousands(value, step)
    decimals = _decimals(step)
    if decimals <= 4:
        return f"{value:.{decimals}f}"
    for digits in (1, 0):
        mantissa, exponent = f"{value:.{digits}e}".split("e")
        label = f"{mantissa.removesuffix('.0')}e{int(exponent)}"
        if len(label) <= MAX_LABEL_CELLS:
            break
    return label


def _thousands(value: float, step: float) -> str:
    for divisor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            decimals = min(_decimals(step / divisor), 2) if step < divisor else 0
            if step % divisor and step > divisor:
                decimals = 1
            text = f"{value / divisor:.{decimals}f}"
            return f"{text}{unit}" if len(text) < 6 else f"{value:.0e}".replace("e+", "e")
    return f"{value:.0f}"


def _decimals(step: float) -> int:
    """Digits after the point that tell multiples of `step` apart."""
    for decimals in range(12):
        scaled = step * 10.0**decimals
        if abs(scaled - round(scaled)) < 1e-6 * max(scaled, 1e-300) and round(scaled) > 0:
            return decimals
    return 12


def linear_ticks(low: float, high: float, most: int) -> tuple[Tick, ...]:
    """Ticks inside [low, high], at most `most` + 1 of them."""
    if not high > low:
        return (Tick(low, number_label(low, abs(low) or 1.0)),)
    step = nice_step(high - low, most)
    first = math.ceil(low / step - 1e-9)
    ticks = []
    for index in range(first, first + MAX_TICKS):
        value = index * step
        if value > high + step * 1e-9:
            break
        ticks.append(Tick(value, number_label(value, step)))
    return tuple(ticks)


def log_ticks(low: float, high: float, most: int) -> tuple[Tick, ...]:
    """Ticks of a logarithmic axis: powers of ten, with 2 and 5 between where there is room; both above zero."""
    decades = math.log10(high) - math.log10(low)
    if decades < 1:
        return tuple(tick for tick in linear_ticks(low, high, most) if tick.value > 0)
    factors: Sequence[int] = (1, 2, 5) if decades * 3 <= most else (1,)
    stride = max(1, math.ceil(decades / max(most, 1)))
    ticks = []
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        if exponent % stride:
            continue
        for factor in factors:
            value = factor * 10.0**exponent
            if low * (1 - 1e-9) <= value <= high * (1 + 1e-9):
                ticks.append(Tick(value, log_label(value)))
    return tuple(ticks[:MAX_TICKS])


def log_label(value: float) -> str:
    """`0.001`, `0.5`, `20`, `5k`, `1e-6`: one digit tells it."""
    if 1e-4 < value < 1e3:
        return f"{value:.4f}".rstrip("0").rstrip(".") if value < 1 else f"{value:.0f}"
    if 1e3 <= value < 1e15:
        return short_count(value)
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def step_ticks(low: float, high: float, most: int) -> tuple[Tick, ...]:
    """Ticks of the step axis: whole steps only."""
    if not high > low:
        return (Tick(low, short_count(low)),)
    step = max(nice_step(high - low, most), 1.0)
    if step != round(step):
        step = float(math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    ticks = []
    for index in range(first, first + MAX_TICKS):
        value = index * step
        if value > high:
            break
        ticks.append(Tick(value, short_count(value) if step >= 10 or value < 1000 else f"{value:,.0f}"))
    labels = [tick.label for tick in ticks]
    if len(set(labels)) < len(labels):  # 12,340 and 12,345 are both 12.3k
        return tuple(Tick(tick.value, f"{tick.value:,.0f}") for tick in ticks)
    return tuple(ticks)


def time_ticks(low: float, high: float, origin: float, most: int) -> tuple[Tick, ...]:
    """Ticks of the time axis, as time since `origin`; all three in Unix seconds."""
    if not high > low:
        return (Tick(low, elapsed_label(low - origin, 1)),)
    rough = (high - low) / max(most, 1)
    step = float(next((step for step in _TIME_STEPS if step >= rough), 604800 * math.ceil(rough / 604800)))
    first = math.ceil((low - origin) / step - 1e-9)
    ticks = []
    for index in range(first, first + MAX_TICKS):
        value = origin + index * step
        if value > high:
            break
        ticks.append(Tick(value, elapsed_label(index * step, step)))
    return tuple(ticks)


def elapsed_label(seconds: float, step: float) -> str:
    """`0`, `30s`, `1:30`, `5m`, `2h`, `2h30`, `3d`."""
    if abs(seconds) < 0.5:
        return "0"
    sign = "-" if seconds < 0 else ""
    whole = round(abs(seconds))
    if step >= 86400 and whole % 86400 == 0:
        return f"{sign}{whole // 86400}d"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        if rest:
            return f"{sign}{hours}:{minutes:02d}:{rest:02d}"
        return f"{sign}{hours}h{minutes:02d}" if minutes else f"{sign}{hours}h"
    if minutes:
        return f"{sign}{minutes}:{rest:02d}" if rest else f"{sign}{minutes}m"
    return f"{sign}{rest}s"


@dataclass(frozen=True, slots=True)
class XScale:
    """The x axis that charts and event lane share. axis: `step`, `time` (Unix seconds) or `epoch`; x1 > x0; width in
    cells. epochs: where in epochs a step is, for that axis."""

    axis: str
    x0: float
    x1: float
    width: int
    epochs: Epochs | None = None

    def at(self, step: float, ts: float) -> float:
        """Where on the axis something is that happened at `step` and `ts`."""
        if self.axis == "time":
            return ts
        return self.epochs.of_step(step) if self.axis == "epoch" and self.epochs is not None else step

    def cell(self, x: float) -> int | None:
        """The cell that `x` falls in; None when it is out of view."""
        if not self.x0 <= x <= self.x1:
            return None
        return min(int((x - self.x0) / (self.x1 - self.x0) * self.width), self.width - 1)

    def value(self, cell: int) -> float:
        """The x at the middle of a cell."""
        return self.x0 + (cell + 0.5) / self.width * (self.x1 - self.x0)


@dataclass(frozen=True, slots=True)
class YScale:
    """The y axis: linear, or logarithmic where both ends are above zero. high > low; step: between linear ticks."""

    low: float
    high: float
    is_log: bool = False
    step: float = 0.0

    def fraction(self, value: float) -> float:
        """0 at the bottom, 1 at the top; what lies outside is held at the edge."""
        if self.is_log:
            if value <= 0:
                return 0.0
            low = math.log(self.low)
            fraction = (math.log(value) - low) / (math.log(self.high) - low)
        else:
            fraction = (value - self.low) / (self.high - self.low)
        return min(max(fraction, 0.0), 1.0)

    def rows(self, num_rows: int) -> Callable[[float], int]:
        """A function from a value to its row from the top, of `num_rows`; thousands of values are asked for."""
        if self.is_log:
            return lambda value: min(int((1 - self.fraction(value)) * num_rows), num_rows - 1)
        low, high, most = self.low, self.high, num_rows - 1
        per_value = num_rows / (high - low) if (high - low) > 0 else 0.0

        def row(value: float) -> int:
            if value >= high:
                return 0
            return most if value <= low else min(int((high - value) * per_value), most)

        return row

    def ticks(self, most: int) -> tuple[Tick, ...]:
        """`most` holds for a logarithmic axis; a linear one was made for its ticks."""
        if self.is_log:
            return log_ticks(self.low, self.high, most)
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        last = min(last, first + MAX_TICKS)
        return tuple(Tick(i * self.step, number_label(i * self.step, self.step)) for i in range(first, last + 1))


def y_scale(low: float, high: float, num_rows: int, *, is_log: bool = False) -> YScale:
    """An axis of `num_rows` lines around the data.

    A linear one has its ticks in the middle of lines, all equally far apart; the smallest that holds the data. Its
    ends are multiples of a line, so that it does not move with every new point.
    """
    if is_log and low > 0:
        low, high = (min(max(end, _SMALLEST), _LARGEST) for end in (low, high))
        if high <= low:
            return YScale(low / 2, high * 2, is_log=True)
        margin = math.exp((math.log(high) - math.log(low)) * 0.02)
        return YScale(low / margin, high * margin, is_log=True)
    low, high = (min(max(end, -_LARGEST), _LARGEST) for end in (low, high))
    if high - low <= max(abs(high) * 1e-12, _SMALLEST):
        room = abs(low) * 0.1 if abs(low) > _SMALLEST else 1.0
        low, high = low - room, high + room
    rows_per_tick = next(
        rows for below, rows in ((5, (1, 2)), (14, (2, 3)), (24, (2, 3, 4)), (1e9, (3, 4, 5))) if num_rows < below
    )
    power = 10.0 ** math.floor(math.log10((high - low) / num_rows))
    fitting = []
    for factor in (1, 2, 2.5, 5, 10, 20, 25, 50, 100, 200, 500):
        for rows in rows_per_tick:
            row = factor * power / rows
            bottom = math.floor(low / row + 1e-9) * row
            if bottom + (num_rows - 0.5) * row >= high:
                fitting.append((row, factor * power, bottom))
    if not fitting:  # around zero in a line or two: no line is zero and holds both sides
        return YScale(low, high, step=nice_step(high - low, 1))
    row, step, bottom = min(fitting)
    return YScale(bottom - row / 2, bottom + (num_rows - 0.5) * row, step=step)
