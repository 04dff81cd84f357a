"""Trainings that never ran, as events: healthy ones of many shapes, and faults planted in them. Same seed, same run."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ckpt_tui.events.schema import Best, CheckpointSaved, Disk, EpochEnd, Eval, Event, Nonfinite, RunStart, Step

Noise = Callable[[random.Random], float]  # of spread about 1


def student(degrees: int) -> Noise:
    def noise(rng: random.Random) -> float:
        return rng.gauss(0, 1) / math.sqrt(max(sum(rng.gauss(0, 1) ** 2 for _ in range(degrees)) / degrees, 1e-9))

    return noise


NOISES: dict[str, Noise] = {
    "normal": lambda rng: rng.gauss(0, 1),
    "laplace": lambda rng: rng.expovariate(1) * rng.choice((-1, 1)),
    "lognormal": lambda rng: rng.lognormvariate(0, 0.8) - 1,
    "t5": student(5),
    "t3": student(3),
    "bimodal": lambda rng: rng.gauss(4 if rng.random() < 0.1 else 0, 1),  # a tenth of the data is another domain
}
LEVELS = ("decay", "power", "steps", "flat", "hump", "restarts", "wander", "sawtooth", "running_mean", "overfit")
EPOCHS_TOLD = ("total", "field", "event", "fraction")


@dataclass(frozen=True)
class Shape:
    """One healthy training. level: where the loss is expected; spread: of its noise, as a fraction of that."""

    seed: int
    level: str = "decay"
    noise: str = "normal"
    spread: float = 0.03
    num_points: int = 3000
    every: int = 1  # steps from one step event to the next
    pace_s: float = 0.5  # a step
    pace_spread: float = 0.1
    per_epoch: int = 700  # points
    epochs_told: str = "total"
    eval_every: int = 200  # points
    eval_paces: float = 40.0  # steps that an evaluation takes as long as
    save_every: int = 250
    restarts: int = 0
    clock_jumps: int = 0
    inf_norms: bool = False
    noisy_start: bool = False


def shape_of(seed: int) -> Shape:
    """Any of them, by its number."""
    rng = random.Random(seed)
    return Shape(
        seed, LEVELS[seed % len(LEVELS)], rng.choice(list(NOISES)), rng.choice((0.002, 0.01, 0.03, 0.1, 0.25)),
        rng.choice((300, 1500, 3000, 6000)), rng.choice((1, 1, 10, 50)), rng.choice((0.01, 0.3, 3.0)),
        rng.choice((0.02, 0.2, 0.5)), rng.choice((90, 350, 700, 2500)), rng.choice(EPOCHS_TOLD),
        rng.choice((20, 100, 400)), rng.choice((3.0, 40.0, 200.0)), rng.choice((50, 250, 1000)),
        rng.choice((0, 0, 1, 3)), rng.choice((0, 0, 2)), rng.random() < 0.5, rng.random() < 0.3,
    )  # fmt: skip


@dataclass
class Simulation:
    """Makes the events of a shape. faults: at a point, what happens to its loss or its pace."""

    shape: Shape
    change_loss: Callable[[int, float], float] = lambda point, loss: loss
    pace_factor: Callable[[int], float] = lambda point: 1.0
    saves_until: int | None = None
    disk_bytes_a_save: int = 0
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.shape.seed * 7919 + 1)
        self.ts, self.seq, self.session = 1_700_000_000.0, 0, 1
        self._wander = 0.0
        self._mean: list[float] = []
        self._free = 50_000_000_000
        self._best = math.inf
        self._make()

    def level(self, point: int, since_start: int) -> float:
        shape, fraction = self.shape, point / self.shape.num_points
        per_epoch = shape.per_epoch
        value = 1.2 + 3 * math.exp(-6 * fraction)
        if shape.level == "power":
            value = 1 + 8 / (1 + point) ** 0.35
        elif shape.level == "steps":
            value = (3.0, 1.8, 1.5)[min(int(3 * fraction), 2)]
        elif shape.level == "flat":
            value = 0.693
        elif shape.level == "hump":  # rises while it warms up, then falls
            value = 2 + 1.2 * math.exp(-(((fraction - 0.02) / 0.015) ** 2)) + 2 * math.exp(-5 * fraction)
        elif shape.level == "restarts":
            phase = (4 * fraction) % 1
            value = 1.3 + math.exp(-3 * fraction) + 0.9 * math.exp(-8 * phase)
        elif shape.level == "wander":
            self._wander = 0.999 * self._wander + self.rng.gauss(0, 0.002)
            value *= math.exp(self._wander)
        elif shape.level == "sawtooth":  # falls within an epoch, jumps up with the next one's new data
            value = 1 + 2 * math.exp(-3 * fraction) + 0.8 * (1 - ((point - 1) % per_epoch) / per_epoch)
        elif shape.level == "overfit":  # falls at the boundary: data seen before
            value = 2.5 * 0.55 ** ((point - 1) // per_epoch) + 0.05
        if shape.noisy_start and since_start < 15 and self.session > 1:
            value *= 1.5
        return value

    def rate(self, point: int) -> float:
        fraction = point / self.shape.num_points
        warm = min((point + 1) / max(0.02 * self.shape.num_points, 1), 1.0)
        if self.shape.level == "restarts":
            return 3e-4 * warm * (0.5 + 0.5 * math.cos(math.pi * ((4 * fraction) % 1))) + 1e-6
        return 3e-4 * warm * (1 - 0.9 * fraction)

    def _add(self, event_type: type[Event], point: int, **fields: object) -> None:
        self.seq += 1
        step = point * self.shape.every
        self.events.append(event_type(seq=self.seq, ts=self.ts, session=self.session, step=step, **fields))

    def _start(self, point: int) -> None:
        shape = self.shape
        self._add(
            RunStart, point, total_steps=shape.num_points * shape.every, start_step=point * shape.every,
            steps_per_epoch=shape.per_epoch * shape.every if shape.epochs_told == "total" else 0,
        )  # fmt: skip
        self.ts += 40 * shape.pace_s + 5  # loads, compiles

    def _make(self) -> None:
        shape, rng = self.shape, self.rng
        noise = NOISES[shape.noise]
        crashes = sorted(rng.sample(range(shape.num_points // 4, shape.num_points), shape.restarts))
        jumps = sorted(rng.sample(range(20, shape.num_points), shape.clock_jumps))
        self._start(0)
        point, since_start = 0, 0
        while point < shape.num_points:
            point += 1
            since_start += 1
            self._point(point, since_start, noise)
            if jumps and point == jumps[0]:
                del jumps[0]
                self.ts += rng.choice((-3600.0, -1.0, 3600.0))
            if crashes and point == crashes[0]:
                del crashes[0]
                self.session, point, since_start = self.session + 1, point - point % shape.save_every, 0
                self.ts += 300.0
                self._start(point)

    def _point(self, point: int, since_start: int, noise: Noise) -> None:
        shape, rng = self.shape, self.rng
        warm = 6.0 if since_start <= 3 else 1.0
        spread = math.exp(rng.gauss(0, shape.pace_spread))
        self.ts += shape.every * shape.pace_s * spread * warm * self.pace_factor(point)
        level = self.level(point, since_start)
        loss = max(level * (1 + shape.spread * noise(rng)), 1e-6)
        if shape.level == "running_mean":
            if point % shape.per_epoch == 1:
                self._mean = []
            self._mean.append(loss)
            loss = sum(self._mean) / len(self._mean)
        metrics = {
            "loss": self.change_loss(point, loss),
            "lr": self.rate(point),
            "grad_norm": rng.lognormvariate(0, 0.5),
        }
        if shape.inf_norms and rng.random() < 0.004:
            metrics["grad_norm"] = math.inf
            self._add(Nonfinite, point, what="grad_norm", action="skipped")
        epoch: float | None = None
        if shape.epochs_told == "field":
            epoch = float((point - 1) // shape.per_epoch)
        elif shape.epochs_told == "fraction":
            epoch = (point - 1) / shape.per_epoch
        self._add(Step, point, epoch=epoch, metrics=metrics)
        if point % shape.per_epoch == 0 and shape.epochs_told == "event":
            self._add(EpochEnd, point, epoch=float(point // shape.per_epoch))
        if point % shape.eval_every == 0:
            self._evaluate(point, level)
        if point % shape.save_every == 0 and (self.saves_until is None or point <= self.saves_until):
            self._save(point, "rolling")

    def _evaluate(self, point: int, level: float) -> None:
        seconds = self.shape.eval_paces * self.shape.pace_s
        self.ts += seconds
        value = level * (1 + 0.01 * self.rng.gauss(0, 1))
        self._add(Eval, point, seconds=seconds, metrics={"val_loss": value})
        if value < self._best:
            self._add(
                Best, point, metric="val_loss", value=value, previous=None if self._best == math.inf else self._best
            )
            self._best = value
            self._save(point, "best")

    def _save(self, point: int, kind: str) -> None:
        self.ts += 2 * self.shape.pace_s
        step = point * self.shape.every
        self._add(CheckpointSaved, point, path=f"{kind}_{step}.pt", kind=kind, bytes=10_000_000, stall_seconds=0.1)
        # Retention makes room for most saves; other people's files come and go.
        self._free -= self.disk_bytes_a_save
        free = self._free + int(self.rng.gauss(0, 40_000_000))
        self._add(Disk, point, free_bytes=max(free, 0), saves_that_fit=max(free, 0) // 10_000_000)


def batches(events: Sequence[Event], rng: random.Random) -> Iterator[Sequence[Event]]:
    """The events in batches of any size."""
    start = 0
    while start < len(events):
        stop = start + rng.choice((1, 7, 100, 3000))
        yield events[start:stop]
        start = stop
