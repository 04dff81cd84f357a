"""Sessions to scale: what each trained, lost, skipped and trained again, with what its end cost in words; and, when
the run is over before its end, what a resume would skip, redo and do new, on the same scale."""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_tui.run.state import Phase, RunState, Session
from ckpt_tui.run.timeline import resume_outlook
from ckpt_tui.text import cell_width, count, duration, fit, plural, short_count
from ckpt_tui.tui.facts import checkpoint_words, phase_words
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget, cut, rule

# part -> (glyph, without unicode, role)
PARTS = {
    "skipped": ("░", ".", "track"),
    "trained": ("■", "=", "good"),
    "retrained": ("▓", "+", "accent"),
    "lost": ("▒", "%", "error"),
    "saved": ("●", "o", ""),
    "resumed": ("↻", ">", "accent"),
    "crashed": ("✖", "X", "error"),
    "stopped": ("■", "#", "warning"),
    "here": ("▶", ">", "good"),
    "new": ("□", "-", "good"),
    "nothing": (" ", " ", ""),
}
LEGEND = ("trained", "lost", "retrained", "skipped")
MIN_BAR = 12
WIDE = 100
Words = list[tuple[str, str]]


def bar_of(session: Session, total_steps: int, width: int) -> list[str]:
    """The part that each of `width` cells shows; the whole bar is `total_steps` long."""
    total = max(total_steps, session.last_step, 1)

    def cell(step: int) -> int:
        return max(min(int(step / total * width), width - 1), 0)

    parts = ["nothing"] * width
    lost_from = max(session.last_step - session.lost_steps, session.start_step)  # what came before is not its own
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
        own = cell(session.start_step) if session.start_step > 0 else -1
        first = max(min(cell(lost_from), cell(session.last_step) - 2), own)
        if first >= 0:
            parts[first] = "saved"
            parts[first + 1 : cell(session.last_step)] = ["lost"] * (cell(session.last_step) - first - 1)
    if session.retrained_steps and cell(session.start_step) + 1 < cell(session.last_step):
        parts[cell(session.start_step) + 1] = "retrained"
    if session.start_step > 0:
        parts[cell(session.start_step)] = "resumed"
    if session.phase in (Phase.CRASHED, Phase.FAILED, Phase.DIVERGED):
        parts[cell(session.last_step)] = "crashed"
    elif session.phase in (Phase.INTERRUPTED, Phase.PREEMPTED):
        parts[cell(session.last_step)] = "stopped"
    elif not session.phase.is_over:
        parts[cell(session.last_step)] = "here"
    return parts


def has_outlook(state: RunState) -> bool:
    """Whether there is something left that a resume would do."""
    if not state.phase.is_over or state.phase is Phase.FINISHED or state.at_risk is None:
        return False
    outlook = resume_outlook(state)
    return outlook.redone + outlook.new > 0


def outlook_bar(state: RunState, total_steps: int, width: int) -> list[str]:
    """What a resume now would do, on the scale of the sessions above it."""
    outlook = resume_outlook(state)
    total = max(total_steps, outlook.step + outlook.redone + outlook.new, 1)

    def cell(step: int) -> int:
        return max(min(int(step / total * width), width - 1), 0)

    first, again_to = cell(outlook.step), cell(outlook.step + outlook.redone)
    parts = ["skipped"] * first + ["retrained"] * (again_to - first)
    parts += ["new" if outlook.new else "nothing"] * (width - len(parts))
    if outlook.redone and again_to <= first + 1 < width:
        parts[first + 1] = "retrained"  # however few
    parts[first] = "resumed"
    return parts


def words_of(session: Session, state: RunState, *, unicode: bool = True, tells_now: bool = False) -> Words:
    """`✖ crashed`, `5,120`, `lost 120 steps, 6.5 s`, `from rolling 5,000`: phase, last step, and the rest.

    tells_now: also where one that is alive has come to. It is in the header, and told here, too, is sent every second:
    only where there is room to spare.
    """
    phase, role = phase_words(session.phase, unicode=unicode)
    words = [(phase, role), (count(session.last_step) if session.phase.is_over or tells_now else "", "")]
    if session.lost_steps and state.is_whole:  # else nobody knows yet which checkpoint came before
        # No time is told where no two steps were: nobody knows the pace.
        seconds = f", {duration(session.lost_s)}" if session.lost_s > 0 else ""
        words.append((f"lost {plural(session.lost_steps, 'step')}{seconds}", "error"))
    if session.resumed_from:
        # What that name held when the session began: `latest.pt` has been many checkpoints since.
        held = [save for save in state.saves if save.step == session.start_step and save.ts <= session.start_ts]
        words.append((f"from {checkpoint_words(session.resumed_from, held)}", "dim"))
    return words


