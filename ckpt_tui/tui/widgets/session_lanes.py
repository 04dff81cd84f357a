"""Sessions to scale: what each trained, lost, skipped and trained again, with what its end cost in words."""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_tui.run.state import Phase, RunState, Session
from ckpt_tui.text import count, duration, plural
from ckpt_tui.tui.facts import checkpoint_words, phase_words
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget

# part -> (glyph, without unicode, role)
PARTS = {
    "skipped": ("░", ".", "track"),
    "trained": ("■", "=", "good"),
    "retrained": ("▓", "+", "accent"),
    "lost": ("▒", "%", "error"),
    "saved": ("●", "o", ""),
    "resumed": ("↻", ">", "accent"),
    "crashed": ("✖", "X", "error"),
    "here": ("▶", ">", "good"),
    "nothing": (" ", " ", ""),
}
LEGEND = ("trained", "lost", "retrained", "skipped")


def bar_of(session: Session, total_steps: int, width: int) -> list[str]:
    """The part that each of `width` cells shows; the whole bar is `total_steps` long."""
    total = max(total_steps, session.last_step, 1)

    def cell(step: int) -> int:
        return min(int(step / total * width), width - 1)

    parts = ["nothing"] * width
    lost_from = session.last_step - session.lost_steps
    retrained_to = session.start_step + session.retrained_steps
    for index in range(cell(session.last_step) + 1):
        middle = (index + 0.5) * total / width
        if middle < session.start_step:
            parts[index] = "skipped"
        elif middle < retrained_to:
            parts[index] = "retrained"
        elif session.lost_steps and middle > lost_from:
            parts[index] = "lost"
        else:
            parts[index] = "trained"
    for step, reached in session.gone_back:
        again_to = cell(min(reached, session.last_step))
        parts[cell(step) : again_to + 1] = ["retrained"] * (again_to + 1 - cell(step))
    if session.lost_steps:
        # However few, lost and retrained steps are seen.
        first = min(cell(lost_from), cell(session.last_step) - 2)
        if first >= 0:
            parts[first] = "saved"
            parts[first + 1 : cell(session.last_step)] = ["lost"] * (cell(session.last_step) - first - 1)
    if session.retrained_steps and cell(session.start_step) + 1 < cell(session.last_step):
        parts[cell(session.start_step) + 1] = "retrained"
    if session.start_step:
        parts[cell(session.start_step)] = "resumed"
    if session.phase is Phase.CRASHED:
        parts[cell(session.last_step)] = "crashed"
    elif not session.phase.is_over:
        parts[cell(session.last_step)] = "here"
    return parts


def words_of(session: Session, state: RunState, *, unicode: bool = True) -> list[tuple[str, str]]:
    """`✖ crashed   5,120  lost 120 steps, 6.5 s`, in columns."""
    phase, role = phase_words(session.phase, unicode=unicode)
    words = [(f"{phase:<13}", role), (f"{count(session.last_step):>7}  ", "")]
    if session.lost_steps:
        words.append((f"lost {plural(session.lost_steps, 'step')}, {duration(session.lost_s)}", "error"))
    elif session.resumed_from:
        # What that name held when the session began: `latest.pt` has been many checkpoints since.
        held = [save for save in state.saves if save.step == session.start_step and save.ts <= session.start_ts]
        words.append((f"from {checkpoint_words(session.resumed_from, held)}", "dim"))
    return words


class SessionLanes(LinesWidget):
    """The newest sessions that fit, oldest first."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self._state: RunState | None = None

    def set_state(self, state: RunState) -> None:
        self._state = state
        self.show()

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        state = self._state
        if state is None:
            return []
        total = max(state.total_steps, state.step, *(session.last_step for session in state.sessions), 1)
        words_width = 46 if width >= 76 else 22
        bar_width = max(width - 4 - words_width - 1, 8)
        lines = []
        for session in state.sessions[-height:]:
            runs: list[tuple[str, str]] = [(f"{session.number:>3} ", "dim")]
            for part in bar_of(session, total, bar_width):
                glyph, plain, role = PARTS[part]
                char = glyph if self.unicode else plain
                if runs[-1][1] == role and len(runs) > 1:
                    runs[-1] = (runs[-1][0] + char, role)
                else:
                    runs.append((char, role))
            lines.append((*runs, (" ", ""), *words_of(session, state, unicode=self.unicode)))
        return lines
