"""Which metric the main chart shows, and which are pinned under it: all there are, filtered as you type."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.screen import ModalScreen
from textual.widgets import Input

from ckpt_tui.run.metrics import MACHINE, Metric, metrics_of
from ckpt_tui.run.state import RunState, Series
from ckpt_tui.text import cell_width, metric, plural, safe_text
from ckpt_tui.tui import keys, plot
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.plot import NamedCurve
from ckpt_tui.tui.points import extent_of
from ckpt_tui.tui.scale import XScale, y_scale
from ckpt_tui.tui.styled import line
from ckpt_tui.tui.view import View, x_scale
from ckpt_tui.tui.widgets.steady_input import SteadyInput
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words
from ckpt_tui.tui.y_range import range_of

SPARK_WIDTH = 20
_MAX_NAME_WIDTH = 40
_MOST_ROWS = 14
_OTHER_LINES = 9  # of the dialog: border, title, filter, head of the list, hint, and what is between them
_RAMP = "._-=+*#"  # from low to high, without unicode


def spark_line(series: Series, width: int = SPARK_WIDTH, *, unicode: bool = True) -> str:
    """A whole series in one line of cells; a spike and a value that is not finite are seen as in the chart."""
    curve = NamedCurve("", series)
    extent = extent_of([curve], "step")
    if extent is None:
        return " " * width
    x = x_scale(View(), extent, width, is_over=True)
    assert x is not None
    if not unicode:
        return _ramp(curve, x)
    drawn = plot.draw(plot.lines_of([curve], x, unicode=unicode), x, 1, unicode=unicode, y_range="auto")
    return "".join(text for text, _ in drawn.rows[0])


def _ramp(curve: NamedCurve, x: XScale) -> str:
    """One character a column that says how high its highest value is."""
    chars = [" "] * x.width
    lines = plot.lines_of([curve], x, unicode=False)
    pieces = [piece for one in lines if one.role != plot.ABANDONED for piece in one.pieces]
    found = range_of([piece.columns for piece in pieces], is_log=False, y_range="auto")
    height_of = y_scale(found.low, found.high, len(_RAMP)).rows(len(_RAMP)) if found is not None else None
    for piece in pieces:
        for index, column in enumerate(piece.columns, piece.first):
            if column is not None and column.bad:
                chars[index] = "x"
            elif column is not None and found is not None and height_of is not None:
                chars[index] = "^" if column.hi > found.high else _RAMP[len(_RAMP) - 1 - height_of(column.hi)]
    return "".join(chars)


def matching(metrics: Sequence[Metric], words: str) -> list[Metric]:
    """Those whose names, or whose validation twins' names, hold every word."""
    wanted = words.lower().split()
    return [
        one
        for one in metrics
        if all(word in f"{one.name} {one.train or ''} {one.val or ''} {one.group}".lower() for word in wanted)
    ]


def cells_of(one: Metric, state: RunState, pins: Collection[str], shown: str, *, unicode: bool = True) -> list[Cell]:
    """Pinned or shown, name, last value of it and of its twin, its course."""
    train, val = one.pair(state.series)
    main = train or val
    mark = "▸" if one.name == shown else "•" if one.name in pins else ""
    if not unicode:
        mark = ">" if one.name == shown else "*" if one.name in pins else ""
    unit = f" {one.unit}" if one.unit else ""
    return [
        (mark, "accent"),
        (safe_text(one.title if not unit else one.name, 200), "dim" if one.group == MACHINE else ""),
        f"{_value(main, one.scale, is_exact=not unit)}{unit}",
        (_value(val, one.scale) if train is not None and val is not None else "", "dim"),
        (spark_line(main, unicode=unicode) if main is not None else "", ""),
    ]


def _value(series: Series | None, scale: float, *, is_exact: bool = True) -> str:
    if series is None or series.last is None:
        return "-"
    return metric(series.last * scale) if is_exact else f"{series.last * scale:.3g}"


def _pressed(node: DOMNode, name: str) -> str:
    """What a row of METRIC_KEYS is pressed with, as this person has it."""
    row = next(row for row in keys.METRIC_KEYS if row.id == f"metric.{name}")
    return app_of(node).settings.keymap.get(row.id, row.key)


