"""The running viewer over every accident of a log, one after the other: it goes on, tells the newest, never ends."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from ckpt_tui.run.state import Phase
from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.text import count
from ckpt_tui.tui.app import CkptTuiApp
from tests.builders import log_accidents
from tests.builders.log_accidents import ACCIDENTS, Accident, TrainingLog
from tests.builders.screen_app import seen_text, until
from tests.unit.sources.test_jsonl_accidents import failing_read

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}
# Garbage first: what is wrong with the log is then said of it alone. Another process last: it goes on as session 2.
IN_TURN = sorted(ACCIDENTS, key=lambda one: (one.happen is not log_accidents.garbage, bool(one.notice)))
assert IN_TURN[-1].happen is log_accidents.another_process


async def test_the_watch_goes_on_over_every_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = TrainingLog(tmp_path)
    monitor = RunMonitor(str(tmp_path), clock=lambda: training.now, newest_first=True)
    app = CkptTuiApp(str(tmp_path), monitor=monitor, interval_s=0.01, env=ENV)
    polled = threading.Event()
    real_poll = monitor.poll

    def poll(budget_s: float = 0.05) -> object:
        state = real_poll(budget_s)
        polled.set()
        return state

    def wait_for_a_poll() -> None:
        polled.clear()
        assert polled.wait(180)

    monkeypatch.setattr(monitor, "poll", poll)

    def told() -> bool:
        state = app.state
        return state is not None and (state.step, state.last_ts) == (training.step, training.now)

    async def go_through(accident: Accident) -> None:
        await asyncio.to_thread(accident.happen, training, wait_for_a_poll)
        training.go_on(2)
        await until(pilot, told)
        assert app.state is not None
        assert app.state.phase is Phase.RUNNING, accident
        assert app.state.name == accident.name or accident.name == "gpt"

    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, told)
        for accident in IN_TURN:
            await go_through(accident)
            if accident.happen is log_accidents.garbage:
                await until(pilot, lambda: "1 bad line, first at byte " in seen_text(app))
        real = os.pread
        monkeypatch.setattr(os, "pread", failing_read)
        training.go_on(1)
        await until(pilot, lambda: any("Input/output error" in notice for notice in _notices(app)))
        monkeypatch.setattr(os, "pread", real)
        await until(pilot, told)
        await until(pilot, lambda: f"step {count(training.step):>3}" in seen_text(app))
        assert app.state is not None
        assert sum("two trainings" in notice for notice in _notices(app)) == 1
        for accident in ACCIDENTS:
            assert accident.notice in " ".join(_notices(app))


def _notices(app: CkptTuiApp) -> tuple[str, ...]:
    return app.state.notices if app.state is not None else ()
