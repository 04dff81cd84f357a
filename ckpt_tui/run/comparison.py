"""Several runs beside each other: the settings that differ, and what came of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ckpt_tui.records import dataclass
from ckpt_tui.run.metrics import Metric, main_metric, metrics_of
from ckpt_tui.run.state import Phase, RunState, Series
from ckpt_tui.text import safe_text

MAX_RUNS = 8
MAX_SETTINGS = 10_000
_MAX_DEPTH = 8
_LOSSES = ("loss", "train_loss")
LETTERS = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class Setting:
    """A key, and what each run has there; None where a run has no such key. Lists and such as text."""

    key: str
    values: tuple[object, ...]

    @property
    def differs(self) -> bool:
        return any(not _is_same(self.values[0], value) for value in self.values[1:])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one run. last, lowest: of the metric that is compared. best: what the trainer calls the best.
    seconds: of all its sessions together. overhead: of what crashes have cost, a fraction."""

    phase: Phase
    step: int
    total_steps: int
    last: float | None
    lowest: float | None
    best: float | None
    best_step: int | None
    seconds: float | None
    num_sessions: int
    lost_steps: int
    lost_s: float
    overhead: float | None


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands for a key that a run does not have: None may be a value."""


MISSING = Missing()


def settings_of(states: Sequence[RunState]) -> list[Setting]:
    """Every setting of any of the runs, in the order in which they tell them."""
    flat = [dict(_flat(state.config)) for state in states]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [Setting(key, tuple(settings.get(key, MISSING) for settings in flat)) for key in keys]


def differing(settings: Sequence[Setting], states: Sequence[RunState]) -> list[Setting]:
    """Only those that differ. A run that told no settings at all does not differ from others by that."""
    told = [index for index, state in enumerate(states) if state.config]
    return [one for one in settings if Setting(one.key, tuple(one.values[index] for index in told)).differs]


def _flat(config: Mapping[str, object], before: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    num_told = 0
    for name, value in config.items():
        key = f"{before}{name}"
        if isinstance(value, Mapping) and value and depth < _MAX_DEPTH:
            inner: Iterator[tuple[str, object]] = _flat(value, f"{key}.", depth + 1)
        else:
            inner = iter(((key, value),))
        for one in inner:
            num_told += 1
            if num_told > MAX_SETTINGS:
                return
            yield one


def _is_same(one: object, other: object) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other or (one != one and other != other)  # NaN is the same as NaN


def outcome_of(state: RunState, metric: Metric | None) -> Outcome:
    """What came of a run, with regard to `metric`."""
    series = series_of(state, metric)
    scale = metric.scale if metric is not None else 1.0
    spans = [max(session.last_ts - session.start_ts, 0.0) for session in state.sessions]
    return Outcome(
        state.phase, state.step, state.total_steps,
        _scaled(series.last, scale) if series is not None else None,
        _scaled(series.best, scale) if series is not None else None,
        state.best_value, state.best_step, sum(spans) or None,
        len(state.sessions), state.lost.steps, state.lost.seconds, state.lost.overhead,
    )  # fmt: skip


def _scaled(value: float | None, scale: float) -> float | None:
    return value * scale if value is not None else None


def series_of(state: RunState, metric: Metric | None) -> Series | None:
    """The curve of a run that is compared. Trainers call the same loss by two names."""
    if metric is None or metric.train is None:
        return None
    found = state.series.get(metric.train)
    if found is None and metric.train in _LOSSES:
        found = next((state.series[name] for name in _LOSSES if name in state.series), None)
    return found


def metrics_to_compare(states: Sequence[RunState]) -> tuple[Metric, ...]:
    """Every series of any of the runs as a metric of its own; those that more of them have come first."""
    names = dict.fromkeys(name for state in states for name in state.series)
    found: list[Metric] = []
    for metric in metrics_of(names):
        found.append(Metric(metric.name, train=metric.train or metric.val, unit=metric.unit, scale=metric.scale))
        if metric.train is not None and metric.val is not None:
            found.append(Metric(metric.val, train=metric.val, unit=metric.unit, scale=metric.scale))

    def num_with(metric: Metric) -> int:
        return sum(series_of(state, metric) is not None for state in states)

    return tuple(sorted(found, key=lambda metric: -num_with(metric)))


def metric_to_begin_with(states: Sequence[RunState]) -> Metric | None:
    """The loss, or what most of the runs have."""
    metrics = metrics_to_compare(states)
    for state in states:
        main = main_metric(state)
        name = (main.train or main.val) if main is not None else None
        metric = metric_of(metrics, name) if name is not None else None
        if metric is not None and all(series_of(other, metric) is not None for other in states):
            return metric
    return metrics[0] if metrics else None


def metric_of(metrics: Sequence[Metric], name: str) -> Metric | None:
    """The metric of that name, or of the series of that name."""
    return next((metric for metric in metrics if name in (metric.name, metric.train)), None)


def setting_words(value: object) -> str:
    """A setting as people write it: `3e-4`, `0.001`, `adamw`, `[0.9, 0.95]`; `-` where a run has no such key."""
    if isinstance(value, Missing):
        return "-"
    if not isinstance(value, float):
        return safe_text(value, 200)
    words = f"{value:g}"
    if 0 < abs(value) < 1e-3 and "e" not in words:
        digits = words.replace("-", "").replace(".", "").lstrip("0")
        words = f"{value:.{len(digits) - 1}e}"
    return words.replace("e-0", "e-").replace("e+0", "e+")


def settings_title(num_differing: int, num_settings: int, untold: Sequence[int]) -> str:
    """What is said over the list. untold: which runs told no settings."""
    if not num_settings:
        return "settings: no run tells any"
    words = f"{num_differing} of {num_settings} differ" if num_differing else f"all {num_settings} the same"
    letters = ", ".join(LETTERS[index] for index in untold)
    return f"settings: {words}" + (f"; {letters} {'tells' if len(untold) == 1 else 'tell'} none" if untold else "")


def names_that_tell_apart(names: Sequence[str]) -> list[str]:
    """Names without the directories that all of them share."""
    parts = [name.strip("/").split("/") for name in names]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return ["/".join(part[shared:]) for part in parts]
