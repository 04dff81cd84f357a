"""The lines that answer "is it fine?": how it stands, how far it is, what is at risk; after a crash, what now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from textual import events
from textual.message import Message

from ckpt_tui.run import wording
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.text import cell_width, fit, safe_text
from ckpt_tui.tui import facts
from ckpt_tui.tui.facts import Part
from ckpt_tui.tui.news import News, between_news, end_news
from ckpt_tui.tui.supervised import Supervised
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget, cut

MAX_LINES = 10
MIN_TWO_LINES = 60
_PLAIN = str.maketrans({"▲": "!", "±": "~", "…": "~"})


def header_lines(
    state: RunState,
    width: int,
    *,
    listed_as: str = "",
    progress: float | None = None,
    failure: News | None = None,
    damages: Sequence[News] = (),
    troubles: Sequence[News] = (),
    next_keys: News | None = None,
    has_checkpoints: bool = False,
    supervised: Supervised | None = None,
    most: int = MAX_LINES,
    unicode: bool = True,
) -> list[Cells]:
    """The header in `width` cells and at most `most` lines; what is left out is what matters least.

    listed_as: its name in the list that it was opened from. Copies of a run share the one that they give themselves.
    progress: the part of the log that is read, None when all of it. failure: the log or the directory cannot be read.
    damages: of checkpoints. troubles: alerts, and what is wrong with the log. next_keys: said where the run is over.
    has_checkpoints: there are files, whatever the log says.
    """
    room = max(width - 2, 1)
    name = safe_text(listed_as or state.name or PurePath(state.directory).name or "run", 60)
    first, is_told = _first_line(state, name, width, progress, unicode)
    news: list[News] = [failure] if failure is not None else []
    if progress is not None and not is_told:
        news.append(News(((reading_words(progress),),), 1))
    if state.phase is Phase.WAITING:
        if progress is None and failure is None:
            news.append(_waiting(state, has_checkpoints))
        news += [*damages, *troubles]
        if next_keys is not None:
            news.append(next_keys)
    elif state.phase.is_over:
        news += end_news(state, damages)
        if supervised is not None:
            news.append(_supervised(supervised))
        if state.phase is Phase.FINISHED:
            news += damages
            news += _lines_of_facts([*facts.pace_facts(state), *facts.risk_facts(state)], room, 2)
        elif next_keys is not None:
            news.append(next_keys)
        news += troubles
    else:
        reason = wording.reason_sentence(state, is_ticking=False)
        if state.phase.is_between:
            news += between_news(state)
        elif reason is not None:
            said = safe_text(state.reason, 200)
            silent = said.split(";")[0]
            news.append(News((((reason[0], "warning"),), ((said, "warning"),), ((silent, "warning"),)), 1))
        if width >= MIN_TWO_LINES:  # what it does, and below it what would be lost
            news += _lines_of_facts(facts.pace_facts(state), room, 1) + _lines_of_facts(
                facts.risk_facts(state), room, 1
            )
        else:
            risks = facts.risk_facts(state)
            urgent = [fact for fact in risks if fact[0][-1][1] in ("warning", "error")]
            calm = [fact for fact in risks if fact not in urgent]
            news += _lines_of_facts(calm, room, 1) if calm or not state.phase.is_between else []
            news += _lines_of_facts(urgent, room, 1) if urgent else []
            news += _lines_of_facts([fact for fact in facts.pace_facts(state) if _is_wanted(fact)], room, 1)
        if supervised is not None and not state.phase.is_between:  # then it is said above what it does
            news.append(_supervised(supervised))
        news += [*damages, *troubles]
    return [first, *_fitted(news, room, most - 1, unicode)]


def reading_words(progress: float) -> Part:
    """`reading the log, 41 %`."""
    return f"reading the log, {100 * progress:.0f} %", "accent"


def _waiting(state: RunState, has_checkpoints: bool) -> News:
    goes_on = "this goes on by itself when the training writes its log."
    if has_checkpoints:
        words = f"No event log here: the checkpoints are read from their files; {goes_on}"
        return News((((words, "dim"),), (("No event log here: only the checkpoints are known.", "dim"),)), 0)
    if state.next_start is not None:
        coming = wording.coming_words(state.next_start, state.now, is_ticking=False)
        return News((((f"No events yet: {coming}; {goes_on}", "dim"),), ((f"No events yet: {coming}.", "dim"),)), 0)
    return News((((f"No events yet: {goes_on}", "dim"),), (("No events yet; it goes on by itself.", "dim"),)), 0)


def _supervised(found: Supervised) -> News:
    words = found.words[:1].upper() + found.words[1:]
    role = "warning" if found.is_bad else "accent" if found.is_in_charge else ""
    return News((((f"{words}.", role),), ((f"{words.partition(' (')[0]}.", role),)), 1 if found.is_in_charge else 3)


def _is_wanted(fact: facts.Fact) -> bool:
    """On a narrow screen: when it ends, and how it learns."""
    return fact[0][0][0] in ("eta ", "loss ")


def _lines_of_facts(fact_list: Sequence[facts.Fact], room: int, most: int) -> list[News]:
    """Facts on up to `most` lines; always one, so that nothing below moves."""
    lines: list[News] = []
    rest = list(fact_list)
    while rest and len(lines) < most:
        taken = len(rest) if len(lines) == most - 1 else 1
        while taken < len(rest) and facts.parts_width(_plain_line(rest[: taken + 1])) <= room:
            taken += 1
        lines.append(News((tuple(facts.packed(rest[:taken], room)),), 0))
        rest = rest[taken:]
    return lines or [News(((),), 0)]


def _plain_line(fact_list: Sequence[facts.Fact]) -> list[Part]:
    """The facts as they would stand on a line, in full."""
    return [part for index, fact in enumerate(fact_list) for part in ([("  ", "")] * bool(index) + fact[0])]


def _fitted(news: Sequence[News], room: int, most: int, unicode: bool) -> list[Cells]:
    """One line of each, those that matter least left out; what is cut gets a second line where one is left."""
    kept = list(news)
    while len(kept) > most:
        worst = max(range(len(kept)), key=lambda index: (kept[index].rank, index))
        if kept[worst].rank == 0 and most < 1:
            return []
        kept.pop(worst)
    spare = most - len(kept)
    chosen: dict[int, list[Cells]] = {}
    for index in sorted(range(len(kept)), key=lambda one: kept[one].rank):
        variants = kept[index].variants
        whole = variants[: len(variants) - kept[index].num_brief]
        fits = next((parts for parts in whole if facts.parts_width(parts) <= room), None)
        if fits is not None:
            chosen[index] = [_line(fits, room)]
            continue
        lines = min((_wrapped(parts, room) for parts in whole), key=len)
        allowed = 1 + min(spare, 2)
        if len(lines) > allowed:
            lines = _wrapped(variants[-1], room)
            lines = [*lines[: allowed - 1], _cut_rest(lines[allowed - 1 :])] if len(lines) > allowed else lines
        spare -= len(lines) - 1
        chosen[index] = [_line(parts, room) for parts in lines]
    made = [line for index in range(len(kept)) for line in chosen[index]]
    return made if unicode else [tuple((text.translate(_PLAIN), role) for text, role in line) for line in made]


def _wrapped(parts: Sequence[Part], room: int) -> list[list[Part]]:
    """`parts` broken between words into lines of `room` cells."""
    lines: list[list[Part]] = [[]]
    used = 0
    for text, role in parts:
        for position, word in enumerate(text.split(" ")):
            lead = " " if position else ""
            have = cell_width(word) + len(lead)
            if used and used + have > room and word:
                lines.append([])
                used, lead, have = 0, "", cell_width(word)
            line = lines[-1]
            if line and line[-1][1] == role:
                line[-1] = (line[-1][0] + lead + word, role)
            else:
                line.append((lead + word, role))
            used += have
    return lines


def _cut_rest(lines: Sequence[Sequence[Part]]) -> list[Part]:
    """Lines that have no room of their own, as one that is cut where the room ends."""
    rest = list(lines[0])
    for line in lines[1:]:
        rest += [(" ", ""), *line]
    return rest


def _first_line(
    state: RunState, name: str, width: int, progress: float | None, unicode: bool
) -> tuple[Cells, bool]:  # fmt: skip
    """Name, state, progress, and the bar; while the log is read, how far that is, where the bar would be."""
    if state.phase.is_over:
        statuses = facts.ended_variants(state, unicode=unicode)
    else:
        words, role = facts.phase_words(state.phase, unicode=unicode)
        statuses = [[(f"{words:<10}", role)], [(words, role)]]
    steps = facts.progress_variants(state)
    name_width = max(min(cell_width(name), width // 4), 3)
    last = len(statuses) - 1
    choices = [(s, p) for p in range(len(steps)) for s in range(min(last, 1) + 1)]
    choices.append((last, len(steps) - 1))
    status, step = statuses[last], steps[-1]
    for s, p in choices:
        gap = 2 if steps[p] else 0
        if 1 + name_width + 2 + facts.parts_width(statuses[s]) + gap + facts.parts_width(steps[p]) <= width:
            status, step = statuses[s], steps[p]
            break
    parts: list[Part] = [(" ", ""), (fit(name, name_width), "strong"), ("  ", ""), *status]
    if step:
        needed = facts.parts_width([*parts, *step])
        parts += [("   " if needed + 3 <= width else "  ", ""), *step]
    used = facts.parts_width(parts)
    if progress is not None:
        reading = reading_words(progress)
        if used + 2 + cell_width(reading[0]) <= width:
            return cut([*parts, ("  ", ""), reading], width), True
        return cut(parts, width), False
    bar_width = min(width - used - 3, 60)
    if bar_width >= 8 and state.total_steps > 0:
        parts += [("  ", ""), *progress_bar(state.step / state.total_steps, bar_width, unicode)]
    return cut(parts, width), False


def progress_bar(fraction: float, width: int, unicode: bool) -> list[Part]:
    """`━━━━━╸────`, in halves of a cell."""
    halves = int(min(max(fraction, 0.0), 1.0) * width * 2)
    full, half = divmod(halves, 2)
    if not unicode:
        return [("=" * full, "accent"), ("-" * (width - full), "track")]
    return [("━" * full + "╸" * half, "accent"), ("─" * (width - full - half), "track")]


def _line(parts: Sequence[Part], room: int) -> Cells:
    """`parts` indented by one, cut where the room ends."""
    return ((" ", ""), *cut(parts, room))


def key_at(lines: Sequence[Cells], x: int, y: int) -> str:
    """The key whose words are at a place: the last before it in its line that is told as one; "" where none is."""
    key, start = "", 0
    for text, role in lines[y] if 0 <= y < len(lines) else ():
        if role == "accent" and text.strip():
            key = text.strip()
        start += cell_width(text)
        if x < start:
            return key if text.strip() else ""
    return ""


class Header(LinesWidget):
    """As many lines as it needs; its height changes only when the kind of news does."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self._state: RunState | None = None
        self._more: dict[str, Any] = {}
        self.most = MAX_LINES
        self._made: tuple[tuple[int, int], list[Cells]] | None = None  # for a width and a number of lines

    def set_state(self, state: RunState, **more: Any) -> None:
        """What is shown from now on. more: as for `header_lines()`."""
        self._state, self._more = state, more
        self._made = None
        self.show()

    def num_lines(self, width: int, most: int) -> int:
        """How many lines it has to say, of `most`."""
        self.most = most
        return len(self.lines_now(width, most)[:most])

    class Pressed(Message):
        """A click on a key that is told, or on what it does. `key` is as it is written."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def on_click(self, event: events.Click) -> None:
        pressed = key_at(self.lines_now(self.size.width, self.size.height), event.x, event.y)
        if pressed:
            event.stop()
            self.post_message(self.Pressed(pressed))

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        if self._state is None:
            return [((" opening ...", "dim"),), (), ()]
        asked = (width, self.most)
        if self._made is None or self._made[0] != asked:
            made = header_lines(self._state, width, most=self.most, unicode=self.unicode, **self._more)
            self._made = (asked, made)
        return self._made[1]
