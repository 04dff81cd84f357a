"""Is it alive, is it stalled, and when will it end: judged against runs whose end is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.events.schema import Eval, Event, RunStart, Step
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.health import median
from ckpt_tui.run.state import Eta, Phase
from ckpt_tui.services.monitor import OWN_PAUSE_S, WAKING_S, RunMonitor
from tests.builders.event_logs import LogText
from tests.builders.simulated_runs import Shape, Simulation, shape_of


def etas(shape: Shape) -> Iterator[tuple[Eta, float]]:
    """What was said at a tenth, three tenths ... of a run, and what was left in truth."""
    simulation = Simulation(shape)
    fold, done = RunFold(), 0
    points = [index for index, event in enumerate(simulation.events) if isinstance(event, Step)]
    for tenth in (1, 3, 5, 7, 9):
        stop = points[len(points) * tenth // 10] + 1
        fold.apply_all(simulation.events[done:stop])
        done = stop
        now = simulation.events[stop - 1].ts
        eta = fold.state(now, Beside(is_process_alive=True)).eta
        assert eta is not None
        yield eta, simulation.ts - now


@pytest.mark.parametrize("num_seeds", [20, pytest.param(60, marks=pytest.mark.long)])
def test_the_end_lies_within_the_range_of_the_eta(num_seeds: int) -> None:
    """With evaluations, saves and noise of every kind; measured 2026-11-21: 257 of 300."""
    inside = []
    for seed in range(num_seeds):
        shape = dataclasses.replace(shape_of(seed), clock_jumps=0, restarts=0, num_points=1500)
        inside += [eta.low_s <= left <= eta.high_s for eta, left in etas(shape)]
    assert sum(inside) / len(inside) >= 0.8


@pytest.mark.parametrize("num_seeds", [10, pytest.param(30, marks=pytest.mark.long)])
def test_a_run_that_breaks_off_expects_to_again(num_seeds: int) -> None:
    """Steady failures: once some were seen, the range holds those that are to come; measured 2026-11-21: 76 of 90."""
    inside = []
    for seed in range(num_seeds):
        shape = dataclasses.replace(
            shape_of(seed), clock_jumps=0, restarts=8, num_points=4000, save_every=100, pace_s=1.0, every=1
        )
        inside += [eta.low_s <= left <= eta.high_s for eta, left in list(etas(shape))[2:]]
    assert sum(inside) / len(inside) >= 0.8


class Told:
    """Events by hand, a step a second."""

    def __init__(self) -> None:
        self.fold, self.ts, self.seq, self.step = RunFold(), 1000.0, 0, 0
        self.add(RunStart, total_steps=1000)

    def add(self, event_type: type[Event], **fields: object) -> Told:
        self.seq += 1
        self.fold.apply(event_type(seq=self.seq, ts=self.ts, session=1, step=self.step, **fields))
        return self

    def steps(self, number: int) -> Told:
        for _ in range(number):
            self.ts, self.step = self.ts + 1.0, self.step + 1
            self.add(Step, metrics={"loss": 1.0})
        return self

    def phase_after(self, silence_s: float, *, alive: bool | None = True) -> Phase:
        return self.fold.state(self.ts + silence_s, Beside(is_process_alive=alive)).phase


def test_an_evaluation_of_an_hour_is_a_pause_that_is_known() -> None:
    told = Told().steps(50)
    told.ts += 3600.0
    told.add(Eval, metrics={"val_loss": 1.0}, seconds=3600.0).steps(50)
    assert told.phase_after(3500.0) is Phase.RUNNING
    assert told.phase_after(3700.0) is Phase.STALLED


def test_a_silence_that_nothing_explains_is_known_when_it_comes_again() -> None:
    told = Told().steps(50)
    told.ts += 8 * 3600.0  # the machine slept
    told.steps(50)
    assert told.phase_after(20.0) is Phase.STALLED
    told.ts += 4 * 3600.0
    told.steps(50)
    assert told.phase_after(3 * 3600.0) is Phase.RUNNING
    assert told.phase_after(5 * 3600.0) is Phase.STALLED
    short = Told().steps(50)
    short.ts += 120.0  # data that is loaded anew: of minutes one is enough
    assert short.steps(50).phase_after(100.0) is Phase.RUNNING


def test_a_run_on_another_host_is_given_up_only_far_beyond_its_rhythm() -> None:
    told = Told().steps(200)
    assert told.phase_after(60.0, alive=None) is Phase.STALLED
    assert told.phase_after(590.0, alive=None) is Phase.STALLED
    state = told.fold.state(told.ts + 3 * 3600.0, Beside(is_process_alive=None))
    assert state.phase is Phase.CRASHED
    assert state.reason == "silent for 3h 00m, far beyond its own rhythm; its process cannot be seen from here"


def test_who_looks_after_a_sleep_gives_the_run_a_while_to_wake(tmp_path: Path) -> None:
    log = LogText()
    log.add("run_start", total_steps=1000, host="elsewhere")
    for step in range(1, 101):
        log.add("step", step, ts=1000.0 + step, loss=1.0)
    (tmp_path / "events.jsonl").write_bytes(log.text)
    now = [1101.0]
    monitor = RunMonitor(str(tmp_path), clock=lambda: now[0])
    assert monitor.poll(5.0).phase is Phase.RUNNING
    now[0] += 8 * 3600.0
    assert monitor.poll().phase is Phase.RUNNING
    now[0] += WAKING_S / 2
    assert monitor.poll().phase is Phase.RUNNING
    now[0] += WAKING_S
    assert monitor.poll().phase is Phase.CRASHED
    assert RunMonitor(str(tmp_path), clock=lambda: now[0]).poll(5.0).phase is Phase.CRASHED
    assert OWN_PAUSE_S > WAKING_S


@pytest.mark.parametrize("silence_s", [0.0, 5.0, 50.0])
def test_the_range_holds_its_middle(silence_s: float) -> None:
    told = Told().steps(100)
    eta = told.fold.state(told.ts + silence_s, Beside(is_process_alive=True)).eta
    assert eta is not None
    assert 0 <= eta.low_s <= eta.seconds <= eta.high_s
    assert eta.seconds == pytest.approx(900, abs=2)


def test_the_median_of_two_lies_between_them() -> None:
    """Of two saves neither the cheap one nor the dear one is what a save costs."""
    assert [median(values) for values in ([], [3.0], [4.0, 1.0], [9.0, 1.0, 2.0], [8.0, 1.0, 2.0, 4.0])] == [
        None, 3.0, 2.5, 2.0, 3.0
    ]  # fmt: skip
