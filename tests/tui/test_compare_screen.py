"""Runs beside each other on the screen: curves, facts, settings that differ."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ckpt_tui.events import codec, schema
from ckpt_tui.run.comparison import LETTERS, MISSING, Setting, outcome_of
from ckpt_tui.run.state import RunState
from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.text import cell_width
from ckpt_tui.tui import compare_rows
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.compare_app import CompareApp
from ckpt_tui.tui.compare_rows import Compared
from ckpt_tui.tui.screens.compare import CompareScreen
from ckpt_tui.tui.screens.runs import RunsScreen
from ckpt_tui.tui.widgets.virtual_list import GUTTER, MARGIN, lay_out
from tests.builders.run_states import running
from tests.builders.screen_app import assert_nothing_hostile, seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


def make_run(directory: Path, start: float, **config: object) -> Path:
    directory.mkdir(parents=True)
    ts = time.time() - 500
    events: list[schema.Event] = [
        schema.RunStart(seq=1, ts=ts, session=1, run_name="x", total_steps=40, config={"seed": 1, **config}),
        *(
            schema.Step(seq=at + 1, ts=ts + at, session=1, step=at, metrics={"loss": start / at, "lr": 0.1})
            for at in range(1, 41)
        ),
        schema.RunEnd(seq=42, ts=ts + 40, session=1, step=40, status="finished"),
    ]
    (directory / schema.LOG_NAME).write_bytes(b"".join(map(codec.encode, events)))
    return directory


async def test_marked_runs_are_put_beside_each_other(tmp_path: Path) -> None:
    make_run(tmp_path / "sweep" / "a", 4.0, lr=1e-4)
    make_run(tmp_path / "sweep" / "b\x1b[2J", 8.0, lr=3e-4)
    make_run(tmp_path / "sweep" / "c", 2.0, lr=1e-4)
    app = CkptTuiApp(str(tmp_path), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        runs = app.screen
        assert isinstance(runs, RunsScreen)
        await until(pilot, lambda: len(runs.run_list.rows) == 3)
        await pilot.press("z", "space", "space", "space")
        await until(pilot, lambda: "3 marked" in seen_text(app))
        await pilot.press("C")
        await until(pilot, lambda: "settings: 1 of 2 differ" in seen_text(app))
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        assert screen.names == ["a", "b\x1b[2J", "c"]
        assert [curve.mark for curve in screen.chart.curves] == ["A", "B", "C"]
        assert len({curve.role for curve in screen.chart.curves}) == 3
        said = seen_text(app)
        for words in ("0.100", "0.200", "0.050", "3e-4"):  # the last losses, and what differs
            assert words in said
        assert_nothing_hostile(app)
        await pilot.press("right_square_bracket")
        await until(pilot, lambda: screen.metric is not None and screen.metric.name == "lr")
        await pilot.press("x", "s", "left", "escape", "escape")
        await until(pilot, lambda: app.screen is runs)


async def test_from_a_run_others_of_its_directory_are_picked(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 4.0)
    make_run(tmp_path / "b", 8.0)
    app = CkptTuiApp(str(tmp_path / "a"), interval_s=0.02, env=ENV)
    async with app.run_test(size=(40, 12)) as pilot:
        await until(pilot, lambda: app.state is not None)
        overview = app.screen
        await pilot.press("C")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and "1 marked" in seen_text(app))
        picking = app.screen
        assert isinstance(picking, RunsScreen)
        await until(pilot, lambda: len(picking.run_list.rows) == 2)
        await pilot.press("z", "down", "enter")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen) and len(app.screen.states) == 2)
        await pilot.press("t")
        await until(pilot, lambda: "lowest" in seen_text(app))
        await pilot.press("t")
        await until(pilot, lambda: "settings: all 1 the same" in seen_text(app))
        await pilot.press("escape", "escape")
        await until(pilot, lambda: app.screen is overview)


@pytest.mark.parametrize("num_runs", [2, 8])
@pytest.mark.parametrize("width", [30, 40, 80, 120, 200])
def test_facts_and_settings_fit_every_width(num_runs: int, width: int) -> None:
    outcome = outcome_of(running(), None)
    runs = [Compared(f"sweep-{index}/a-long-name-of-a-run", outcome) for index in range(num_runs)]
    runs[-1] = Compared("odd", error="Not a log")
    lines = compare_rows.fact_lines(runs, width, unicode=False)
    assert len(lines) == num_runs + 1
    for line, letter in zip(lines[1:], LETTERS, strict=False):
        words = "".join(words for words, _ in line)
        assert words.strip().startswith(letter)
        assert cell_width(words) <= width
    setting = Setting("model.n_layer", (*range(num_runs - 1), MISSING))
    columns = compare_rows.setting_columns([setting], num_runs, width)
    assert len(columns) == len(compare_rows.setting_cells(setting))
    shown = lay_out(columns, width - GUTTER - MARGIN)
    assert len(shown) == num_runs + 1 or (num_runs, width) in ((8, 30), (8, 40))
    assert all(words.isascii() for line in lines for words, _ in line)


def test_what_most_runs_have_is_dim() -> None:
    cells = compare_rows.setting_cells(Setting("lr", (1e-4, 1e-4, 3e-4, MISSING, 1e-4)))
    assert [cell[1] for cell in cells[1:]] == ["dim", "dim", "strong", "dim", "dim"]
    two = compare_rows.setting_cells(Setting("lr", (1e-4, 3e-4)))
    assert [cell[1] for cell in two[1:]] == ["strong", "strong"]


async def test_a_run_that_is_gone_keeps_its_line(tmp_path: Path) -> None:
    app = CompareApp([str(make_run(tmp_path / "a", 4.0)), str(tmp_path / "gone")], ["a", "gone"], env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "unreadable" in seen_text(app) and "0.100" in seen_text(app))
        assert "settings: all 1 the same; B tells none" in seen_text(app)
        await pilot.press("m", "escape", "right_square_bracket", "x", "y", "s", "0", "left")
        # The key to the other parts is told where it does something, and nowhere else.
        assert "next part" not in seen_text(app)
        await pilot.resize_terminal(40, 12)
        await until(pilot, lambda: "t next part" in seen_text(app))
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "next part" not in seen_text(app))
        await pilot.resize_terminal(30, 8)
        await pilot.pause()


async def test_a_bug_in_reading_one_run_is_said_of_it_and_the_other_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(make_run(tmp_path / name, 4.0)) for name in ("a", "b")]
    poll, is_broken = RunMonitor.poll, [True]

    def fail(monitor: RunMonitor, budget_s: float = 0.05) -> RunState:
        if is_broken[0] and monitor.directory == paths[1]:
            raise RuntimeError("boom [/x]\x1b[2J")
        return poll(monitor, budget_s)

    monkeypatch.setattr(RunMonitor, "poll", fail)
    app = CompareApp(paths, ["a", "b"], env=ENV)
    app.interval_s = 0.02
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "unreadable" in seen_text(app) and "0.100" in seen_text(app))
        assert "B: A bug in ckpt-tui: RuntimeError: boom [/x]\\x1b[2J" in seen_text(app)
        is_broken[0] = False
        await until(pilot, lambda: "unreadable" not in seen_text(app) and "boom" not in seen_text(app))
