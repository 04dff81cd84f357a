"""The facts of the header as parts of text with a role: what the screen and `watch --plain` both say.

Plain text only, nothing of Textual, so that `--plain` starts without it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from ckpt_tui.run import wording
from ckpt_tui.run.state import Phase, RunState, Save
from ckpt_tui.text import cell_width, count, duration, elapsed, metric, plural, safe_text, short_age, short_count

Part = tuple[str, str]  # text, role
_OWN_NAME = re.compile(r"\b(rolling|emergency)_step_0*(\d{1,18})(?:_\d{8}_\d{6})?(?:\.pt)?(?![\w.])")

# Roles of `output.Style`, which wording speaks, as roles of the screens.
_ROLES = {"good": "good", "bad": "error", "warn": "warning", "accent": "accent", "dim": "dim", "bold": "strong"}


def role_of(role: str) -> str:
    """A role of `run/wording.py` as a role of the screens."""
    return _ROLES.get(role, "")


def phase_words(phase: Phase, *, unicode: bool = True) -> Part:
    """`● running` and its role."""
    glyph = wording.phase_glyph(phase, unicode)
    return f"{glyph} {wording.phase_word(phase)}", _ROLES.get(wording.phase_role(phase), "")


def checkpoint_words(path: str, saves: Sequence[Save]) -> str:
    """A checkpoint in as few words as tell it: `rolling 8,250`; its file's name where the log does not know it."""
    name = path.rpartition("/")[2] or path
    for save in reversed(saves):
        if save.kind and (save.path == path or path in save.names or save.path.rpartition("/")[2] == name):
            return safe_text(f"{save.kind} {count(save.step)}", 40)
    return safe_text(with_short_names(name), 40)


def with_short_names(words: str) -> str:
    """`rolling_step_007750.pt` in a text as `rolling 7,750`: names that only repeat kind and step."""
    return _OWN_NAME.sub(lambda match: f"{match[1]} {int(match[2]):,}", words)


def clock_words(ts: float, now: float) -> str:
    """`02:14:09`; when it was another day its date in place of the seconds: `11-20 02:14`."""
    today = wording.clock_time(ts, seconds=True, now=now)
    return today if len(today) <= len("02:14:09") else wording.clock_time(ts, now=now)


