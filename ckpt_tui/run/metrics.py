"""What can be drawn of a run: its metrics, each with its validation twin, and the machine's load in a group apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState, Series

TRAINING, MACHINE = "training", "machine"

# Metrics in lines of the log that are no measure of anything: they say where the training is.
_POSITIONS = frozenset({"epoch"})
_TRAIN_WORDS = ("train", "training")
# Of several twins the one that a training watches itself by; the others stay lines of their own.
_TWIN_ORDER = ("val", "valid", "validation", "eval", "test")


@dataclass(frozen=True, slots=True)
class Metric:
    """One chart: `train` and `val` are names of series, either may be missing.

    scale: what values are multiplied by to be in `unit`.
    """

    name: str
    train: str | None = None
    val: str | None = None
    group: str = TRAINING
    unit: str = ""
    scale: float = 1.0

    @property
    def title(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def pair(self, series: Mapping[str, Series]) -> tuple[Series | None, Series | None]:
        return (series.get(self.train) if self.train else None, series.get(self.val) if self.val else None)


def metrics_of(names: Iterable[str]) -> tuple[Metric, ...]:
    """A chart for every series, twins together: the loss first, others as the log has them, the machine at the end."""
    return _metrics_of(tuple(names))


@lru_cache(maxsize=8)  # asked at every tick, of the same names
def _metrics_of(names: tuple[str, ...]) -> tuple[Metric, ...]:
    present = dict.fromkeys(name for name in names if name not in _POSITIONS)
    machine = [name for name in present if _is_of_machine(name)]
    training = [name for name in present if name not in set(machine)]
    bases = {_train_base(name): name for name in reversed(training) if _twin_of(name) is None}
    # `loss` and not `train_loss` is what `val_loss` belongs to where there are both.
    bases |= {name: name for name in training if _twin_of(name) is None}
    twins: dict[str, tuple[int, str]] = {}
    for name in training:
        twin = _twin_of(name)
        if twin is not None and twin[0] in bases:
            order = (_TWIN_ORDER.index(twin[1]), name)
            owner = bases[twin[0]]
            twins[owner] = min(twins.get(owner, order), order)
    taken = {name for _, name in twins.values()}
    found = []
    for name in training:
        if name in taken:
            continue
        if _twin_of(name) is not None:
            found.append(Metric(name, val=name))
        else:
            found.append(Metric(name, train=name, val=twins[name][1] if name in twins else None))
    found.sort(key=lambda metric: _rank(metric.name))
    return (*found, *(_machine_metric(name) for name in sorted(machine)))


def _is_of_machine(name: str) -> bool:
    if name in ("cpu_percent", "rss_bytes"):
        return True
    gpu, _, what = name.partition("_")
    return gpu.startswith("gpu") and gpu[3:].isdecimal() and what in ("percent", "memory_bytes")


def _train_base(name: str) -> str:
    found = _without(name, _TRAIN_WORDS)
    return found[0] if found else name


def _twin_of(name: str) -> tuple[str, str] | None:
    """`val_loss` -> (`loss`, `val`); None for what is no validation metric."""
    return _without(name, _TWIN_ORDER)


def _without(name: str, words: Iterable[str]) -> tuple[str, str] | None:
    """`name` without one of `words` before or after it, and which: `val_loss`, `val/loss`, `loss_val`, `loss/val`."""
    for word in words:
        for mark in "_/":
            if name.startswith(word + mark) and len(name) > len(word) + 1:
                return name[len(word) + 1 :], word
    for word in words:
        for mark in "_/":
            if name.endswith(mark + word) and len(name) > len(word) + 1:
                return name[: -len(word) - 1], word
    return None


def _rank(name: str) -> int:
    if name in ("loss", "train_loss"):
        return 0 if name == "loss" else 1
    twin = _twin_of(name)
    if twin is not None and twin[0] == "loss":
        return 2
    return 3


def _machine_metric(name: str) -> Metric:
    if name.endswith("_bytes"):
        return Metric(name, name, group=MACHINE, unit="GB", scale=1e-9)
    return Metric(name, name, group=MACHINE, unit="%")


def metric_named(names: Iterable[str], name: str) -> Metric | None:
    """The chart that is called `name`, or that shows the series of that name."""
    metrics = metrics_of(names)
    exact = next((metric for metric in metrics if metric.name == name), None)
    return exact or next((metric for metric in metrics if name and name in (metric.train, metric.val)), None)


def main_metric(state: RunState) -> Metric | None:
    """What is shown when nothing was asked for: the loss, or the first metric of the training there is."""
    metrics = [metric for metric in metrics_of(state.series) if metric.group == TRAINING]
    return metrics[0] if metrics else None
