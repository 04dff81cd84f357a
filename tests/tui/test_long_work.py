"""Long work: what is said while it lasts, how it ends, and that the watch lives on under it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.errors import Cancelled
from ckpt_tui.services import restore
from ckpt_tui.settings import Settings
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.working import LOOK_INTERVAL_S, WorkingDialog, WorkLines
from ckpt_tui.tui.long_work import LongWork
from tests.builders.run_states import NOW, FixedMonitor, crashed, running
from tests.builders.screen_app import ScreenApp, seen, seen_text, settled, until
from tests.tui.test_quiet import WiredApp

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_speed_and_rest_are_those_of_the_last_seconds() -> None:
    clock = Clock()
    work = LongWork("Restore", "Copying.", 4_000_000_000, clock=clock)
    assert work.look() == ("0 B of 4.0 GB", "", "")
    for second in range(1, 11):
        clock.now = float(second)
        work.add(300_000_000 if second <= 4 else 100_000_000)  # it was in memory, and then it was not
        told = work.look()
    assert told == ("1.8 GB of 4.0 GB", "100.0 MB/s", "22 s left")
    assert work.fraction == pytest.approx(0.45)


def test_a_total_that_was_too_small_is_no_longer_told() -> None:
    clock = Clock()
    work = LongWork("Restore", "Copying.", 10, clock=clock)
    work.add(11)
    clock.now = 1.0
    assert work.fraction is None
    assert work.look() == ("11 B read", "11 B/s", "")
    assert LongWork("Undo", "Planning.", clock=clock).look() == ("", "", "")


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (20, 5)])
async def test_the_dialog_tells_it_in_lines_that_fit(size: tuple[int, int]) -> None:
    clock = Clock()
    work = LongWork("Restore latest.pt", "Copying, and reading back what was written.", 4 * 10**9, clock=clock)
    app = ScreenApp(WorkingDialog(work))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        clock.now = 2.0
        work.add(10**9)
        app.screen.query_one(WorkLines).show()
        await pilot.pause()
        if size[0] >= 40:
            text = seen_text(app)
            for words in ("Restore latest.pt", "read", "25 %", "1.0 GB of 4.0 GB", "Cancel"):
                assert words in text, text
        if size[0] >= 80:
            assert "1.0 GB of 4.0 GB   500.0 MB/s   6.0 s left" in text
            assert "Esc ends it" in text


async def test_the_wire_hears_of_it_twice_a_second_and_once_on_a_slow_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    set_interval = WorkingDialog.set_interval

    def heard(dialog: WorkingDialog, interval_s: float, *rest: Any, **more: Any) -> Any:
        if not more.get("name"):  # Textual's own
            told.append(interval_s)
        return set_interval(dialog, interval_s, *rest, **more)

    monkeypatch.setattr(WorkingDialog, "set_interval", heard)
    for settings in (Settings(), Settings(slow_link=True)):
        app = ScreenApp(WorkingDialog(LongWork("Restore", "Copying.")))
        app.settings = settings
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
    assert told == [0.5, 1.0]
    assert LOOK_INTERVAL_S >= 0.5


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (120, 40)])
async def test_a_look_is_a_few_bytes_on_the_wire(tmp_path: Path, size: tuple[int, int]) -> None:
    clock = Clock()
    work = LongWork("Restore latest.pt", "Copying, and reading back what was written.", 40 * 10**9, clock=clock)
    app = WiredApp(crashed(), tmp_path, size)
    app.run_open.catalog_reader.stop()
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        dialog = WorkingDialog(work)
        app.push_screen(dialog)
        await until(pilot, lambda: "Cancel" in seen_text(app))
        await pilot.pause()
        app.num_bytes()
        sent = []
        for _ in range(12):
            clock.now += 0.5
            work.add(157_000_000)
            dialog._look()
            await pilot.pause()
            sent.append(app.num_bytes())
        assert max(sent) <= 200, sent
        assert sum(sent) / len(sent) <= 100, sent
        assert all(sent), "it moves"


@dataclass(frozen=True)
class Plan:
    act: str = "rollback"
    sentences: tuple[str, ...] = ("rolling_step_000250.pt is copied to latest.pt.",)
    steps: tuple[str, ...] = ("a step",)
    warnings: tuple[str, ...] = ()
    bytes_needed: int = 1000
    is_empty: bool = False


class Slow:
    """A service that goes on until it is told to end, or that it may."""

    def __init__(self, result: Any) -> None:
        self.started, self.go_on, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.was_cancelled = False
        self._result = result

    def __call__(self, *_: Any, on_bytes: Callable[[int], None], is_cancelled: Callable[[], bool], **__: Any) -> Any:
        self.started.set()
        ends = time.monotonic() + 120
        try:
            while not self.go_on.wait(0.01) and time.monotonic() < ends:
                on_bytes(1)
                if is_cancelled():
                    self.was_cancelled = True
                    raise Cancelled
        finally:
            self.ended.set()
        return self._result


def app_of(directory: Path, state: Any) -> CkptTuiApp:
    app = CkptTuiApp(str(directory), monitor=FixedMonitor(state, str(directory)), interval_s=0.02, env=ENV)
    app.run_open.catalog_reader.stop()
    return app


async def test_planning_is_left_at_once_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Slow(Plan())
    monkeypatch.setattr(restore, "plan_rollback", plan)
    monitor_state = crashed()
    app = app_of(tmp_path, monitor_state)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        app.acts.start(lambda: app.acts.rollback("250"))
        await until(pilot, lambda: "Planning: the checkpoints" in seen_text(app) and "Cancel" in seen_text(app))
        # The watch lives on under it.
        app.monitor.current = running(step=431, now=NOW + 1)  # type: ignore[attr-defined]
        await until(pilot, lambda: "431" in seen_text(app))
        await pilot.press("question_mark")
        await until(pilot, lambda: type(app.screen).__name__ == "HelpScreen")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, WorkingDialog))
        await pilot.press("escape")
        await until(pilot, lambda: "Ended before anything was changed" in seen(app)[-1])
        assert not isinstance(app.screen, WorkingDialog)
        await until(pilot, plan.ended.is_set)
        assert plan.was_cancelled


async def test_a_copy_is_ended_by_esc_and_what_ended_while_help_was_read_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying = Slow(restore.Outcome("rollback", str(tmp_path), 1, ()))
    monkeypatch.setattr(restore, "plan_rollback", lambda *_, **__: Plan())
    monkeypatch.setattr(restore, "carry_out", copying)
    app = app_of(tmp_path, crashed())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        app.acts.start(lambda: app.acts.rollback("250"))
        await until(pilot, lambda: "is copied to latest.pt" in seen_text(app))
        await pilot.press("y")
        await until(pilot, lambda: "Copying, and reading back" in seen_text(app))
        await pilot.click("#no")
        await until(pilot, lambda: "everything is as it was" in seen(app)[-1])
        assert copying.was_cancelled
        assert copying.ended.is_set()

        copying = Slow(restore.Outcome("rollback", str(tmp_path), 1, (), resume_would_take="latest.pt"))
        monkeypatch.setattr(restore, "carry_out", copying)
        app.acts.start(lambda: app.acts.rollback("250"))
        await until(pilot, lambda: "is copied to latest.pt" in seen_text(app))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, WorkingDialog))
        await pilot.press("question_mark")
        await until(pilot, lambda: type(app.screen).__name__ == "HelpScreen")
        copying.go_on.set()
        await until(pilot, copying.ended.is_set)
        await pilot.pause(0.05)
        assert type(app.screen).__name__ == "HelpScreen", "nothing is taken from under a reader"
        await pilot.press("escape")
        await until(pilot, lambda: "Rolled back. u takes it back. A resume takes latest.pt." in seen(app)[-1])


async def test_leaving_the_viewer_ends_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copying = Slow(None)
    monkeypatch.setattr(restore, "plan_rollback", lambda *_, **__: Plan())
    monkeypatch.setattr(restore, "carry_out", copying)
    app = app_of(tmp_path, crashed())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        app.acts.start(lambda: app.acts.rollback("250"))
        await until(pilot, lambda: "is copied to latest.pt" in seen_text(app))
        await pilot.press("y")
        await until(pilot, copying.started.is_set)
        app.exit()
    assert copying.ended.wait(120)
    assert copying.was_cancelled
