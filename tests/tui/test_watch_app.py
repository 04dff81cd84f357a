"""The cockpit as a person meets it: opens on a log, follows it, says a crash, lists its keys, leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events import codec, schema
from ckpt_tui.run.state import Marker, RunState
from ckpt_tui.tui import keys
from ckpt_tui.tui.app import SCREENS, CkptTuiApp, screen_class
from ckpt_tui.tui.messages import CatalogChanged, SessionFailed, StateChanged
from ckpt_tui.tui.screens import help as help_screen
from ckpt_tui.tui.screens.overview import OverviewScreen
from ckpt_tui.tui.widgets.chart import Chart
from ckpt_tui.tui.widgets.lines_widget import LinesWidget
from tests.builders.run_states import NOW, FixedMonitor, crashed, falling, running, save, series
from tests.builders.screen_app import assert_nothing_hostile, seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


def app_of(state: RunState, directory: Path, **fields: object) -> CkptTuiApp:
    monitor = FixedMonitor(state, str(directory))
    return CkptTuiApp(str(directory), monitor=monitor, interval_s=0.02, env=ENV, **fields)  # type: ignore[arg-type]


def append(log: Path, *events: schema.Event) -> None:
    with log.open("ab") as file:
        for event in events:
            file.write(codec.encode(event))


def step(seq: int, at: int, loss: float) -> schema.Event:
    return schema.Step(seq=seq, ts=time.time(), session=1, step=at, metrics={"loss": loss})


async def test_opens_on_a_real_log_and_follows_it(tmp_path: Path) -> None:
    log = tmp_path / schema.LOG_NAME
    start = schema.RunStart(
        seq=1, ts=time.time(), session=1, run_name="gpt", total_steps=100, pid=os.getpid(), host=os.uname().nodename
    )
    append(log, start, *(step(seq, seq, 5.0 / seq) for seq in range(2, 12)))
    app = CkptTuiApp(str(tmp_path), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: " 11 / 100" in seen_text(app))
        assert "gpt" in seen_text(app)
        append(log, step(12, 12, 0.25))
        await until(pilot, lambda: " 12 / 100" in seen_text(app))
        assert "loss 0.250" in seen_text(app)


async def test_a_directory_without_a_log_is_waited_for(tmp_path: Path) -> None:
    app = CkptTuiApp(str(tmp_path), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No run here yet" in seen_text(app))
        append(tmp_path / schema.LOG_NAME, schema.RunStart(seq=1, ts=time.time(), session=1, run_name="late"))
        await until(pilot, lambda: "late" in seen_text(app))


async def test_the_crash_banner_appears_with_the_next_keys(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "● running" in seen_text(app))
        app.monitor.current = crashed()  # type: ignore[attr-defined]
        await until(pilot, lambda: "✖ crashed" in seen_text(app))
        await until(pilot, lambda: "Lost 127 steps" in seen_text(app))
        await until(pilot, lambda: "e last events" in seen_text(app))


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60), (40, 12), (20, 6), (3, 2)])
async def test_every_size_draws(tmp_path: Path, size: tuple[int, int]) -> None:
    app = app_of(crashed(feed=(), notices=("the log was replaced",)), tmp_path)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.state is not None)
        await pilot.press("left", "plus", "y", "x", "t")
        await pilot.resize_terminal(60, 18)
        await until(pilot, lambda: "crashed" in seen_text(app))


async def test_help_lists_every_key_of_the_table(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: "Checkpoint" in seen_text(app))
        assert "What is in the checkpoint" in seen_text(app)
        await pilot.press("escape")
        assert app.screen is app.screen_stack[0]
    lines = help_screen.rows()
    for key in (*keys.OVERVIEW_KEYS, *keys.APP_KEYS):
        assert (keys.key_words(key.key), key.label, key.tooltip) in lines
    assert any("Inspect" in line[2] for line in lines)


async def test_readonly_takes_every_act_away(tmp_path: Path) -> None:
    app = app_of(crashed(), tmp_path, readonly=True)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "✖ crashed" in seen_text(app))
        bound = {binding.binding.id for binding in app.screen.active_bindings.values()}
        assert "checkpoint.inspect" in bound
        assert not bound & {key.id for key in keys.OVERVIEW_KEYS if key.is_act}
        assert "resume from" not in seen_text(app)
        await pilot.press("r", "b", "u", "S")
        await pilot.pause()
        assert not any(worker.group == "act" for worker in app.workers)
    assert not any("resume" in line[1] for line in help_screen.rows(readonly=True) if line[0] == "r")


async def test_hostile_names_neither_end_it_nor_reach_the_terminal(tmp_path: Path) -> None:
    bad = "\x1b]0;owned\x07[bold]x[/foo]\u202e\n"
    state = running(
        name=bad, reason=bad, notices=(bad,), saves=(save(300, NOW - 9, kind=bad),),
        markers=(Marker(bad, 300, NOW, 1, bad),), series={bad: series(bad, falling(1, 400))},
    )  # fmt: skip
    app = app_of(state, tmp_path)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "owned" in seen_text(app))
        await pilot.press("left")
        await pilot.pause()
        assert_nothing_hostile(app)
        assert app.is_running


async def test_an_error_of_ours_is_a_dialog(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "● running" in seen_text(app))
        await pilot.press("o")
        await until(pilot, lambda: "No output" in seen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is app.screen_stack[0])


async def test_only_lines_that_changed_are_drawn(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "● running" in seen_text(app))
        await pilot.pause()
        widgets = list(app.screen.query(LinesWidget))

        def redrawn() -> int:
            return sum(widget.num_lines_redrawn for widget in widgets)

        before = redrawn()
        app.screen_stack[0].show_state(running())  # type: ignore[attr-defined]
        assert redrawn() == before
        app.screen_stack[0].show_state(running(last_loss=1.481))  # type: ignore[attr-defined]
        assert redrawn() == before + 1


async def test_the_chart_zooms_freezes_and_reads_values(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        chart = app.screen.query_one(Chart)
        await until(pilot, lambda: chart.x is not None)
        assert chart.x is not None
        whole = chart.x.x1 - chart.x.x0
        await pilot.press("plus")
        assert chart.x.x1 - chart.x.x0 == pytest.approx(whole / 2)
        assert chart.view.words == "live"
        await pilot.press("comma")
        assert chart.view.words == "frozen"
        frozen = (chart.x.x0, chart.x.x1)
        app.screen_stack[0].show_state(running(series={"loss": series("loss", falling(1, 800))}))  # type: ignore[attr-defined]
        assert (chart.x.x0, chart.x.x1) == frozen
        await pilot.press("0", "left")
        await until(pilot, lambda: "step 789-799" in seen_text(app) and "rolling 300" in seen_text(app))
        await pilot.press("escape", "x")
        assert (chart.view.axis, chart.view.cursor) == ("time", None)


async def test_quits_at_once_in_the_middle_of_a_long_log(tmp_path: Path) -> None:
    apps: list[CkptTuiApp] = []
    num_polls_after = 0

    class Endless(FixedMonitor):
        def poll(self, budget_s: float = 0.05) -> RunState:
            nonlocal num_polls_after
            num_polls_after += any(app._exit for app in apps)
            self.is_caught_up = False
            time.sleep(min(budget_s, 0.02))
            return super().poll()

    app = CkptTuiApp(str(tmp_path), monitor=Endless(running(), str(tmp_path)), env=ENV)
    apps.append(app)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "reading the log" in seen_text(app))
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)
    assert num_polls_after <= 1, "nothing more is read once it was left"


@pytest.mark.parametrize("of_a_list", [False, True])
async def test_what_its_threads_say_while_it_closes_is_not_heard(tmp_path: Path, of_a_list: bool) -> None:
    """The app empties its screens first and reads its last messages then."""
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.state is not None and app.catalog is not None)
        watched, close_all, num_heard = app.watched, app._close_all, 0
        assert watched is not None
        assert app.catalog is not None
        assert app.state is not None
        late = (CatalogChanged(app.catalog), StateChanged(app.state), SessionFailed(CkptError("gone")))

        async def close_and_say() -> None:
            nonlocal num_heard
            await close_all()
            app.lists_runs = of_a_list
            for message in late:
                message.source = watched
                num_heard += watched.is_source_of(message)
                await app._dispatch_message(message)

        app._close_all = close_and_say  # type: ignore[method-assign]
    assert num_heard == len(late), "its run was open still"


async def test_nor_is_it_heard_while_the_parts_of_its_screen_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A screen is told that it goes when its parts are gone already."""
    app = app_of(running(), tmp_path)
    num_heard, end = 0, OverviewScreen.on_unmount
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.state is not None and app.catalog is not None)
        watched = app.run_open
        assert app.catalog is not None
        assert app.state is not None
        late = (CatalogChanged(app.catalog), StateChanged(app.state), SessionFailed(CkptError("gone")))

        async def say_and_end(screen: OverviewScreen) -> None:
            nonlocal num_heard
            assert not screen.query("#header")
            for message in late:
                message.source = watched
                num_heard += watched.is_source_of(message)
                await app._dispatch_message(message)
            end(screen)

        monkeypatch.setattr(OverviewScreen, "on_unmount", say_and_end)
    assert num_heard == len(late)


async def test_what_fails_while_it_closes_is_nobodys_business(tmp_path: Path) -> None:
    app = app_of(running(), tmp_path)
    async with app.run_test(size=(80, 24)):
        close_all = app._close_all

        async def fail_and_close() -> None:
            app._handle_exception(LookupError("its parts are gone"))
            await close_all()

        app._close_all = fail_and_close  # type: ignore[method-assign]
    assert app._exception is None


def test_every_screen_of_the_registry_is_there() -> None:
    for row in SCREENS:
        assert screen_class(row.name).__name__ == row.class_path.split(":")[1]
    bound = {one for key in (*keys.OVERVIEW_KEYS, *keys.APP_KEYS) for one in keys.key_words(key.key).split()}
    assert all(row.key in bound for row in SCREENS if row.key)
