"""How often to save: what to do, what was measured, what each interval costs and puts at risk. The figures of `advise`.

Made anew while it is open when the run has saved or ended again; the words stay where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen

from ckpt_tui.run.state import RunState
from ckpt_tui.text import cell_width, duration, fit, percent, plural
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import OfTheWatch
from ckpt_tui.tui.copying import Copied
from ckpt_tui.tui.styled import Part, line, lines
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.rule import RuleLine
from ckpt_tui.tui.widgets.words import Words

if TYPE_CHECKING:
    from ckpt_tui.run.advice import Advice

LOOK_INTERVAL_S = 2.0
MAX_FAILURES = 10

Row = tuple[Part, ...]


def advice_rows(advice: Advice, width: int, *, unicode: bool = True) -> list[Row]:
    """The screen's lines in `width` cells."""
    import textwrap

    from ckpt_tui.run.advice import measured_sentences, recommendation

    words, is_known = recommendation(advice)
    rows: list[Row] = [((words, "good" if is_known else "warning"),)]
    if table := what_if_rows(advice, width, unicode=unicode):
        rows += [(), *table]
    if advice.failures:
        rows += [(), *failure_rows(advice, width)]
    rows.append(())
    for sentence in measured_sentences(advice):
        rows += [(part,) for part in textwrap.wrap(sentence, width)]
    rows.append(())
    for sentence in advice.assumptions:
        for number, part in enumerate(textwrap.wrap(sentence, max(width - 2, 10))):
            rows.append((("  " if number else "- ", "dim"), (part, "dim")))
    return rows


def what_if_rows(advice: Advice, width: int, *, unicode: bool = True) -> list[Row]:
    """The table, the recommended interval marked; what is at risk drawn to scale where there is room."""
    if not advice.what_if:
        return []
    from ckpt_tui.run.advice import WHAT_IF_TITLES, what_if_cells

    table: list[tuple[str, ...]] = [WHAT_IF_TITLES, *(what_if_cells(row) for row in advice.what_if)]
    # Where it is narrow: the steps are in the label already, and the time says more than what it costs.
    for columns in ((0, 1, 2, 3), (0, 2, 3), (0, 2)):
        widths = [max(cell_width(row[column]) for row in table) for column in columns]
        room = width - 2 - sum(widths) - 2 * len(columns)
        if room >= -2:
            break
    table = [tuple(row[column] for column in columns) for row in table]
    most = max(row.seconds for row in advice.what_if)
    found: list[Row] = []
    for number, cells in enumerate(table):
        said = cells[0] + " " * (widths[0] - cell_width(cells[0]))
        for cell, cell_cells in zip(cells[1:], widths[1:], strict=True):
            said += "  " + " " * (cell_cells - cell_width(cell)) + cell
        if not number:
            found.append(((f"  {said}", "dim"),))
            continue
        row = advice.what_if[number - 1]
        is_best = row.steps == advice.recommended_steps
        mark = ("★ " if unicode else "* ") if is_best else "  "
        parts: list[Part] = [(mark, "good"), (said, "good" if is_best else "")]
        if room >= 8 and most > 0:
            filled = max(1, round(room * row.seconds / most))
            parts.append(("  " + ("▒" if unicode else "%") * filled, "good" if is_best else "warning"))
        found.append(tuple(parts))
    return found


def failure_rows(advice: Advice, width: int) -> list[Row]:
    """What failures cost, against what was predicted, the newest first."""
    newest = list(reversed(advice.failures))[:MAX_FAILURES]
    table = [("failure of", "lost", "time", "predicted")]
    table += [
        (f"session {one.session}", plural(one.steps, "step"), duration(one.seconds), duration(one.predicted_s))
        for one in newest
    ]
    widths = [max(cell_width(row[column]) for row in table) for column in range(4)]
    rows: list[Row] = []
    if 2 + sum(widths) + 2 * 3 > width:
        rows = [(f"{session} lost {lost}, {took}",) for session, lost, took, _ in table[1:]]
    else:
        for number, row in enumerate(table):
            said = "  " + fit(row[0], widths[0])
            said += "".join("  " + fit(cell, cells, "right") for cell, cells in zip(row[1:], widths[1:], strict=True))
            rows.append(((said, "dim" if not number else ""),))
    if len(advice.failures) > MAX_FAILURES:
        rows.append(((f"  and {len(advice.failures) - MAX_FAILURES} before", "dim"),))
    return rows


class AdviceScreen(OfTheWatch, Screen[None]):
    """Opened over the overview."""

    CSS = """
    AdviceScreen {
        #advice_rule { height: 1; }
        #advice { height: 1fr; padding: 0 1; }
    }
    """
    AUTO_FOCUS = "#advice"
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.ADVICE_KEYS)

    def __init__(self) -> None:
        super().__init__()
        self._shown: object = None

    def compose(self) -> ComposeResult:
        yield RuleLine(unicode=self.cockpit.look.unicode, id="advice_rule")
        with VerticalScroll(id="advice"):
            yield Words(id="advice_words")
        yield KeyLine()

    def on_mount(self) -> None:
        self._look()
        self.set_interval(LOOK_INTERVAL_S, self._look)

    def on_resize(self) -> None:
        self._shown = None
        self._look()

    def _look(self) -> None:
        """A pace changes every second and means nothing here: only saves, failures and the width are news."""
        state = self.cockpit.state
        looks = state and (len(state.saves), state.saves[-1:], len(state.sessions), state.phase, state.is_whole)
        if looks == self._shown and self._shown is not None:
            return
        self._shown = looks
        self.query_one("#advice_rule", RuleLine).set("how often to save", self._rule_parts(state))
        self.query_one("#advice_words", Words).update(self._content(state))

    def _rule_parts(self, state: RunState | None) -> list[tuple[str, str]]:
        lost = state.lost if state is not None else None
        if lost is None or lost.overhead is None or not lost.steps:
            return []
        return [(f"{percent(lost.overhead)} overhead", "warning"), (f"  goodput {percent(lost.goodput)}", "dim")]

    def _content(self, state: RunState | None) -> Content:
        if state is None or not state.num_events:
            return line(("Nothing to go by yet: advice comes from a run's own saves and failures.", "dim"))
        from ckpt_tui.run.advice import advise

        width = max(self.size.width - 4, 20)
        rows = advice_rows(advise(state), width, unicode=self.cockpit.look.unicode)
        if not state.is_whole:
            rows.insert(0, (("The log is still being read: this is of its newest part.", "warning"),))
        return lines(*(line(*row) if row else Content("") for row in rows))

    def to_copy(self) -> Copied | None:
        state = self.cockpit.state
        return Copied("advice", self._content(state).plain) if state is not None else None

    def action_leave(self) -> None:
        self.dismiss(None)
