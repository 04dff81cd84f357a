"""The lines that answer "is it fine?": how it stands, how far it is, what is at risk; after a crash, what now."""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.text import cell_width, fit, safe_text
from ckpt_tui.tui import facts
from ckpt_tui.tui.facts import Part
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget


def header_lines(
    state: RunState,
    width: int,
    *,
    progress: float | None = None,
    warnings: Sequence[Sequence[Part]] = (),
    keys: Sequence[tuple[str, str]] = (),
    unicode: bool = True,
) -> list[Cells]:
    """The header in `width` cells.

    progress: the part of the log that is read, None when all of it. warnings: what is known of the files besides.
    keys: (key, what it does), said where the run is over and not finished.
    """
    lines = [_first_line(state, width, unicode)]
    room = width - 2
    if progress is not None:
        lines.append(_line([(f"reading the log, {progress:.0%}", "accent")], room))
    if state.phase is Phase.WAITING:
        if progress is None:
            lines.append(
                _line([("No events yet. This goes on by itself when the training writes its log.", "dim")], room)
            )
        return [*lines, *(_line(warning, room) for warning in warnings)]
    if state.phase.is_over:
        lines += [_line(sentence, room) for sentence in facts.end_sentences(state)]
        lines += [_line(warning, room) for warning in warnings]
        if state.phase is Phase.FINISHED:
            lines += _packed([*facts.pace_parts(state), *facts.risk_parts(state)], room)
        elif keys:
            lines.append(_keys_line(keys, room))
    else:
        if state.phase is Phase.STALLED and state.reason:
            lines.append(_line([(safe_text(state.reason, 300), "warning")], room))
        if width >= 60:
            lines += _packed(facts.pace_parts(state), room, most=1) + _packed(facts.risk_parts(state), room, most=1)
        else:  # what is at risk, when it ends, how it learns: one line each
            lines += _packed(facts.risk_parts(state), room, most=1)
            lines += _packed([fact[:2] for fact in facts.pace_parts(state) if fact[0][0] in ("eta ", "loss ")], room)
        lines += [_line(warning, room) for warning in warnings]
    trouble = facts.trouble_parts(state)
    if trouble:
        more = f"   + {len(trouble) - 1} more" if len(trouble) > 1 else ""
        text, role = trouble[0]
        mark = "▲ " if unicode else "! "
        lines.append(_line([(mark, role), (fit(text, room - 2 - len(more)).rstrip(), role), (more, "dim")], room))
    return lines


def _first_line(state: RunState, width: int, unicode: bool) -> Cells:
    name = safe_text(state.name or "run", 60)
    progress = facts.progress_parts(state)
    if state.phase.is_over and (state.phase is not Phase.FINISHED or width >= 60):
        status = facts.ended_parts(state)
    else:
        words, role = facts.phase_words(state.phase, unicode=unicode)
        status = [(f"{words:<10}", role)]
    name_width = max(min(cell_width(name), width // 4), 3)
    parts: list[Part] = [(" ", ""), (fit(name, name_width), "strong"), ("  ", ""), *status]
    used = sum(cell_width(text) for text, _ in parts)
    needed = sum(cell_width(text) for text, _ in progress)
    if used + needed + 2 > width:
        if len(status) > 1 and used + needed + 2 - cell_width(status[-1][0]) <= width:
            parts.pop()
            used -= cell_width(status[-1][0])
        elif progress and used + 7 <= width:
            progress = progress[-1:]
            needed = cell_width(progress[0][0])
        else:
            progress = []
            needed = 0
    if progress:
        gap = 3 if used + needed + 4 <= width else 1
        parts += [(" " * gap, ""), *progress]
        used += needed + gap
    bar_width = min(width - used - 4, 60)
    if bar_width >= 8 and state.total_steps:
        parts += [("  ", ""), *progress_bar(state.step / state.total_steps, bar_width, unicode)]
    return _cut(parts, width)


def progress_bar(fraction: float, width: int, unicode: bool) -> list[Part]:
    """`━━━━━╸────`, in halves of a cell."""
    halves = int(min(max(fraction, 0.0), 1.0) * width * 2)
    full, half = divmod(halves, 2)
    if not unicode:
        return [("=" * full, "accent"), ("-" * (width - full), "track")]
    return [("━" * full + "╸" * half, "accent"), ("─" * (width - full - half), "track")]


def _line(parts: Sequence[Part], room: int) -> Cells:
    """`parts` indented by one, cut where the room ends."""
    return ((" ", ""), *_cut(parts, room))


def _cut(parts: Sequence[Part], room: int) -> Cells:
    cells: list[Part] = []
    for text, role in parts:
        have = cell_width(text)
        if have > room:
            cells.append((fit(text, room), role))
            break
        cells.append((text, role))
        room -= have
    return tuple(cells)


def _packed(fact_list: Sequence[Sequence[Part]], room: int, most: int = 2) -> list[Cells]:
    """Facts on up to `most` lines; always at least one, so that nothing below moves."""
    lines: list[Cells] = []
    rest = list(fact_list)
    while rest and len(lines) < most:
        taken = 1
        while taken < len(rest) and _fits(rest[: taken + 1], room):
            taken += 1
        lines.append(_line(facts.join_facts(rest[:taken], room), room))
        rest = rest[taken:]
    return lines or [()]


def _width(parts: Sequence[Part]) -> int:
    return sum(cell_width(text) for text, _ in parts)


def _fits(fact_list: Sequence[Sequence[Part]], room: int) -> bool:
    whole = sum(_width(fact) for fact in fact_list)
    return whole + 2 * (len(fact_list) - 1) <= room


def _keys_line(keys: Sequence[tuple[str, str]], room: int) -> Cells:
    parts: list[Part] = []
    for key, what in keys:
        parts += [(f"  {key}", "accent"), (f" {what}  ", "")]
    return _line(parts, room)


class Header(LinesWidget):
    """As many lines as it needs; its height changes only when the kind of news does."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self.unicode = unicode
        self._state: RunState | None = None
        self._progress: float | None = None
        self._warnings: Sequence[Sequence[Part]] = ()
        self._keys: Sequence[tuple[str, str]] = ()

    def set_state(
        self,
        state: RunState,
        progress: float | None,
        warnings: Sequence[Sequence[Part]],
        keys: Sequence[tuple[str, str]],
    ) -> None:
        self._state, self._progress, self._warnings, self._keys = state, progress, warnings, keys
        self.show()

    def num_lines(self, width: int, most: int) -> int:
        """How many lines it would like to have, of `most`; what does not fit in `most` is left out by importance."""
        return min(len(self.lines_now(width, most)), most)

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        if self._state is None:
            return [(((" opening ..."), "dim"),), (), ()]
        lines = header_lines(
            self._state, width, progress=self._progress, warnings=self._warnings, keys=self._keys, unicode=self.unicode
        )
        return lines[:height]
