"""A run of many as one line: its columns at every width, its sparkline, the orders, what the header says of all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

from ckpt_tui.run import wording
from ckpt_tui.run.state import Phase
from ckpt_tui.services.runs import PHASE_ORDER, Runs, RunSummary, by_activity, count_phases
from ckpt_tui.text import cell_width, count, duration, fit, metric, plural, safe_text, short_age, short_count
from ckpt_tui.tui import facts
from ckpt_tui.tui.facts import Part
from ckpt_tui.tui.widgets.lines_widget import Cells
from ckpt_tui.tui.widgets.virtual_list import Cell, Column

_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN_BLOCKS = "_.-~=+*#"
SHORT_SPARK, LONG_SPARK = 12, 24
MAX_NAMED = 3  # damaged checkpoints
ENDED_BADLY = frozenset({Phase.CRASHED, Phase.FAILED, Phase.DIVERGED})


def columns(width: int, *, has_damage: bool = False) -> tuple[Column, ...]:
    """The columns in their order; those that have no room go, the highest number first. has_damage: of any run."""
    damage = (Column("damage", 11, priority=1),) if has_damage else ()
    return (
        Column("run", 12, grows=True, keep="middle", most=48),
        Column("state", 13),
        Column("done", 5, align="right", priority=1),
        Column("step", 17, align="right", priority=7),
        Column("loss", 7, align="right", priority=2),
        Column("best", 7, align="right", priority=8),
        Column("loss so far", LONG_SPARK if width >= 120 else SHORT_SPARK, priority=5),
        Column("at risk", 8, align="right", priority=3),
        Column("in steps", 8, align="right", priority=10),
        Column("left", 7, align="right", priority=6),
        Column("speed", 10, align="right", priority=9),
        Column("seen", 4, align="right", priority=4),
        Column("sessions", 8, align="right", priority=11),
        Column("calls itself", 14, priority=12, grows=True),
        *damage,
    )


SORTS: tuple[tuple[str, Callable[[RunSummary], tuple[object, ...]]], ...] = (
    ("newest activity", by_activity),
    ("name", lambda one: (one.name,)),
    ("state", lambda one: (PHASE_ORDER.index(one.phase) if one.phase else -1, *by_activity(one))),
    ("done", lambda one: (-(one.percent if one.percent is not None else -1), -one.step, one.name)),
    ("loss", lambda one: (*_number(one.last_loss), one.name)),
    ("best", lambda one: (*_number(one.best_value), one.name)),
    (
        "at risk",
        lambda one: (not _is_loss_untold(one), -(one.at_risk_s or 0.0), -(one.at_risk_steps or 0), one.name),
    ),
)
# Which order a click on a column's title asks for.
SORT_OF_COLUMN = {0: 1, 1: 2, 2: 3, 3: 3, 4: 4, 5: 5, 6: 4, 7: 6, 8: 6, 11: 0}


def _number(value: float | None) -> tuple[int, float]:
    """Lowest first, then what is no number, then what is not known."""
    if value is None:
        return (2, 0.0)
    return (0, value) if value == value else (1, 0.0)


class RunRow:
    """One line; compares by what is shown, so that only lines that change are sent. Made into cells when it is
    looked at: of thousands a screenful is."""

    __slots__ = ("_cells", "_given", "path")

    def __init__(self, summary: RunSummary, now: float, *, width: int, unicode: bool, is_marked: bool = False) -> None:
        self.path = summary.path
        self._given = (summary, now, width, unicode, is_marked)
        self._cells: tuple[Cell, ...] | None = None

    @property
    def cells(self) -> tuple[Cell, ...]:
        if self._cells is None:
            self._cells = cells_of(*self._given)
        return self._cells

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunRow) and self.path == other.path and self.cells == other.cells

    def __hash__(self) -> int:
        return hash(self.path)


def select(runs: Sequence[RunSummary], words: str, sort: int, is_reversed: bool) -> list[RunSummary]:
    """The runs that hold all of `words` in name, title or state, in order."""
    wanted = words.lower().split()
    found = [one for one in runs if all(word in _searched(one) for word in wanted)] if wanted else list(runs)
    found.sort(key=SORTS[sort][1], reverse=is_reversed)
    return found


def _searched(summary: RunSummary) -> str:
    damage = " damaged" if summary.damaged else ""
    return f"{summary.name} {summary.title} {summary.phase.value if summary.phase else 'unreadable'}{damage}".lower()


def cells_of(summary: RunSummary, now: float, width: int, unicode: bool, is_marked: bool = False) -> tuple[Cell, ...]:
    """The line of a run at `now`."""
    seen = "-" if summary.last_ts is None else _age(now - summary.last_ts)
    role = "accent" if is_marked else "strong" if summary.is_live else ""
    name: Cell = (("+ " if is_marked else "") + safe_text(summary.name, 400), role)
    if summary.phase is None:
        blank = ("",) * (len(columns(width)) - 3)
        state = (f"{'▲' if unicode else '!'} unreadable", "error")
        return (name, state, *blank, (safe_text(summary.error), "error"), "")
    percent = f"{summary.percent} %" if summary.percent is not None else "-"
    step = count(summary.step) + (f" / {count(summary.total_steps)}" if summary.total_steps else "")
    loss = metric(summary.last_loss)
    best = metric(summary.best_value) if summary.best_value is not None else ""
    is_odd = summary.last_loss is not None and summary.last_loss - summary.last_loss != 0
    risk, risk_steps = risk_cells(summary)
    spark = sparkline(summary.spark, LONG_SPARK if width >= 120 else SHORT_SPARK, unicode)
    title = safe_text(summary.title, 100) if summary.title not in ("", summary.name.rsplit("/", 1)[-1]) else ""
    return (
        name, facts.phase_words(summary.phase, unicode=unicode), percent, step,
        (loss, "error" if is_odd else ""), (best, "dim"),
        (spark, "accent" if summary.is_live else "dim"), risk, risk_steps,
        duration(summary.eta_s) if summary.eta_s is not None else "", _speed(summary.steps_per_s),
        (seen, "warning" if is_late(summary, now) else "dim"),
        (str(summary.num_sessions) if summary.num_sessions > 1 else "", "dim"), (title, "dim"),
        damage_cell(summary, unicode=unicode),
    )  # fmt: skip


def damage_cell(summary: RunSummary, *, unicode: bool) -> Cell:
    """`✖ 2 files`: of its checkpoints, as far as validation looked."""
    if not summary.damaged:
        return ""
    return (f"{'✖' if unicode else 'x'} {plural(len(summary.damaged), 'file')}", "error")


def damage_parts(summary: RunSummary, *, unicode: bool) -> list[Part]:
    """`▲ sweep/lr3: latest.pt is known to be bad`, of the run under the cursor."""
    names = ", ".join(safe_text(name, 60) for name in summary.damaged[:MAX_NAMED])
    more = len(summary.damaged) - MAX_NAMED
    names += f" and {count(more)} more" if more > 0 else ""
    verb = "is" if len(summary.damaged) == 1 else "are"
    return [(f"{'▲' if unicode else '!'} {safe_text(summary.name, 60)}: {names} {verb} known to be bad", "error")]


def coming_parts(summary: RunSummary | None, now: float, *, unicode: bool) -> list[Part]:
    """`◔ sweep/lr3: restarting, attempt 3, at 02:14:09`, of the run under the cursor: its line has no room for it."""
    if summary is None or summary.phase is None or summary.next_start is None:
        return []
    from ckpt_tui.run.wording import coming_words

    words, role = facts.phase_words(summary.phase, unicode=unicode)
    glyph, _, word = words.partition(" ")
    coming = coming_words(summary.next_start, now, is_ticking=False)
    return [(f"{glyph} {safe_text(summary.name, 60)}: {word}, {coming}", role)]


def _is_loss_untold(summary: RunSummary) -> bool:
    """Whether it ended badly, and no checkpoint was found from which it could be told what that has cost."""
    return summary.phase in ENDED_BADLY and summary.step > 0 and summary.at_risk_steps is None


def risk_cells(summary: RunSummary) -> tuple[Cell, Cell]:
    """What would be lost now, or what the end has cost: as time and as steps."""
    if _is_loss_untold(summary):  # by the end of a long log: opened, the run tells of it
        return ("?", "warning"), ("?", "warning")
    if summary.at_risk_steps is None or summary.phase is Phase.FINISHED:
        return "", ""
    role = "error" if summary.phase in ENDED_BADLY and summary.at_risk_steps else ""
    steps = count(summary.at_risk_steps)
    if not summary.at_risk_steps:
        return ("none", "dim"), ("0", "dim")
    seconds = duration(summary.at_risk_s) if summary.at_risk_s else f"{short_count(summary.at_risk_steps)} st"
    return (seconds, role), (steps, role)


def is_late(summary: RunSummary, now: float) -> bool:
    """A run that is called running and has said nothing for long by its pace. It may evaluate or save: only the whole
    of a long log tells how long that takes, and only then it is called stalled."""
    if summary.phase is not Phase.RUNNING or summary.last_ts is None or not summary.steps_per_s:
        return False
    return now - summary.last_ts > max(60.0, 20 / summary.steps_per_s)


def _age(seconds: float) -> str:
    """In minutes at the finest: an age that counts seconds in every line would be sent every second."""
    return "<1 m" if seconds < 60 else short_age(seconds)


def _speed(steps_per_s: float | None) -> str:
    if not steps_per_s:
        return ""
    if steps_per_s >= 1:
        return f"{short_count(steps_per_s)} it/s" if steps_per_s >= 1000 else f"{steps_per_s:.1f} it/s"
    return f"{duration(1 / steps_per_s)}/it" if steps_per_s < 0.01 else f"{1 / steps_per_s:.1f} s/it"


def sparkline(values: Sequence[float], width: int, unicode: bool) -> str:
    """`values` over `width` cells from lowest to highest, oldest left."""
    blocks = _BLOCKS if unicode else _PLAIN_BLOCKS
    if len(values) < 2:
        return ""
    if len(values) > width:
        edges = [len(values) * index // width for index in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(values), max(values)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] for value in values)


def counts_parts(runs: Runs, *, unicode: bool) -> list[list[Part]]:
    """`3 running`, `1 crashed`, `12 finished`."""
    parts: list[list[Part]] = []
    for phase, number in count_phases(runs.runs).items():
        glyph, role = facts.phase_words(phase, unicode=unicode)
        parts.append([(f"{glyph.split(' ')[0]} ", role), (f"{number:,} {wording.phase_word(phase)}", role)])
    odd = sum(one.phase is None for one in runs.runs)
    if odd:
        parts.append([(f"{odd:,} unreadable", "error")])
    return parts


def broken_parts(broken: Sequence[RunSummary], now: float, *, unicode: bool) -> list[Part]:
    """`▲ sweep/lr3 crashed 02:14:09: lost 127 steps, 7.0 s.`: of the newest one, and how many more."""
    one = broken[-1]
    assert one.phase is not None
    words = f"{safe_text(one.name, 60)} {wording.phase_word(one.phase)}"
    if one.last_ts is not None:
        words += f" {facts.clock_words(one.last_ts, now)}"
    if one.at_risk_steps:
        seconds = f", {duration(one.at_risk_s)}" if one.at_risk_s else ""
        words += f": lost {plural(one.at_risk_steps, 'step')}{seconds}"
    more = f"  + {len(broken) - 1} more" if len(broken) > 1 else ""
    return [(f"{'▲' if unicode else '!'} {words}", "error"), (more, "error"), ("  a", "accent"), (" goes to it", "dim")]


def news_parts(
    runs: Runs, broken: Sequence[RunSummary], marked: Collection[str], shown: int, words: str, sort: str, now: float,
    *, unicode: bool,
) -> list[Part]:  # fmt: skip
    """The second line: what broke, else how far the reading is, else what is shown."""
    if broken:
        return broken_parts(broken, now, unicode=unicode)
    if not runs.is_whole:
        if not runs.num_found:
            return [("looking for runs ...", "accent")]
        return [(f"reading {count(len(runs.runs))} of {count(runs.num_found)}", "accent")]
    parts: list[Part] = []
    if words:
        parts.append((f"{count(shown)} with: {safe_text(words, 60)}", "accent"))
    if marked:
        also = " compares them" if len(marked) > 1 else " compares it with the one under the cursor"
        parts += [(f"{'   ' if parts else ''}{len(marked)} marked, ", "accent"), ("C", "accent"), (also, "dim")]
    if not parts and runs.runs:
        parts.append((f"by {sort}", "dim"))
    if runs.num_unreadable:
        parts.append((f"   {plural(runs.num_unreadable, 'directory', 'directories')} cannot be read", "warning"))
    if runs.is_cut:
        parts.append(("   there are more than are looked at: watch a directory below", "warning"))
    return parts


def header_lines(name: str, counts: Sequence[Sequence[Part]], news: Sequence[Part], width: int) -> list[Cells]:
    """As many counts as there is room for; below them the news, and the name of the directory where it fits."""
    room = width - 2
    top: list[Part] = [(" ", "")]
    for index, fact in enumerate(counts):
        used = sum(cell_width(words) for words, _ in fact) + (3 if index else 0)
        if used > room - (4 if index + 1 < len(counts) else 0):
            top.append((f"  +{len(counts) - index}", "dim"))
            break
        room -= used
        top += [("   ", ""), *fact] if index else fact
    spare = width - 2 - sum(cell_width(words) for words, _ in news) - 3
    if spare < 8:
        return [tuple(top), ((" ", ""), *news)]
    shown = fit(name, min(cell_width(name), spare), keep="end")
    gap = " " * (spare + 3 - cell_width(shown))
    return [tuple(top), ((" ", ""), *news, (gap, ""), (shown, "dim"))]