def ago_words(seconds: float) -> str:
    """`6h 31m ago`, `just now`: in minutes, so that a screen nobody touches stays as it is."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    return f"{elapsed(seconds)} ago"


def progress_variants(state: RunState) -> list[list[Part]]:
    """`step 8,412 / 12,700   66 %` and shorter ones, each as wide at the first step as at the last."""
    unit = safe_text(state.step_unit, 10)
    if state.total_steps <= 0:
        if not state.step:
            return [[]]
        return [[(f"{unit} ", "dim"), (count(state.step), "strong")], [(short_count(state.step), "strong")], []]
    total, percent = count(state.total_steps), f"{percent_done(state)} %"
    short, short_total = short_count(state.step), short_count(state.total_steps)
    step = f"{count(state.step):>{len(total)}}"
    return [
        [(f"{unit} ", "dim"), (step, "strong"), (f" / {total}", ""), (f"{percent:>7}", "")],
        [(step, "strong"), (f" / {total}", ""), (f"{percent:>6}", "")],
        [(f"{short:>{len(short_total)}}", "strong"), (f"/{short_total}", ""), (f"{percent:>6}", "")],
        [(f"{percent:>5}", "")],
        [],
    ]  # fmt: skip


def percent_done(state: RunState) -> int:
    """Of the steps, whole percents; 100 only at the end."""
    return max(min(100 * state.step // state.total_steps, 100), 0) if state.total_steps > 0 else 0


Fact = list[list[Part]]  # one fact in several lengths, the fullest first


def pace_facts(state: RunState) -> list[Fact]:
    """ETA, speed, loss and best, most wanted first."""
    facts: list[Fact] = []
    is_moving = state.phase is Phase.RUNNING
    if is_moving and state.eta is not None:
        eta = state.eta
        head: list[Part] = [("eta ", "dim"), (duration(eta.seconds), "strong")]
        spread = f" ({duration(eta.low_s)} - {duration(eta.high_s)})"
        about = f" ±{duration(max(eta.high_s - eta.low_s, 0.0) / 2)}"
        facts.append([[*head, (spread, "dim")], [*head, (about, "dim")], head])
    if state.phase is Phase.FINISHED and state.start_ts is not None and state.last_ts is not None:
        took = [("took ", "dim"), (duration(max(state.last_ts - state.start_ts, 0.0)), "")]
        in_sessions = (f" in {plural(len(state.sessions), 'session')}", "dim")
        if state.is_whole:  # else nobody knows yet when it began
            facts.append([[*took, in_sessions], took] if len(state.sessions) > 1 else [took])
    if state.steps_per_s is not None and not state.phase.is_over:
        was: list[Part] = [] if is_moving else [("was ", "dim")]
        facts.append([[*was, *_speed(state.steps_per_s)]])
        if state.tokens_per_s is not None and is_moving:
            facts.append([[(f"{short_count(state.tokens_per_s):>5} ", ""), ("tok/s", "dim")]])
    if state.last_loss is not None:
        facts.append([[("loss ", "dim"), (metric(state.last_loss), _loss_role(state.last_loss))]])
    if state.best_value is not None:
        best: list[Part] = [("best ", "dim"), (metric(state.best_value), "")]
        facts.append([[*best, (" within noise", "dim")], best] if state.best_is_within_noise else [best])
    return facts


def _speed(steps_per_s: float) -> list[Part]:
    if steps_per_s >= 1:
        return [(f"{steps_per_s:>4.1f} ", ""), ("it/s", "dim")]
    return [(f"{1 / steps_per_s:>4.1f} ", ""), ("s/it", "dim")] if steps_per_s > 0 else [(" 0.0 ", ""), ("it/s", "dim")]


def _loss_role(loss: float) -> str:
    return "error" if loss != loss or loss in (float("inf"), float("-inf")) else "strong"


def risk_facts(state: RunState) -> list[Fact]:
    """What is at risk, the last valid checkpoint, the saves that still fit."""
    facts: list[Fact] = []
    risk = state.at_risk
    if risk is not None:
        if not state.phase.is_over and not state.trains_in and not state.phase.is_between:
            # No time is told where nobody knows the pace yet.
            seconds = f", {duration(risk.seconds)}" if risk.seconds > 0 or not risk.steps else ""
            words = f"{plural(risk.steps, safe_text(state.step_unit, 10))}{seconds}"
            facts.append([[("at risk ", "dim"), (f"{words:<20}", "strong")], [("at risk ", "dim"), (words, "strong")]])
        if risk.checkpoint is None:
            words = "no valid checkpoint" if state.phase.is_over else "no valid checkpoint yet"
            facts.append([[(words, "warning")], [("no checkpoint", "warning")]])
        else:
            facts.append(_last_valid(risk.checkpoint, risk.checkpoint_ts, state))
    disk = wording.disk_span(state)
    if disk is not None:
        role = role_of(disk[1])
        few, _, when = disk[0].partition(", full in ")
        if when and state.disk_full_ts is not None:
            soon = short_age(state.disk_full_ts - state.now)
            facts.append([[(disk[0], role)], [(f"{few}, full in {soon}", role)]])
        else:
            facts.append([[(disk[0], role)]])
    return facts


def _last_valid(path: str, ts: float | None, state: RunState) -> Fact:
    # A stand-in is named: what it stands in for is damaged, or gone.
    name = checkpoint_words(path, [save for save in state.saves if save.path == path])
    if ts is None:
        return [[("last valid ", "dim"), (name, "")]]
    age_s = state.now - ts
    ago = ago_words(age_s) if state.phase.is_over else f"{short_age(age_s):>4} ago"
    return [
        [("last valid ", "dim"), (name, ""), (f", {ago}", "dim")],
        [("last valid ", "dim"), (name, ""), (f", {short_age(age_s)}", "dim")],
        [("valid ", "dim"), (name, ""), (f", {short_age(age_s)}", "dim")],
        [("valid ", "dim"), (name, "")],
    ]  # fmt: skip


def packed(facts: Sequence[Fact], width: int) -> list[Part]:
    """Facts on one line. Where they do not fit some are said shorter, as few and as little as can be; where that is not
    enough the last are left out."""
    kept = list(facts)
    while kept:
        chosen = _shortened(kept, width)
        if chosen is not None or len(kept) == 1:
            break
        kept.pop()
    else:
        return []
    parts_of_facts = chosen if chosen is not None else [kept[0][-1]]
    spare = width - sum(map(parts_width, parts_of_facts)) - 3 * (len(parts_of_facts) - 1)
    line: list[Part] = []
    for parts in parts_of_facts:
        line += [(" " * (3 if spare >= 0 else 2), ""), *parts] if line else parts
    return line


def _shortened(facts: Sequence[Fact], width: int) -> list[list[Part]] | None:
    """One length of each fact, so that all fit with two cells between them; None where none does."""
    room = width - 2 * (len(facts) - 1)
    widths = [[parts_width(parts) for parts in fact] for fact in facts]
    best: tuple[int, int] | None = None
    found: tuple[int, ...] | None = None
    for lengths in product(*(range(len(fact)) for fact in facts)):
        needed = sum(one[length] for one, length in zip(widths, lengths, strict=True))
        if needed <= room:
            # Two facts a little shorter are better than one that is nearly gone; of equals the one that says more.
            cost = (sum(length * length for length in lengths), -needed)
            if best is None or cost < best:
                best, found = cost, lengths
                if not cost[0]:
                    break
    return [fact[length] for fact, length in zip(facts, found, strict=True)] if found is not None else None


def parts_width(parts: Sequence[Part]) -> int:
    return sum(cell_width(text) for text, _ in parts)


def plain(parts: Sequence[Part]) -> str:
    return "".join(text for text, _ in parts)


def ended_variants(state: RunState, *, unicode: bool = True) -> list[list[Part]]:
    """`✖ crashed 02:14, 6h 31m ago` and shorter ones."""
    words, role = phase_words(state.phase, unicode=unicode)
    if state.last_ts is None:
        return [[(words, role)]]
    ago = ago_words(state.now - state.last_ts)
    clock = clock_words(state.last_ts, state.now)
    if len(clock) == 8:
        clock = clock[:5]  # the seconds are in the sentence below
    return [
        [(f"{words} {clock}", role), (f", {ago}", "dim")], [(words, role), (f" {ago}", "dim")], [(words, role)],
    ]  # fmt: skip
