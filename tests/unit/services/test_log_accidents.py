"""Every accident of a log while it is watched: bad lines counted, good ones told once, no session that was none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ckpt_tui.run.state import Phase
from ckpt_tui.services.monitor import RunMonitor
from tests.builders.log_accidents import ACCIDENTS, Accident, TrainingLog


@pytest.mark.parametrize("accident", ACCIDENTS, ids=repr)
@pytest.mark.parametrize("newest_first", [False, True])
def test_a_watched_log_after_an_accident(accident: Accident, newest_first: bool, tmp_path: Path) -> None:
    training = TrainingLog(tmp_path)
    monitor = RunMonitor(str(tmp_path), clock=lambda: training.now, newest_first=newest_first)
    monitor.poll()
    accident.happen(training, monitor.poll)
    monitor.poll()
    training.go_on()
    state = monitor.poll()
    while not monitor.is_caught_up:
        state = monitor.poll()
    assert (state.name, state.step, state.phase) == (accident.name, training.step, Phase.RUNNING)
    assert (state.bad_lines.count, state.missing_lines) == (accident.num_bad, accident.num_missing)
    assert state.lost.steps == accident.lost_steps
    assert state.last_loss == pytest.approx(5.0 - training.step / 100)
    assert accident.notice in " ".join(state.notices)
    assert bool(accident.notice) == bool(state.notices)
    num_lines = len(training.log.lines) - accident.num_lost
    assert state.num_events == num_lines
    strangers = 3 if accident.notice == "two trainings" else 0
    starts = sum(b'"run_start"' in line for line in training.log.lines)
    assert state.series["loss"].num_points == num_lines - starts - strangers
    assert len(state.sessions) == starts
    assert state.at_risk is not None
    assert math.isfinite(state.at_risk.seconds)
    assert state.at_risk.seconds >= 0
    assert state.eta is None or 0 <= state.eta.low_s <= state.eta.seconds <= state.eta.high_s


@pytest.mark.parametrize("newest_first", [False, True])
def test_that_it_can_be_read_again_is_news_for_a_minute(newest_first: bool, tmp_path: Path) -> None:
    training = TrainingLog(tmp_path)
    now = training.now
    monitor = RunMonitor(str(tmp_path), clock=lambda: now, newest_first=newest_first)
    monitor.poll()
    log, away = tmp_path / "events.jsonl", tmp_path / "away"
    log.rename(away)
    assert monitor.poll().notices == ("the log is gone: it was deleted or moved",)
    now += 600
    assert monitor.poll().notices == ("the log is gone: it was deleted or moved",), "as long as it is true"
    away.rename(log)
    assert monitor.poll().notices == ("the log can be read again",)
    now += 59
    assert monitor.poll().notices == ("the log can be read again",)
    now += 2
    assert monitor.poll().notices == ()