class _Filter(SteadyInput):
    """The filter takes no notice of case, so that a capital M is free for pinning."""

    def check_consume_key(self, key: str, character: str | None) -> bool:
        return key not in _pressed(self, "pin").split(",") and super().check_consume_key(key, character)


class MetricPicker(ModalScreen[str | None]):
    """Ends with the name of the metric to show, or None. `M` pins without ending, where something can be pinned."""

    CSS_PATH = "dialogs.tcss"
    AUTO_FOCUS = "#metric_filter"
    BINDINGS: ClassVar[list[BindingType]] = [*keys.bindings_of(keys.METRIC_KEYS), *keys.dialog_bindings()]

    def __init__(
        self,
        state: RunState,
        *,
        shown: str,
        pins: Callable[[], Collection[str]] = tuple,
        toggle_pin: Callable[[str], object] | None = None,
        unicode: bool = True,
    ) -> None:
        super().__init__()
        self._state, self._shown, self._pins, self._toggle_pin = state, shown, pins, toggle_pin
        self._unicode = unicode
        self._metrics = metrics_of(state.series)

    def compose(self) -> ComposeResult:
        widest = max((cell_width(safe_text(one.name, 200)) for one in self._metrics), default=4)
        columns = (
            Column("", 1),
            Column("metric", 8, grows=True, keep="middle", most=min(widest, _MAX_NAME_WIDTH)),
            Column("last", 10, align="right"),
            Column("val", 8, align="right", priority=2),
            Column("all of it", SPARK_WIDTH, priority=1),
        )
        with Vertical(classes="dialog dialog-metrics"):
            yield Words(line(("Metric of the main chart", "strong")), classes="dialog-title")
            yield _Filter(id="metric_filter", placeholder="type to filter", compact=True)
            rows = VirtualList[Metric](
                columns,
                lambda one: cells_of(one, self._state, self._pins(), self._shown, unicode=self._unicode),
                self._metrics,
                key=lambda one: one.name,
                empty_text="no metric of that name",
            )
            rows.can_focus = False
            room = int(self.app.size.height * 0.95) - _OTHER_LINES
            rows.styles.height = max(min(max(len(self._metrics), 1), _MOST_ROWS, room), 2) + 1
            yield rows
            yield Words(line((self._hint(), "dim")), id="metric_hint", classes="dialog-hint")

    def on_mount(self) -> None:
        index = next((index for index, one in enumerate(self._metrics) if one.name == self._shown), 0)
        self._list.cursor = index

    @property
    def _list(self) -> VirtualList[Metric]:
        return self.query_one(VirtualList)

    def _hint(self) -> str:
        show, pin, leave = (keys.key_words(_pressed(self, name).split(",")[0]) for name in ("show", "pin", "leave"))
        is_narrow = self.app.size.width < 60
        told = [f"{show} shows", f"{leave} leaves"]
        if self._toggle_pin is not None:
            pins = plural(len(self._pins()), "pin")
            told.insert(1, f"{pin} pins" if is_narrow else f"{pin} pins under the chart ({pins})")
        return ", ".join(told)

    @on(Input.Changed)
    def _filter(self, message: Input.Changed) -> None:
        message.stop()
        self._list.set_rows(matching(self._metrics, message.value), keep_cursor=not message.value)

    @on(VirtualList.Selected)
    def _selected(self, message: VirtualList.Selected) -> None:
        message.stop()
        self.action_show()

    def action_show(self) -> None:
        row = self._list.cursor_row
        if row is not None:
            self.dismiss(row.name)

    def action_move(self, by: int) -> None:
        self._list.cursor = max(0, min(self._list.cursor + by, len(self._list.rows) - 1))

    def action_pin(self) -> None:
        row = self._list.cursor_row
        if row is not None and self._toggle_pin is not None:
            self._toggle_pin(row.name)
            self._list.refresh()
            self.query_one("#metric_hint", Words).update(line((self._hint(), "dim")))

    def action_leave(self) -> None:
        self.dismiss(None)
