"""The list of runs as a person meets it: one line each, opened and left again, filtered, sorted, told what broke."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events import codec, schema
from ckpt_tui.run.state import NextStart, Phase
from ckpt_tui.services.runs import Runs, RunSummary, RunsWatch
from ckpt_tui.settings import Settings
from ckpt_tui.text import cell_width
from ckpt_tui.tui import palette, run_rows
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.messages import SessionFailed, StateChanged
from ckpt_tui.tui.screens.runs import RunsChanged, RunsScreen
from ckpt_tui.tui.widgets.virtual_list import GUTTER, MARGIN, lay_out
from tests.builders.run_states import NOW
from tests.builders.screen_app import assert_nothing_hostile, seen_text, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


def make_run(directory: Path, *, ended: str = "finished", num_steps: int = 20, ago_s: float = 100.0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    ts = time.time() - ago_s - num_steps
    events: list[schema.Event] = [schema.RunStart(seq=1, ts=ts, session=1, run_name=directory.name, total_steps=40)]
    for at in range(1, num_steps + 1):
        events.append(schema.Step(seq=at + 1, ts=ts + at, session=1, step=at, metrics={"loss": 5.0 / at}))
    if ended:
        end = schema.RunEnd(seq=num_steps + 2, ts=ts + num_steps, session=1, step=num_steps, status=ended)
        events.append(end)
    (directory / schema.LOG_NAME).write_bytes(b"".join(map(codec.encode, events)))
    return directory


def summary(name: str = "a", **fields: object) -> RunSummary:
    known: dict[str, object] = {
        "phase": Phase.RUNNING, "step": 8412, "total_steps": 12700, "last_loss": 1.482, "best_value": 1.467,
        "at_risk_steps": 162, "at_risk_s": 8.9, "start_ts": NOW - 900, "last_ts": NOW - 1, "spark": (3.0, 2.0, 1.0),
        "steps_per_s": 18.3, "eta_s": 234.0,
    }  # fmt: skip
    return RunSummary(f"/r/{name}", name, **{**known, **fields})  # type: ignore[arg-type]


def line_of(one: RunSummary, width: int, unicode: bool = True) -> str:
    columns = run_rows.columns(width, has_damage=bool(one.damaged))
    cells = run_rows.RunRow(one, NOW, width=width, unicode=unicode).cells
    assert len(cells) == len(run_rows.columns(width, has_damage=True))
    layout = lay_out(columns, width - GUTTER - MARGIN)
    return " | ".join(cell if isinstance(cell, str) else cell[0] for cell in (cells[index] for index, _ in layout))


def test_what_a_line_says_at_each_width() -> None:
    assert line_of(summary(), 40) == "a | ● running | 66 %"
    assert line_of(summary(), 80) == "a | ● running | 66 % | 1.482 | █▅▁ | 8.9 s | <1 m"
    assert "8,412 / 12,700" in line_of(summary(), 120)
    wide = line_of(summary(title="gpt-stdlib", num_sessions=3), 200)
    for fact in ("1.467", "| 162 |", "3m 54s", "18.3 it/s", "gpt-stdlib", "| 3 |"):
        assert fact in wide
    assert line_of(summary(), 80, unicode=False).isascii()


def test_a_run_whose_checkpoints_are_known_to_be_bad_says_so() -> None:
    bad = summary(phase=Phase.CRASHED, damaged=("latest.pt", "x\x1b[31m.pt"))
    for width in (60, 80, 120, 200):
        assert line_of(bad, width).endswith(" | ✖ 2 files"), width
    assert line_of(bad, 80, unicode=False).endswith(" | x 2 files")
    assert line_of(bad, 80, unicode=False).isascii()
    said = "".join(words for words, _ in run_rows.damage_parts(bad, unicode=True))
    assert said == r"▲ a: latest.pt, x\x1b[31m.pt are known to be bad"
    many = summary(damaged=tuple(f"{number}.pt" for number in range(9)))
    assert "0.pt, 1.pt, 2.pt and 6 more are" in run_rows.damage_parts(many, unicode=False)[0][0]
    assert run_rows.select([bad, summary("b")], "damaged", 0, False) == [bad]
    assert run_rows.RunRow(RunSummary("/r/c", "c", error="no"), NOW, width=80, unicode=True).cells[-1] == ""


async def test_the_column_of_bad_files_is_there_while_there_are_some(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    app = CkptTuiApp(str(tmp_path), interval_s=3600, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "finished" in seen_text(app))
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        assert "damage" not in seen_text(app)
        bad = (summary("gpt", damaged=("latest.pt",)), summary("calm", start_ts=NOW - 9000))
        screen.post_message(RunsChanged(Runs("/r", bad, 2, is_whole=True)))
        await until(pilot, lambda: "✖ 1 file" in seen_text(app))
        assert "gpt: latest.pt is known to be bad" in seen_text(app)
        assert "damage" in seen_text(app)
        coming = summary("gpt", phase=Phase.RESTARTING, next_start=NextStart(due_at=NOW, attempt=3))
        screen.post_message(RunsChanged(Runs("/r", (coming,), 1, is_whole=True)))
        await until(pilot, lambda: "gpt: restarting, attempt 3, at " in seen_text(app))
        mended = (summary("gpt"), summary("calm"))
        screen.post_message(RunsChanged(Runs("/r", mended, 2, is_whole=True)))
        await until(pilot, lambda: "✖ 1 file" not in seen_text(app))
        assert "damage" not in seen_text(app)


def test_every_cell_fits_its_column_at_its_longest() -> None:
    long = summary(
        phase=Phase.INTERRUPTED, step=123_456, total_steps=900_000, last_loss=-123.4567, best_value=1.2345e-7,
        at_risk_steps=123_456, at_risk_s=40 * 3600.0, eta_s=47 * 3600.0, steps_per_s=0.001, last_ts=NOW - 99 * 86400,
        spark=tuple(float(i) for i in range(24)), num_sessions=99, damaged=("latest.pt",) * 999,
    )  # fmt: skip
    for width in (80, 120, 200):
        columns = run_rows.columns(width, has_damage=True)
        cells = run_rows.RunRow(long, NOW, width=width, unicode=True).cells
        for column, cell in zip(columns, cells, strict=True):
            words = cell if isinstance(cell, str) else cell[0]
            assert cell_width(words) <= column.width, (column.title, words)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (summary(phase=Phase.CRASHED), ("8.9 s", "error")),
        (summary(phase=Phase.CRASHED, at_risk_s=0.0), ("162 st", "error")),
        (summary(at_risk_steps=0, at_risk_s=0.0), ("none", "dim")),
        (summary(phase=Phase.FINISHED), ""),
        (summary(at_risk_steps=None), ""),
        (summary(phase=Phase.CRASHED, at_risk_steps=None, at_risk_s=None), ("?", "warning")),
    ],
)
def test_what_is_at_risk_or_was_lost(one: RunSummary, expected: object) -> None:
    assert run_rows.risk_cells(one)[0] == expected


def test_a_silence_that_is_long_for_a_run_is_seen() -> None:
    def role(one: RunSummary, now: float) -> str:
        seen = run_rows.RunRow(one, now, width=80, unicode=True).cells[11]
        assert not isinstance(seen, str)
        return seen[1]

    assert role(summary(), NOW + 30) == "dim"
    assert role(summary(), NOW + 90) == "warning"
    assert role(summary(steps_per_s=0.1), NOW + 90) == "dim"  # 10 s a step
    assert role(summary(phase=Phase.FINISHED), NOW + 90) == "dim"


def test_orders() -> None:
    a = summary("a", last_loss=2.0, at_risk_s=1.0, step=1, phase=Phase.FINISHED, last_ts=1.0)
    b = summary("b", last_loss=float("nan"), at_risk_s=9.0, step=9000)
    c = summary("c", last_loss=None, at_risk_s=5.0, phase=Phase.CRASHED, step=5000, last_ts=2.0)
    orders = {
        name: "".join(one.name for one in run_rows.select([c, b, a], "", index, False))
        for index, (name, _) in enumerate(run_rows.SORTS)
    }
    assert orders["newest activity"] == "bca"
    assert orders["name"] == "abc"
    assert orders["state"] == "bca"
    assert orders["done"] == "bca"
    assert orders["loss"] == "abc"
    assert orders["at risk"] == "bca"
    untold = replace(c, name="d", at_risk_steps=None, at_risk_s=None)  # perhaps all of it
    at_risk = next(index for index, (name, _) in enumerate(run_rows.SORTS) if name == "at risk")
    assert [one.name for one in run_rows.select([a, b, c, untold], "", at_risk, False)] == ["d", "b", "c", "a"]
    assert [one.name for one in run_rows.select([a, b, c], "", 1, True)] == ["c", "b", "a"]
    assert [one.name for one in run_rows.select([a, b, c], "CRASH", 0, False)] == ["c"]


def test_sparkline_uses_the_whole_height_and_never_more_than_its_cells() -> None:
    assert run_rows.sparkline([1, 2, 3, 4, 5, 6, 7, 8], 12, True) == "▁▂▃▄▅▆▇█"
    assert len(run_rows.sparkline(range(100), 12, True)) == 12
    assert run_rows.sparkline([2.0, 2.0], 12, True) == "▁▁"
    assert run_rows.sparkline([1.0], 12, True) == ""
    assert run_rows.sparkline([1, 2], 12, False).isascii()


async def test_opens_a_run_and_comes_back(tmp_path: Path) -> None:
    make_run(tmp_path / "original", ago_s=9000).rename(tmp_path / "first")
    make_run(tmp_path / "second", ended="failed", num_steps=7)
    app = CkptTuiApp(str(tmp_path), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "✓ 1 finished" in seen_text(app) and "✖ 1 failed" in seen_text(app))
        assert seen_text(app).index("second") < seen_text(app).index("first")
        assert {"Watch first", "Watch second", "Runs: sort"} <= {command.title for command in palette.commands(app)}
        await pilot.press("down", "enter")
        await until(pilot, lambda: app.state is not None and app.state.step == 20)
        assert app.directory == str(tmp_path / "first")
        await until(pilot, lambda: "20 / 40" in seen_text(app))
        assert "Bksp runs" in seen_text(app)
        # Copies of a run call themselves what it does: the list tells them apart, and so does this.
        assert seen_text(app).splitlines()[0].startswith(" first  ✓ finished")
        closed, state = app.watched, app.state
        await pilot.press("backspace")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.watched is None)
        await pilot.press("up", "enter")
        await until(pilot, lambda: app.state is not None and app.state.step == 7)
        late = StateChanged(state)  # type: ignore[arg-type]
        late.source = closed  # what its threads had said before it was closed
        app.post_message(late)
        await pilot.pause()
        assert app.state is not None
        assert app.state.step == 7
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.watched is None)
        assert not any(worker.group == "follow" and worker.is_running for worker in app.workers)
        await pilot.press("question_mark")
        await until(pilot, lambda: "Only runs that hold these words" in seen_text(app))


async def test_a_run_that_is_left_while_it_opens_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "first")
    make_run(tmp_path / "second")
    app = CkptTuiApp(str(tmp_path), interval_s=3600, env=ENV)
    push_screen = app.push_screen
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.screen.run_list.rows) == 2)  # type: ignore[attr-defined]

        async def push_and_leave(screen: Any) -> None:
            await push_screen(screen)
            await app.close_run()

        monkeypatch.setattr(app, "push_screen", push_and_leave)
        await app.open_run(str(tmp_path / "first"))
        assert app.watched is None
        assert isinstance(app.screen, RunsScreen)
        assert not any(worker.group == "follow" for worker in app.workers)


async def test_a_run_that_opens_over_the_help_is_told_its_state_and_not_the_help(tmp_path: Path) -> None:
    """Enter and ? in one packet: the help comes first."""
    make_run(tmp_path / "first")
    make_run(tmp_path / "second")
    app = CkptTuiApp(str(tmp_path), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(app.screen.run_list.rows) == 2)  # type: ignore[attr-defined]
        app.action_help()
        await app.open_run(str(tmp_path / "first"))
        await until(pilot, lambda: app.state is not None)
        assert [type(screen).__name__ for screen in app.screen_stack] == ["RunsScreen", "HelpScreen", "OverviewScreen"]
        assert app.overview is app.screen


def test_what_a_thread_says_after_the_end_is_nobodys_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "first")
    app = CkptTuiApp(str(tmp_path / "first"), env=ENV)

    def ended(message: object) -> bool:
        raise RuntimeError("Event loop is closed")

    monkeypatch.setattr(app, "post_message", ended)
    app.run_open._post(SessionFailed(CkptError("late")))


async def test_filters_sorts_and_follows_what_comes_and_goes(tmp_path: Path) -> None:
    for name in ("alpha", "beta", "gamma"):
        make_run(tmp_path / name)
    app = CkptTuiApp(str(tmp_path), interval_s=3600, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        # From then on its thread sleeps: what it tells would be all three again.
        await until(pilot, lambda: screen.runs is not None and screen.runs.is_whole)
        assert len(screen.run_list.rows) == 3
        await pilot.press("slash", *"bet")
        await until(pilot, lambda: len(screen.run_list.rows) == 1)
        await pilot.press("enter", "escape")
        await until(pilot, lambda: len(screen.run_list.rows) == 3)
        await pilot.press("z", "Z")
        assert [row.path[-5:] for row in screen.run_list.rows] == ["gamma", "/beta", "alpha"]
        # What a thread that looks told: tested without its pauses.
        assert screen.runs is not None
        fewer = replace(screen.runs, runs=screen.runs.runs[:1])
        screen.post_message(RunsChanged(fewer))
        await until(pilot, lambda: len(screen.run_list.rows) == 1)


async def test_a_run_that_breaks_is_said_and_found(tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        make_run(tmp_path / name)
    app = CkptTuiApp(str(tmp_path), interval_s=3600, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await until(pilot, lambda: screen.runs is not None and screen.runs.is_whole)
        hostile = "\x1b]0;owned\x07[/b]"
        live = Runs(str(tmp_path), (summary("x"), summary("y"), summary(hostile)), 3, is_whole=True)
        screen.post_message(RunsChanged(live))
        await until(pilot, lambda: len(screen.run_list.rows) == 3)
        broken = [replace(one, phase=Phase.CRASHED) if one.name == "y" else one for one in live.runs]
        screen.post_message(RunsChanged(replace(live, runs=tuple(broken))))
        await until(pilot, lambda: "y crashed" in seen_text(app) and "lost 162 steps, 8.9 s" in seen_text(app))
        screen.post_message(RunsChanged(live))  # it was resumed
        await until(pilot, lambda: not screen.broken)
        screen.post_message(RunsChanged(replace(live, runs=tuple(broken))))
        await until(pilot, lambda: "y crashed" in seen_text(app))
        await pilot.press("a")
        row = screen.run_list.cursor_row
        assert row is not None
        assert row.path == "/r/y"
        assert "lost 162 steps" not in seen_text(app)
        assert_nothing_hostile(app)
        odd = replace(live, runs=(RunSummary("/r/odd", "odd", error="Not a log: \x1b[2J no step"),))
        screen.post_message(RunsChanged(odd))
        await until(pilot, lambda: "▲ Not a log: \\x1b[2J no step" in seen_text(app))


async def test_what_breaks_is_told_as_a_person_wants_it(tmp_path: Path) -> None:
    make_run(tmp_path / "alpha")
    told = tmp_path / "told"
    settings = Settings(bell=True, alert_command=f'echo "$CKPT_TUI_RUN $CKPT_TUI_ALERT_TITLE" >> {told}; cat >> {told}')
    app = CkptTuiApp(str(tmp_path), interval_s=3600, env=ENV, settings=settings)
    rung: list[bool] = []
    app.bell = lambda: rung.append(True)  # type: ignore[method-assign]
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await until(pilot, lambda: screen.runs is not None and screen.runs.is_whole)
        assert screen.runs is not None
        others = (summary("x", title="gpt"), summary("y"))
        live = replace(screen.runs, runs=(*screen.runs.runs, *others))
        screen.post_message(RunsChanged(live))
        await until(pilot, lambda: len(screen.run_list.rows) == 3)
        await pilot.press("end", "enter")
        await until(pilot, lambda: app.state is not None)
        broken = replace(live, runs=(live.runs[0], replace(others[0], phase=Phase.CRASHED), others[1]))
        screen.post_message(RunsChanged(broken))
        await until(pilot, lambda: "x crashed" in seen_text(app).splitlines()[-1])
        await until(pilot, lambda: told.exists() and '"kind"' in told.read_text())
        assert '"run": "gpt"' in told.read_text()
        assert rung == [True]
        await pilot.press("backspace")
        await until(pilot, lambda: "a goes to it" in seen_text(app))


async def test_an_empty_directory_is_waited_for_and_opens_by_itself(tmp_path: Path) -> None:
    app = CkptTuiApp(str(tmp_path), interval_s=0.02, env=ENV)
    async with app.run_test(size=(40, 12)) as pilot:
        await until(pilot, lambda: "No run here yet" in seen_text(app))
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        make_run(tmp_path)
        screen.post_message(RunsChanged(Runs(str(tmp_path), is_whole=True, is_run=True)))
        await until(pilot, lambda: app.state is not None and app.state.step == 20)


def test_the_counts_say_how_many_of_them_have_no_room() -> None:
    runs = Runs("/r", tuple(summary(phase.value, phase=phase) for phase in Phase), len(Phase), is_whole=True)
    counts = run_rows.counts_parts(runs, unicode=True)
    for width in (20, 40, 80, 120, 200):
        top, below = run_rows.header_lines("/data/runs", counts, [("by name", "dim")], width)
        said = "".join(words for words, _ in top)
        assert cell_width(said) <= width
        assert cell_width("".join(words for words, _ in below)) <= width
        hidden = int(said.rsplit("+", 1)[1]) if "+" in said else 0
        assert said.count("1 ") + hidden == len(Phase)
    assert "/data/runs" in "".join(words for words, _ in below)


def test_rows_are_equal_when_they_look_the_same_and_are_made_when_looked_at() -> None:
    before = run_rows.RunRow(summary(), NOW, width=80, unicode=True)
    assert before == run_rows.RunRow(summary(last_ts=NOW - 2), NOW + 3, width=80, unicode=True)
    assert before != run_rows.RunRow(summary(step=9999), NOW, width=80, unicode=True)
    assert before != run_rows.RunRow(summary(), NOW, width=80, unicode=True, is_marked=True)
    assert hash(before) == hash(run_rows.RunRow(summary(step=9999), NOW, width=80, unicode=True))


async def test_thousands_of_runs_are_shown_at_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    app = CkptTuiApp(str(tmp_path), interval_s=3600, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = app.screen
        assert isinstance(screen, RunsScreen)
        await until(pilot, lambda: screen.runs is not None and screen.runs.is_whole)
        many = tuple(summary(f"run{index:04d}", start_ts=NOW - index) for index in range(5000))
        screen._take(Runs(str(tmp_path), many, 5000, is_whole=True))
        screen._take(Runs(str(tmp_path), (replace(many[0], step=9000), *many[1:]), 5000, is_whole=True))
        assert sum(row._cells is not None for row in screen.run_list.rows) < 60


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_bug_in_looking_is_said_and_the_list_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    make_run(tmp_path / "a")
    poll, is_broken = RunsWatch.poll, [is_first]

    def fail(watch: RunsWatch, budget_s: float = 0.05) -> Runs:
        if is_broken[0]:
            raise RuntimeError("boom [/x]\x1b[2J")
        return poll(watch, budget_s)

    monkeypatch.setattr(RunsWatch, "poll", fail)
    app = CkptTuiApp(str(tmp_path), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        if not is_first:
            await until(pilot, lambda: "1 finished" in seen_text(app))
            is_broken[0] = True
        await until(pilot, lambda: "▲ A bug in ckpt-tui: RuntimeError: boom [/x]\\x1b[2J" in seen_text(app))
        is_broken[0] = False
        await until(pilot, lambda: "boom" not in seen_text(app) and "1 finished" in seen_text(app))
