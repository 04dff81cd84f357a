"""Runs beside each other as lines: who is who, what came of each, and the settings that differ."""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_tui.records import dataclass
from ckpt_tui.run.comparison import LETTERS, Missing, Outcome, Setting, setting_words
from ckpt_tui.text import cell_width, count, duration, metric, safe_text
from ckpt_tui.tui import facts
from ckpt_tui.tui.facts import Part
from ckpt_tui.tui.styled import PLAIN_GLYPHS
from ckpt_tui.tui.widgets.lines_widget import Cells
from ckpt_tui.tui.widgets.virtual_list import GAP, GUTTER, MARGIN, Cell, Column, fit_cell, lay_out

NUM_ROLES = 6
LEAST_VALUE_WIDTH = 5

FACT_COLUMNS = (
    Column("", 1),
    Column("run", 10, grows=True, keep="middle", most=48),
    Column("state", 13, priority=3),
    Column("step", 9, align="right", priority=2),
    Column("last", 8, align="right"),
    Column("lowest", 8, align="right", priority=1),
    Column("best saved", 10, align="right", priority=6),
    Column("trained for", 11, align="right", priority=5),
    Column("lost", 15, align="right", priority=7),
    Column("overhead", 8, align="right", priority=8),
)


def role_of(index: int) -> str:
    """The colour of a run; with more than there are colours its letter tells it apart."""
    return f"run{index % NUM_ROLES + 1}"


@dataclass(frozen=True, slots=True)
class Compared:
    """One of the runs. outcome: None while nothing of it is read; error: why it cannot be."""

    name: str
    outcome: Outcome | None = None
    error: str = ""
    progress: float = 1.0


def fact_lines(runs: Sequence[Compared], width: int, *, unicode: bool) -> list[Cells]:
    """A heading and a line for each run."""
    layout = lay_out(FACT_COLUMNS, max(width - GUTTER - MARGIN, 1))
    gap = " " * GAP
    heading = gap.join(fit_cell(FACT_COLUMNS[i].title, cells, FACT_COLUMNS[i].align) for i, cells in layout)
    lines: list[Cells] = [((" " * GUTTER + heading, "dim"),)]
    for index, run in enumerate(runs):
        cells = _fact_cells(index, run, unicode=unicode)
        parts: list[Part] = [(" " * GUTTER, "")]
        for position, (at, cell_count) in enumerate(layout):
            words, role = cells[at]
            column = FACT_COLUMNS[at]
            parts.append((gap if position else "", ""))
            fitted = fit_cell(words, cell_count, column.align, column.keep)
            parts.append((fitted if unicode else fitted.translate(PLAIN_GLYPHS), role))
        lines.append(tuple(parts))
    return lines


def _fact_cells(index: int, run: Compared, *, unicode: bool) -> list[Part]:
    letter = (LETTERS[index], role_of(index))
    name = (safe_text(run.name, 400), role_of(index))
    one = run.outcome
    if run.error:
        return [letter, name, (f"{'▲' if unicode else '!'} unreadable", "error"), *[("", "")] * 7]
    if one is None:
        return [letter, name, ("reading ...", "accent"), *[("", "")] * 7]
    state = facts.phase_words(one.phase, unicode=unicode)
    if run.progress < 1:
        state = (f"reading {run.progress:.0%}", "accent")
    is_bad = one.last is not None and one.last - one.last != 0
    lost = f"{count(one.lost_steps)}, {duration(one.lost_s)}" if one.lost_steps else ""
    return [
        letter, name, state,
        (count(one.step), ""), (metric(one.last) if one.last is not None else "", "error" if is_bad else "strong"),
        (metric(one.lowest) if one.lowest is not None else "", ""),
        (metric(one.best) if one.best is not None else "", ""),
        (duration(one.seconds) if one.seconds is not None else "", ""),
        (lost, "warning"), (f"{100 * one.overhead:.0f} %" if one.overhead is not None else "", "dim"),
    ]  # fmt: skip


def setting_columns(settings: Sequence[Setting], num_runs: int, width: int) -> tuple[Column, ...]:
    """The key, and a column for each run; of many runs on a narrow screen the last ones have no room."""
    room = max(width - GUTTER - MARGIN, 1)
    longest_key = max((cell_width(safe_text(one.key)) for one in settings), default=0)
    key_width = max(min(longest_key, 40, room // 3), 8)
    share = max((room - key_width) // num_runs - GAP, LEAST_VALUE_WIDTH)
    columns = [Column("setting", key_width, keep="end")]
    for index in range(num_runs):
        longest = max((cell_width(setting_words(one.values[index])) for one in settings), default=0)
        columns.append(Column(LETTERS[index], max(min(longest, share), 4), priority=index + 1))
    return tuple(columns)


def setting_cells(setting: Setting) -> tuple[Cell, ...]:
    """The key and its values; what most runs have in common is dim."""
    words = [setting_words(value) for value in setting.values]
    usual = max(words, key=words.count)
    has_usual = words.count(usual) > len(words) / 2
    cells: list[Cell] = [safe_text(setting.key, 200)]
    for value, said in zip(setting.values, words, strict=True):
        is_dim = isinstance(value, Missing) or (has_usual and said == usual)
        cells.append((said, "dim" if is_dim else "strong"))
    return tuple(cells)