def outlook_words(state: RunState, *, unicode: bool = True) -> Words:
    """`↻ resume`, `9,250`, `redoes 127, then 3,323 new`."""
    outlook = resume_outlook(state)
    parts = [f"redoes {count(outlook.redone)}"] if outlook.redone else []
    parts += [f"{count(outlook.new)} new"] if outlook.new else []
    return [
        (f"{'↻' if unicode else '>'} resume", "accent"), (count(outlook.step), ""), (", then ".join(parts), "dim"),
    ]  # fmt: skip


class SessionLanes(LinesWidget):
    """A rule, and the newest sessions that fit, oldest first."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self._state: RunState | None = None

    def set_state(self, state: RunState) -> None:
        self._state = state
        self.show()

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        if self._state is None:
            return [rule("sessions", (), width, unicode=self.unicode)]
        return lane_lines(self._state, width, height, unicode=self.unicode)


def lane_lines(state: RunState, width: int, height: int, *, unicode: bool = True) -> list[Cells]:
    """The rule and the lanes in `height` lines of `width` cells."""
    outlook = has_outlook(state) and height > 2
    room = max(height - 1 - outlook, 0)
    sessions = state.sessions[-room:] if room else ()
    lines = [rule(*_title(state, len(sessions), width, unicode), width, unicode=unicode)]
    total = max(state.total_steps, state.step, *(session.last_step for session in state.sessions), 1)
    tells_now = width >= WIDE
    rows = [
        (f"{session.number:>3} ", words_of(session, state, unicode=unicode, tells_now=tells_now))
        for session in sessions
    ]
    if outlook:
        rows.append(("    ", outlook_words(state, unicode=unicode)))
    if not rows:
        return lines
    phase_width = max(cell_width(words[0][0]) for _, words in rows)
    step_width = max(*(cell_width(words[1][0]) for _, words in rows), min(len(count(total)), 9))
    # The words are facts, the bar is a picture: the bar gives way first, and of two facts the second before it.
    room = width - 4 - phase_width - step_width - 5
    rest_width = max(_joined_width(words[2:]) for _, words in rows)
    if room - rest_width - 2 < width // 3:
        rows = [(number, words[:3]) for number, words in rows]
        rest_width = max(_joined_width(words[2:]) for _, words in rows)
    bar_width = max(room - (rest_width + 2 if rest_width else 0), min(MIN_BAR, max(width - 6, 1)))
    bars = [bar_of(session, total, bar_width) for session in sessions]
    if outlook:
        bars.append(outlook_bar(state, total, bar_width))
    for (number, words), bar in zip(rows, bars, strict=True):
        cells: Words = [(number, "dim"), *_drawn(bar, unicode), ("  ", "")]
        cells += [(fit(words[0][0], phase_width), words[0][1]), (f"  {words[1][0]:>{step_width}}", words[1][1])]
        for text, role in words[2:]:
            cells += [("  ", ""), (text, role)]
        lines.append(cut(cells, width))
    return lines[:height]


def _title(state: RunState, num_shown: int, width: int, unicode: bool) -> tuple[str, Words]:
    """What the rule says: which sessions are shown, what all of them lost, and what the glyphs mean."""
    num_sessions = len(state.sessions)
    title = "sessions"
    if 0 < num_shown < num_sessions:
        first, last = state.sessions[-num_shown].number, state.sessions[-1].number
        title += f" {first}-{last} of {num_sessions}" if num_shown > 1 else f" {last} of {num_sessions}"
    lost = state.lost
    if not state.is_whole:
        title += ": earlier ones are not read yet"
    elif lost.steps:
        title += f": lost {plural(lost.steps, 'step') if lost.steps < 1_000_000 else short_count(lost.steps)}"
        title += f", {duration(lost.seconds)}" if lost.seconds > 0 else ""
        if lost.overhead is not None and lost.overhead > 0 and width >= WIDE:
            goodput = lost.goodput if lost.goodput is not None else 1 / (1 + lost.overhead)
            title += f", {100 * lost.overhead:.0f} % overhead, goodput {100 * goodput:.0f} %"
    legend: Words = []
    if num_sessions > 1 or lost.steps or has_outlook(state):
        gap = "  " if width >= WIDE else " "
        for index, name in enumerate((*LEGEND, "new") if has_outlook(state) else LEGEND):
            glyph, plain, role = PARTS[name]
            legend.append((f"{gap if index else ''}{glyph if unicode else plain} {name}", role))
    return title, legend


def _joined_width(words: Sequence[tuple[str, str]]) -> int:
    return sum(cell_width(text) for text, _ in words) + 2 * max(len(words) - 1, 0)


def _drawn(bar: Sequence[str], unicode: bool) -> Words:
    """A bar as runs of one role each."""
    runs: Words = []
    for part in bar:
        glyph, plain, role = PARTS[part]
        char = glyph if unicode else plain
        if runs and runs[-1][1] == role:
            runs[-1] = (runs[-1][0] + char, role)
        else:
            runs.append((char, role))
    return runs
