"""Nothing in a log can end the charts: random logs with every odd value, under random keys."""

from __future__ import annotations

import math
import random

import pytest

from ckpt_tui.events.schema import CheckpointSaved, Eval, Event, Nonfinite, RunStart, Step
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.moment import moment, worst_spike
from ckpt_tui.run.moment_words import moment_lines, way_back
from ckpt_tui.run.state import RunState
from ckpt_tui.tui.dialogs.metrics import SPARK_WIDTH, spark_line
from ckpt_tui.tui.widgets.charts import ChartStack
from ckpt_tui.tui.widgets.event_lane import lane

ODD = [0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e-12, 1e30]


class Sketch(ChartStack):
    """A chart without a screen around it."""

    def show(self) -> None:
        pass


def odd_log(chance: random.Random) -> list[Event]:
    events: list[Event] = []
    seq, step, ts = 0, chance.choice([0, 0, 5, 2**53, 2**62]), chance.choice([0.0, 1e9, -5.0, 1e12])
    is_wild = chance.random() < 0.5
    for session in range(1, chance.randint(2, 5)):
        if chance.random() < 0.8:
            events.append(RunStart(session=session, seq=seq, ts=ts, start_step=step, config={"lr": chance.random()},
                                   steps_per_epoch=chance.choice([0, 0, 1, 7, 1000])))  # fmt: skip
        for _ in range(chance.choice([0, 1, 2, 30, 300])):
            seq, step = seq + 1, step + chance.choice([0, 1, 1, 1, 5])
            ts += chance.choice([0, 0.1, 1, 1, -3 if is_wild else 1, 1e5])
            at = {"session": session, "seq": seq, "ts": ts, "step": step}
            value = chance.choice(ODD) if is_wild and chance.random() < 0.3 else 2 + chance.gauss(0, 0.1)
            metrics = {"loss": value, "lr": 1e-3, "x\x1b]y": chance.choice(ODD)}
            kind = chance.random()
            if kind < 0.93:
                epoch = chance.choice([None, step / 50, step // 50])
                events.append(Step(**at, epoch=epoch, metrics=metrics))  # type: ignore[arg-type]
            elif kind < 0.96:
                events.append(Eval(**at, metrics={"val_loss": value}))  # type: ignore[arg-type]
            elif kind < 0.98:
                events.append(CheckpointSaved(**at, path=f"{step}.pt", kind="rolling"))  # type: ignore[arg-type]
            else:
                events.append(Nonfinite(**at, what="loss", rolled_back_to=max(step - 20, 0)))  # type: ignore[arg-type]
        step = max(step - chance.choice([0, 10, 100]), 0)
    return events


def press_a_key(chart: ChartStack, chance: random.Random) -> None:
    chance.choice([
        lambda: chart.zoom(chance.choice([0.1, 0.5, 2.0])), lambda: chart.pan(chance.choice([-0.25, 0.25])),
        chart.toggle_frozen, chart.toggle_axis, chart.toggle_log, chart.next_y_range, chart.next_smoothing,
        lambda: chart.move_cursor(chance.choice([-10, -1, 1, 10])), lambda: chart.next_metric(1), chart.hide_cursor,
    ])()  # fmt: skip


def draw(chart: ChartStack, state: RunState, width: int, height: int) -> None:
    chart.take_metrics(state)
    chart.x = chart._x_scale(width - 8)
    lines = ["".join(text for text, _ in line) for line in chart.lines_now(width, height)]
    assert len(lines) <= max(height, 2)
    if chart.x is not None:
        assert max(map(len, lines)) <= width + 1
        assert len(lane(state.markers, chart.x)) == chart.x.width
    chart.rule_parts()


@pytest.mark.parametrize("seed", range(24))
def test_charts_hold_whatever_a_log_tells(seed: int) -> None:
    chance = random.Random(seed)
    fold = RunFold()
    events = odd_log(chance)
    fold.apply_all(events)
    state = fold.state((events[-1].ts if events else 0.0) + 10)
    chart = Sketch(unicode=chance.random() < 0.6, pins=["lr", "x\x1b]y"])
    chart.state, chart._time_origin = state, state.start_ts
    for _ in range(12):
        draw(chart, state, *chance.choice([(80, 9), (40, 4), (200, 40), (12, 2)]))
        press_a_key(chart, chance)
    for step in (worst_spike(state), state.step, 0, chance.randint(0, max(state.step, 1))):
        told = moment(state, step) if step is not None else None
        if told is not None:
            for line in (*moment_lines(told, width=chance.choice([20, 40, 80])), way_back(told, {})):
                assert all(text.isprintable() for text, _ in line)
    for series in state.series.values():
        assert len(spark_line(series, unicode=chance.random() < 0.5)) == SPARK_WIDTH
