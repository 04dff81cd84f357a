"""Run states by hand, small and exact, for widgets and screens; and a monitor that gives them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.state import AtRisk, Eta, FeedLine, Lost, Marker, Phase, RunState, Save, Series, Session

NOW = 1_800_000_000.0


def series(name: str, values: Iterable[tuple[int, float]], *, session: int = 1, start_ts: float = NOW - 1000) -> Series:
    """One session's points (step, value), a second a step."""
    builder = SeriesBuilder(name)
    for step, value in values:
        builder.add_all(session, [step], [start_ts + step], [value])
    return builder.freeze()


def resumed_series(
    name: str, first: Sequence[tuple[int, float]], step: int, second: Sequence[tuple[int, float]]
) -> Series:
    """Two sessions: `first`, then back to `step`, then `second`."""
    builder = SeriesBuilder(name)
    for at, value in first:
        builder.add_all(1, [at], [NOW - 1000 + at], [value])
    builder.abandon_after(step)
    for at, value in second:
        builder.add_all(2, [at], [NOW - 500 + at], [value])
    return builder.freeze()


def falling(first: int, last: int) -> list[tuple[int, float]]:
    """A loss that falls from 4 towards 1."""
    return [(step, 1 + 3 * math.exp(-step / 100)) for step in range(first, last + 1)]


def save(step: int, ts: float, **fields: object) -> Save:
    name = f"rolling_step_{step:06d}.pt"
    known = {"kind": "rolling", "session": 1, "size_bytes": 10_400_000, "val_loss": 1.5, "names": (name,), **fields}
    return Save(path=name, step=step, ts=ts, **known)  # type: ignore[arg-type]


def running(**fields: object) -> RunState:
    """A healthy run at step 400 of 1,000."""
    saved = save(300, NOW - 9)
    known: dict[str, object] = {
        "name": "gpt", "phase": Phase.RUNNING, "session": 1, "step": 400, "total_steps": 1000, "start_ts": NOW - 1000,
        "last_ts": NOW - 1, "steps_per_s": 18.3,
        "seconds_per_step": 1 / 18.3, "tokens_per_s": 9400.0, "eta": Eta(234, 220, 260), "last_loss": 1.482,
        "best_value": 1.467, "at_risk": AtRisk(100, 8.9, saved.path, 300, saved.ts), "saves_that_fit": 41,
        "sessions": (Session(1, 0, 400, NOW - 1000, NOW - 1, Phase.RUNNING),), "saves": (saved,),
        "markers": (Marker("save", 300, NOW - 9, 1, "rolling"),),
        "series": {"loss": series("loss", falling(1, 400))},
        "feed": (FeedLine(NOW - 9, 1, 300, "checkpoint_saved", "rolling_step_000300.pt", "good", 7),),
        "num_events": 410,
    }  # fmt: skip
    return RunState(**{"now": NOW, **known, **fields})  # type: ignore[arg-type]


def crashed(**fields: object) -> RunState:
    """Session 2 of a run, gone without a word 6 h 31 m ago, 127 steps after a save."""
    last_ts = NOW - 6.5 * 3600 - 90
    saved = save(9250, last_ts - 7)
    known: dict[str, object] = {
        "name": "gpt", "phase": Phase.CRASHED, "reason": "the process is gone without a word", "session": 2,
        "step": 9377, "total_steps": 12700, "last_ts": last_ts, "steps_per_s": 18.3,
        "seconds_per_step": 1 / 18.3,
        "at_risk": AtRisk(127, 7.0, saved.path, 9250, saved.ts), "lost": Lost(247, 13.5, 0.03), "saves": (saved,),
        "sessions": (
            Session(1, 0, 5120, 0, 1, Phase.CRASHED, lost_steps=120, lost_s=6.5),
            Session(2, 5000, 9377, 2, last_ts, Phase.CRASHED, resumed_from="rolling_step_005000.pt",
                    retrained_steps=120, lost_steps=127, lost_s=7.0),
        ),
    }  # fmt: skip
    return running(**{"eta": None, **known, **fields})


class FixedMonitor:
    """Gives the state that it was set to."""

    def __init__(self, state: RunState, directory: str = "/nonexistent") -> None:
        self.current = state
        self.directory = directory
        self.is_caught_up = True
        self.progress = 1.0
        self.invalid_checkpoints: Collection[str] = ()
        self.found_checkpoints: tuple[Save, ...] = ()
        self.num_polls = 0

    def poll(self, budget_s: float = 0.05) -> RunState:
        self.num_polls += 1
        return self.current
