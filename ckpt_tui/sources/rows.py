"""What one line of another program's log tells, and how it becomes events of ours.

Nothing is made up: what a log does not tell stays None or 0, an event of which no time is known has `ts` 0. The names
of a log's metrics are kept, but for the few that every screen asks for (`loss`, `val_loss`, `lr`, ...).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from ckpt_tui.events.schema import CheckpointSaved, ErrorRaised, Eval, Event, RunEnd, RunStart, Step
from ckpt_tui.records import dataclass

MAX_STEP = (1 << 62) - 1
MAX_METRICS = 256

# What others call it, the surest first; in lower case, with `_` for spaces.
_CALLED = {
    "loss": (
        "loss", "train_loss", "train/loss", "training_loss", "training/loss", "loss/train", "loss_train",
        "train_loss_step", "train/loss_step", "lm_loss", "reduced_train_loss", "loss_metrics/global_avg_loss",
        "train/total_loss", "total_loss", "train_loss_epoch", "train/loss_epoch",
    ),
    "val_loss": (
        "val_loss", "eval_loss", "val/loss", "eval/loss", "valid_loss", "validation_loss", "validation/loss",
        "valid/loss", "loss/val", "loss/valid", "loss/validation", "loss_val", "validation_metrics/loss",
        "val_loss_epoch", "val/loss_epoch",
    ),
    "lr": ("lr", "learning_rate", "train/learning_rate", "train/lr", "lr/pg0", "learning-rate"),
    "grad_norm": ("grad_norm", "train/grad_norm", "gradient_norm", "train/global_grad_norm", "train/gradient_norm"),
    "tokens_per_s": (
        "tokens_per_s", "tps", "throughput(tps)", "tok/sec", "tok/s", "tokens_per_second", "tokens_per_sec",
        "tokens/s", "tokens/sec", "train/tokens_per_sec", "train/tokens_per_second",
    ),
}  # fmt: skip
_MEANS = {other: (own, rank) for own, others in _CALLED.items() for rank, other in enumerate(others)}
_EVAL_STARTS = ("eval", "val", "valid", "validation", "test")


@dataclass(slots=True)
class Row:
    """One line's facts. step: None when it tells none. elapsed_s: seconds since the training began.
    is_zoned: `ts` is the same on every machine: Unix seconds, or told with its zone.

    saved: the path of a checkpoint that the line says is saved ("" with `is_save`: it does not say where).
    end: the status of a `run_end`. error: type and message of an exception that the log shows. The last three are the
    run's (`Facts`), where a line tells of them.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    epoch: float | None = None
    ts: float | None = None
    is_zoned: bool = False
    elapsed_s: float | None = None
    is_save: bool = False
    saved: str = ""
    end: str = ""
    reason: str = ""
    error: tuple[str, str] | None = None
    total_steps: int = 0
    steps_per_epoch: int = 0
    step_unit: str = "step"


@dataclass(slots=True)
class Facts:
    """What a log, or a settings file beside it, tells of the run as a whole. step_unit: what its steps count."""

    total_steps: int = 0
    steps_per_epoch: int = 0
    step_unit: str = "step"
    run_name: str = ""
    log_path: str = ""
    config: Mapping[str, object] = field(default_factory=dict)


def meaning(name: str) -> tuple[str, int] | None:
    """Our word for another's metric, and how sure that is (0 is surest)."""
    return _MEANS.get(name.strip().lower().replace(" ", "_"))


def is_of_evaluation(name: str) -> bool:
    """Whether a metric's name says that it was measured on other data than what is trained on."""
    first = name.replace("/", "_").replace("-", "_").partition("_")[0].lower()
    return first in _EVAL_STARTS


class Teller:
    """Makes events of rows: counts them, keeps the step where a row has none, and calls metrics by our words."""

    def __init__(self, source: str, facts: Facts) -> None:
        self.facts = facts
        self.step = 0
        self._source = source
        self._seq = 0
        self._told: tuple[object, ...] | None = None
        self._name_of: dict[str, str] = {}
        self._taken: dict[str, str] = {}

    def expect(self, names: Iterable[str]) -> None:
        """All names of a table are known: of several for one thing the surest gets our word."""
        found = sorted((rank, name, own) for name in names if (means := meaning(name)) for own, rank in (means,))
        for _, name, own in found:
            self._taken.setdefault(own, name)

    def events(self, row: Row) -> list[Event]:
        """The events of one row, a `run_start` before them where something of it is new."""
        if row.step is not None:
            self.step = max(min(row.step, MAX_STEP), 0)
        ts = row.ts if row.ts is not None else 0.0
        found: list[Event] = []
        start = self._start(ts)
        if start is not None:
            found.append(start)
        if row.metrics or (row.step is not None and not (row.is_save or row.error or row.end)):
            metrics: dict[str, Any] = {self._called(name): value for name, value in row.metrics.items()}
            kind = Eval if metrics and all(map(is_of_evaluation, metrics)) else Step
            found.append(kind(seq=self._next(), ts=ts, session=1, step=self.step, epoch=row.epoch, metrics=metrics))
        if row.is_save:
            found.append(CheckpointSaved(seq=self._next(), ts=ts, session=1, step=self.step, path=row.saved))
        if row.error is not None:
            kind_of_error, message = row.error
            found.append(
                ErrorRaised(seq=self._next(), ts=ts, session=1, step=self.step, type=kind_of_error, message=message)
            )
        if row.end:
            found.append(RunEnd(seq=self._next(), ts=ts, session=1, step=self.step, status=row.end, reason=row.reason))
        return found

    def _start(self, ts: float) -> RunStart | None:
        facts = self.facts
        says = (facts.total_steps, facts.steps_per_epoch, facts.step_unit, facts.run_name, len(facts.config))
        if says == self._told:
            return None
        self._told = says
        return RunStart(
            seq=self._next(), ts=ts, session=1, step=0, run_name=facts.run_name, config=dict(facts.config),
            total_steps=max(min(facts.total_steps, MAX_STEP), 0), steps_per_epoch=facts.steps_per_epoch,
            extra={"source": self._source, "step_unit": facts.step_unit, "log": facts.log_path},
        )  # fmt: skip

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _called(self, name: str) -> str:
        called = self._name_of.get(name)
        if called is None:
            means = meaning(name)
            called = name.strip()
            if means is not None and self._taken.setdefault(means[0], name) == name:
                called = means[0]
            if len(self._name_of) < 4 * MAX_METRICS:
                self._name_of[name] = called
        return called
