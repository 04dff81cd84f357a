"""The chart under keys and mouse: pins, metrics, smoothing, zoom at the pointer, overlays, what the rule says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from textual.app import ComposeResult
from textual.screen import Screen

from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.state import Marker, Phase, RunState
from ckpt_tui.settings import Settings
from ckpt_tui.tui import keys, legend, plot
from ckpt_tui.tui.dialogs import metrics as picker
from ckpt_tui.tui.dialogs.moment import MomentDialog
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.screens.chart_actions import ChartActions
from ckpt_tui.tui.widgets.chart import GUTTER, Panel
from ckpt_tui.tui.widgets.charts import ChartStack, heights
from ckpt_tui.tui.widgets.event_lane import lane, marks_in
from tests.builders.run_states import NOW, falling, resumed_series, running, save, series
from tests.builders.screen_app import ScreenApp, seen, seen_text, until


class ChartScreen(ChartActions, Screen[None]):
    BINDINGS = keys.bindings_of(key for key in keys.OVERVIEW_KEYS if key.group == "Chart")

    def compose(self) -> ComposeResult:
        yield ChartStack(id="chart")

    @property
    def chart(self) -> ChartStack:
        return self.query_one("#chart", ChartStack)


def state(**fields: object) -> RunState:
    points = [(step, 5.0 if step == 250 else 2.0) for step in range(1, 401)]
    known = {
        "loss": series("loss", falling(1, 400)), "val_loss": series("val_loss", [(100, 2.2), (400, 1.2)]),
        "lr": series("lr", [(step, 0.001) for step in range(1, 401)]), "grad_norm": series("grad_norm", points),
        "rss_bytes": series("rss_bytes", [(100, 3e9), (300, 3.1e9)]),
    }  # fmt: skip
    return running(**{"series": known, "phase": Phase.FINISHED, **fields})  # type: ignore[arg-type]


def words(parts: list[tuple[str, str]]) -> str:
    return "".join(text for text, _ in parts)


async def test_what_a_person_has_pinned_and_smoothed_for_good_is_there_from_the_start() -> None:
    screen = ChartScreen()
    app = ScreenApp(screen)
    app.settings = Settings(pins=("val_loss", "nothing", "lr"), smoothing=0.95)
    async with app.run_test(size=(80, 24)) as pilot:
        screen.chart.set_state(state())
        await pilot.pause()
        assert screen.chart.view.smoothing == "heavy"
        assert [panel.title for panel in screen.chart.pinned] == ["lr"]  # the loss is the main chart
        await pilot.press("right_square_bracket")
        assert [panel.title for panel in screen.chart.pinned] == ["loss"]
        assert not screen.chart.toggle_pin("loss")  # pinned as val_loss
        assert screen.chart.pins == ("nothing", "lr")


def test_pins_get_what_room_there_is_and_the_main_chart_stays_the_largest() -> None:
    assert heights(8, 0) == (7, [])
    assert heights(8, 1) == (4, [3])
    assert heights(7, 1) == (6, [])
    assert heights(22, 3) == (9, [4, 4, 4])
    for height in range(2, 60):
        for num_pins in range(5):
            main, each = heights(height, num_pins)
            assert main + sum(each) + 1 == height
            assert len(each) <= min(num_pins, 3)
            assert main >= max(each, default=0)


async def test_metrics_pins_and_smoothing_by_keys() -> None:
    screen = ChartScreen()
    app = ScreenApp(screen)
    async with app.run_test(size=(80, 24)) as pilot:
        screen.chart.set_state(state())
        await pilot.press("right_square_bracket", "M", "right_square_bracket")
        assert (screen.chart.main.title, screen.chart.pins) == ("grad_norm", ("lr",))
        assert any("─ lr ─" in line for line in seen(app))
        await pilot.press("left_square_bracket", "left_square_bracket")
        assert [curve.label for curve in screen.chart.main.curves] == ["train", "val"]
        await pilot.press("s")
        assert all(curve.smooth is not None for curve in screen.chart.main.curves)
        assert "light smoothing" in words(screen.chart.rule_parts())
        await pilot.press("left")
        assert "~1." in words(screen.chart.rule_parts())
        await pilot.press("escape", "left_square_bracket")
        assert screen.chart.main.title == "rss_bytes, GB"
        assert any(line.lstrip().startswith(("3.1", "3.10")) for line in seen(app))
        await pilot.press("M", "M", "s", "s", "y")
        assert (screen.chart.view.smoothing, screen.chart.view.is_log) == ("off", True)


async def test_only_what_changed_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    real = plot.draw
    monkeypatch.setattr(plot, "draw", lambda lines, *rest, **more: drawn.append("plot") or real(lines, *rest, **more))
    screen = ChartScreen()
    app = ScreenApp(screen)
    async with app.run_test(size=(80, 24)) as pilot:
        chart, first = screen.chart, state()
        chart.pins = ("lr",)
        chart.set_state(first)
        await pilot.pause()
        drawn.clear()
        chart.set_state(replace(first, now=NOW + 1))  # the clock went on, nothing else
        await pilot.press("left", "left")
        assert drawn == []
        await pilot.press("y")
        assert len(drawn) == 2
        drawn.clear()
        grown = {**first.series, "lr": series("lr", [(step, 0.001) for step in range(1, 402)])}
        chart.set_state(replace(first, series=grown))
        assert drawn
        assert chart.points(chart.pinned[0])


async def test_the_picker_filters_as_one_types_pins_and_shows() -> None:
    screen = ChartScreen()
    app = ScreenApp(screen)
    async with app.run_test(size=(80, 24)) as pilot:
        screen.chart.set_state(state())
        await pilot.press("m")
        await until(pilot, lambda: "Metric of the main chart" in seen_text(app))
        assert "rss_bytes" in seen_text(app)
        await pilot.press(*"NORM")
        await until(pilot, lambda: "rss_bytes" not in seen_text(app))
        assert screen.chart.pins == ("grad_norm",)  # a capital M pins, also after a word
        assert "1 pin" in seen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is screen)
        assert screen.chart.main.title == "grad_norm"
        await pilot.press("w")
        await until(pilot, lambda: isinstance(app.screen, MomentDialog))
        assert "What happened at step 400   the newest step" in seen_text(app)


async def test_the_mouse_zooms_at_the_pointer_drags_and_sets_the_cursor() -> None:
    screen = ChartScreen()
    app = ScreenApp(screen)
    async with app.run_test(size=(80, 24)) as pilot:
        chart = screen.chart
        chart.set_state(state())
        await pilot.pause()
        assert chart.x is not None
        under = chart.x.value(20)
        await pilot._post_mouse_events([_scroll_up()], chart, offset=(GUTTER + 20, 5))
        assert chart.x.x1 - chart.x.x0 == pytest.approx(200, rel=0.05)
        assert chart.x.cell(under) in (19, 20, 21)
        before = chart.x.x0
        await pilot.mouse_down(chart, offset=(GUTTER + 20, 5))
        await pilot.hover(chart, offset=(GUTTER + 30, 5))
        await pilot.mouse_up(chart, offset=(GUTTER + 30, 5))
        assert chart.x.x0 < before  # the curve went with the hand
        assert chart.view.cursor is None
        after = chart.x.x0
        await pilot.hover(chart, offset=(GUTTER + 50, 5))
        assert chart.x.x0 == after  # the button is up
        await pilot.click(chart, offset=(GUTTER + 40, 5))
        assert chart.cursor_cell() == 40


def _scroll_up() -> type:
    from textual.events import MouseScrollUp

    return MouseScrollUp


async def test_several_runs_lie_on_top_of_each_other_each_with_its_letter() -> None:
    screen = ChartScreen()
    app = ScreenApp(screen)
    one, other = (series("loss", falling(1, last), start_ts=start) for last, start in ((400, 1e9), (200, 2e9)))
    curves = [
        NamedCurve("first", one, "run1", "A", origin=1e9), NamedCurve("second", other, "run2", "B", origin=2e9),
    ]  # fmt: skip
    async with app.run_test(size=(80, 24)) as pilot:
        screen.chart.set_curves(curves, title="loss")
        await pilot.pause()
        assert "A first" in words(screen.chart.rule_parts())
        shown = seen_text(app)
        assert "A" in shown
        assert "B" in shown
        await pilot.press("x")
        assert screen.chart.x is not None
        assert screen.chart.x.x1 <= 400.5  # each counts from its own start
        await pilot.press("x")
        assert screen.chart.view.axis == "step"  # nobody knows their epochs
        await pilot.press("s")
        assert all(curve.smooth is not None for curve in screen.chart.main.curves)


# -- words ---------------------------------------------------------------------------------------------------------


def readout(cursor: float, **fields: object) -> str:
    chart = ChartStack()
    chart.state = state(**fields)
    chart.take_metrics(chart.state)
    chart.view = replace(chart.view, cursor=cursor)
    chart.x = XScale("step", 0, 400, 40)
    return words(chart.rule_parts())


def test_the_readout_tells_the_event_and_the_checkpoint_to_go_back_to() -> None:
    markers = (Marker("save", 305, NOW - 9, 1, "rolling"), Marker("crash", 307, NOW - 5, 1, "crashed"))
    saves = (save(100, NOW - 200), save(305, NOW - 9), save(390, NOW))
    said = readout(305, markers=markers, saves=saves)
    assert "step 300-309" in said
    assert "✖ crash crashed and 1 more" in said
    assert "rolling 305" in readout(345, saves=saves)
    assert "rolling 100" in readout(15, saves=saves)  # nothing before it: the nearest


def test_the_readout_tells_what_is_not_finite_and_what_was_abandoned() -> None:
    points = [(step, math.nan if step in (101, 102) else 2.0) for step in range(1, 401)]
    assert "2 not finite" in readout(105, series={"loss": series("loss", points)})
    first = [(step, 2.0) for step in range(1, 401)]
    both = resumed_series("loss", first, 200, [(step, 1.0) for step in range(201, 301)])
    assert "abandoned" in readout(355, series={"loss": both})
    assert "abandoned" not in readout(255, series={"loss": both})


def test_of_several_runs_the_readout_is_of_the_one_that_reached_the_cursor() -> None:
    chart = ChartStack()
    chart.main = Panel("loss", tuple(
        NamedCurve(mark, series("loss", falling(1, last)), "run1", mark) for mark, last in (("A", 200), ("B", 400))
    ))  # fmt: skip
    chart.x = XScale("step", 0, 400, 40)
    chart.view = replace(chart.view, cursor=355)
    said = words(chart.rule_parts())
    assert said.startswith("step 350-359")
    assert "A 1.406 at 200" in said
    assert "B 1." in said


def test_what_is_not_read_yet_is_empty_and_the_axis_stands_already() -> None:
    """A long log is read from both ends: a line over the part in between would be made up."""
    both = SeriesBuilder("loss")
    for session, first in ((1, 1), (2, 900)):  # the monitor joins the two parts like sessions
        both.add_all(session, list(range(first, first + 101)), [NOW + first] * 101, [2.0] * 101)
    chart = ChartStack()
    for is_whole in (False, True):
        chart.state = running(series={"loss": both.freeze()}, is_whole=is_whole, start_ts=NOW - 50)
        chart.take_metrics(chart.state)
        lines, _ = chart.panel_lines(chart.main, XScale("step", 0, 1000, 50), 8)
        ink = [any("".join(text for text, _ in line)[GUTTER + cell] != " " for line in lines) for cell in range(50)]
        assert (ink[2], ink[25], ink[47]) == (True, is_whole, True)
    chart.state = replace(chart.state, is_whole=False, series={"loss": series("loss", [(900, 1.0), (1000, 1.0)])})
    chart.take_metrics(chart.state)
    assert chart.extent() == (0.0, 1000.0)
    chart.view = replace(chart.view, axis="time")
    found = chart.extent()
    assert found is not None
    assert found[0] == NOW - 100  # what was read began before what the log's start says


def test_hostile_names_are_made_safe_in_titles_pins_and_the_picker() -> None:
    name = "evil\x1b]0;x\x07[red]\u202e" + "y" * 300
    hostile = series(name, [(step, 1.0) for step in range(1, 10)])
    chart = ChartStack(pins=[name])
    chart.state = running(series={"loss": hostile, name: hostile})
    chart.take_metrics(chart.state)
    chart.view = replace(chart.view, cursor=5)
    chart.x = XScale("step", 0, 10, 40)
    shown = ["".join(text for text, _ in line) for line in chart.lines_now(48, 20)]
    assert all(line.isprintable() for line in shown)
    assert any("evil" in line for line in shown)
    assert words(chart.rule_parts()).isprintable()
    chart.view = replace(chart.view, metric=name)
    chart.take_metrics(chart.state)
    assert chart.main.title.isprintable()
    assert len(chart.main.title) <= 40
    cells = picker.cells_of(picker.metrics_of([name])[0], chart.state, [], "")
    assert all((one if isinstance(one, str) else one[0]).isprintable() for one in cells)


def test_hostile_names_are_made_safe_in_the_legend() -> None:
    name = "evil\x1b]0;x\x07[red]" + "y" * 300
    said = words(legend.legend(ChartStack().view, [NamedCurve(name, series("loss", [(1, 1.0)]))], None))
    assert said.isprintable()
    assert len(said) < 60


def test_the_lane_shows_the_worst_of_a_cell_on_every_axis() -> None:
    markers = [Marker("save", 100, 1000.0, 1, "a"), Marker("crash", 100, 1001.0, 1, "b"), Marker("odd", 1, 1.0, 1, "")]
    for x in (XScale("step", 0, 200, 20), XScale("time", 900, 1100, 20)):
        cells = lane(markers, x)
        assert [char for char, _ in cells].count("✖") == 1
        assert cells[10][0] == "✖"
        assert [one.kind for one in marks_in(markers, x, 10)] == ["crash", "save"]
    assert lane(markers, XScale("step", 0, 200, 20), unicode=False)[10][0] == "X"


def test_filter_words_find_names_twins_and_groups() -> None:
    metrics = picker.metrics_of(state().series)
    assert [one.name for one in picker.matching(metrics, "LOSS")] == ["loss"]
    assert [one.name for one in picker.matching(metrics, "val")] == ["loss"]
    assert [one.name for one in picker.matching(metrics, "machine")] == ["rss_bytes"]
    assert picker.matching(metrics, "no such") == []
    assert len(picker.matching(metrics, "")) == len(metrics)


@pytest.mark.parametrize("unicode", [True, False])
def test_a_spike_is_seen_in_the_line_of_the_picker(unicode: bool) -> None:
    flat = [(step, 1.0) for step in range(1, 5001)]
    spiked = [(step, 9.0 if step == 2500 else 1.0) for step in range(1, 5001)]
    plain, with_spike = (picker.spark_line(series("loss", one), unicode=unicode) for one in (flat, spiked))
    assert len(plain) == len(with_spike) == picker.SPARK_WIDTH
    assert plain != with_spike
    assert picker.spark_line(series("loss", []), unicode=unicode) == " " * picker.SPARK_WIDTH
