"""A supervised run on the screen: who is in charge is said, without seconds that tick, and what is not ours to do."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ckpt_tui.services.supervisor_record import SupervisorState
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.supervised import Supervised, supervised
from ckpt_tui.tui.widgets.header import header_lines
from tests.builders.run_states import FixedMonitor, crashed, running
from tests.builders.screen_app import seen, seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def record(directory: Path, pid: int, state: SupervisorState, **fields: Any) -> None:
    process = psutil.Process(pid) if psutil.pid_exists(pid) else None
    told = {
        "pid": pid, "pid_started": process.create_time() if process else 1.0, "host": socket.gethostname(),
        "state": str(state), "restarts": 2, **fields,
    }  # fmt: skip
    (directory / "supervisor.json").write_text(json.dumps(told))


def test_the_next_try_is_told_by_the_clock_and_does_not_tick(tmp_path: Path) -> None:
    assert supervised(str(tmp_path), 0.0) is None
    record(tmp_path, os.getppid(), SupervisorState.WAITING, next_try_at=1_800_000_040.0, last_exit="exit code 1")
    told = {supervised(str(tmp_path), 1_800_000_000.0 + second) for second in range(30)}
    assert told == {Supervised("supervised, 2 restarts, next try at 08:00:40 (exit code 1)", True)}
    record(tmp_path, os.getppid(), SupervisorState.RUNNING)
    assert supervised(str(tmp_path), 0.0) == Supervised("supervised, 2 restarts", True)
    record(tmp_path, os.getppid(), SupervisorState.GAVE_UP, last_exit="\x1b[31mkilled")
    found = supervised(str(tmp_path), 0.0)
    assert found is not None
    assert (found.is_in_charge, found.is_bad) == (False, True)
    assert found.words == "supervisor gave up, 2 restarts (\\x1b[31mkilled)"
    record(tmp_path, os.getppid(), SupervisorState.FINISHED)
    assert supervised(str(tmp_path), 0.0) is None
    (tmp_path / "supervisor.json").write_text("{")
    assert supervised(str(tmp_path), 0.0) is None


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_header_says_who_is_in_charge(width: int) -> None:
    found = Supervised("supervised, 2 restarts, next try at 08:00:40 (exit code 1)", True)
    for state in (crashed(), running()):
        lines = ["".join(text for text, _ in line) for line in header_lines(state, width, supervised=found)]
        assert any("Supervised, 2 restarts, next try at" in line for line in lines), lines


async def test_what_the_supervisor_does_is_not_offered_and_refused_with_why(tmp_path: Path) -> None:
    record(tmp_path, os.getppid(), SupervisorState.WAITING, next_try_at=time.time() + 3600)
    app = CkptTuiApp(str(tmp_path), monitor=FixedMonitor(crashed(), str(tmp_path)), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "Supervised, 2 restarts, next try at" in seen_text(app))
        await until(pilot, lambda: "S stop the supervisor" in seen_text(app) and app.catalog is not None)
        await until(pilot, lambda: seen(app)[-1].startswith(" S stop  i inspect"))
        assert "r resume" not in seen_text(app)
        await pilot.press("r")
        await until(pilot, lambda: "A supervisor is in charge here" in seen_text(app))
        assert "S asks it and the training to end" in seen_text(app)
