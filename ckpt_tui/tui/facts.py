"""The facts of the header as parts of text with a role: what the screen and `watch --plain` both say.

Plain text only, nothing of Textual, so that `--plain` starts without it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import PurePath

from ckpt_tui.run import wording
from ckpt_tui.run.state import Phase, RunState, Save
from ckpt_tui.text import cell_width, count, duration, metric, plural, safe_text, short_age, short_count

Part = tuple[str, str]  # text, role

# Roles of `output.Style`, which wording speaks, as roles of the screens.
_ROLES = {"good": "good", "bad": "error", "warn": "warning", "accent": "accent", "dim": "dim", "bold": "strong"}


def phase_words(phase: Phase, *, unicode: bool = True) -> Part:
    """`● running` and its role."""
    glyph = wording.phase_glyph(phase, unicode)
    return f"{glyph} {wording.phase_word(phase)}", _ROLES.get(wording.phase_role(phase), "")


def checkpoint_words(path: str, saves: Sequence[Save]) -> str:
    """A checkpoint in as few words as tell it: `rolling 8,250`; its file's name where the log does not know it."""
    name = PurePath(path).name
    for save in reversed(saves):
        if save.path == path or path in save.names or PurePath(save.path).name == name:
            return safe_text(f"{save.kind} {count(save.step)}", 40)
    return safe_text(name, 40)


def clock_words(ts: float, now: float) -> str:
    """`02:14:09`, with the date before it when it was another day."""
    then, today = time.localtime(ts), time.localtime(now)
    same_day = then[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M", then)


def ago_words(seconds: float) -> str:
    """`6h 31m ago`, `just now`: in minutes, so that a screen nobody touches stays as it is."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    return f"{duration(seconds // 60 * 60)} ago"


def progress_parts(state: RunState) -> list[Part]:
    """`step 8,412 / 12,700   66 %`, as wide at the first step as at the last."""
    if not state.total_steps:
        return [("step ", "dim"), (count(state.step), "strong")] if state.step else []
    total = count(state.total_steps)
    percent = min(100 * state.step // state.total_steps, 100)
    return [
        ("step ", "dim"), (f"{count(state.step):>{len(total)}}", "strong"), (f" / {total}", ""),
        (f"{percent:>5} %", ""),
    ]  # fmt: skip


def pace_parts(state: RunState) -> list[list[Part]]:
    """ETA, speed, loss and best, a list of parts each, most wanted first."""
    facts: list[list[Part]] = []
    if not state.phase.is_over and state.eta is not None:
        eta = state.eta
        spread = f" ({duration(eta.low_s)} - {duration(eta.high_s)})"
        facts.append([("eta ", "dim"), (duration(eta.seconds), "strong"), (spread, "dim")])
    if state.steps_per_s is not None and not state.phase.is_over:
        facts.append(_speed(state.steps_per_s))
        if state.tokens_per_s is not None:
            facts.append([(f"{short_count(state.tokens_per_s):>5} ", ""), ("tok/s", "dim")])
    if state.last_loss is not None:
        facts.append([("loss ", "dim"), (metric(state.last_loss), _loss_role(state.last_loss))])
    if state.best_value is not None:
        facts.append([("best ", "dim"), (metric(state.best_value), "")])
    return facts


def _speed(steps_per_s: float) -> list[Part]:
    if steps_per_s >= 1:
        return [(f"{steps_per_s:>4.1f} ", ""), ("it/s", "dim")]
    return [(f"{1 / steps_per_s:>4.1f} ", ""), ("s/it", "dim")] if steps_per_s > 0 else [(" 0.0 ", ""), ("it/s", "dim")]


def _loss_role(loss: float) -> str:
    return "error" if loss != loss or loss in (float("inf"), float("-inf")) else "strong"


def risk_parts(state: RunState) -> list[list[Part]]:
    """What is at risk, the last valid checkpoint, the saves that still fit."""
    facts: list[list[Part]] = []
    risk = state.at_risk
    if risk is not None:
        if not state.phase.is_over:
            words = f"{plural(risk.steps, 'step')}, {duration(risk.seconds)}"
            facts.append([("at risk ", "dim"), (f"{words:<20}", "strong")])
        if risk.checkpoint is None:
            facts.append([("no valid checkpoint yet" if not state.phase.is_over else "no valid checkpoint", "warning")])
        else:
            name = checkpoint_words(risk.checkpoint, state.saves)
            age = ""
            if risk.checkpoint_ts is not None:
                seconds = state.now - risk.checkpoint_ts
                age = f", {ago_words(seconds)}" if state.phase.is_over else f", {short_age(seconds):>4} ago"
            facts.append([("last valid ", "dim"), (name, ""), (age, "dim")])
    if state.saves_that_fit is not None:
        role = "error" if state.saves_that_fit < 2 else "warning" if state.saves_that_fit < 10 else "dim"
        number = "1 save fits" if state.saves_that_fit == 1 else f"{_few(state.saves_that_fit)} saves fit"
        facts.append([(number, role)])
    return facts


def _few(number: int) -> str:
    return count(number) if number < 10_000 else short_count(number)


def trouble_parts(state: RunState) -> list[Part]:
    """What a person should know besides: bad lines, lost lines, a replaced log, alerts. Empty when all is well."""
    parts: list[Part] = [(words, _ROLES.get(role, "")) for words, role in wording.log_sentences(state)]
    for alert in reversed(state.alerts):
        if state.phase.is_over and alert.key.startswith(f"{state.phase.value}-"):
            continue  # the sentences about the end say it
        role = "error" if alert.severity == "error" else "warning"
        detail = f": {alert.detail}" if alert.detail else ""
        parts.insert(0, (safe_text(f"{alert.title}{detail}", 160), role))
    return parts


def join_facts(facts: Sequence[Sequence[Part]], width: int) -> list[Part]:
    """Facts on one line, as many as fit from the first on, with three cells between them, or two where that helps."""
    widths = [sum(cell_width(text) for text, _ in fact) for fact in facts]
    num_shown = len(facts)
    while num_shown > 1 and sum(widths[:num_shown]) + 2 * (num_shown - 1) > width:
        num_shown -= 1
    gap = 3 if sum(widths[:num_shown]) + 3 * (num_shown - 1) <= width else 2
    parts: list[Part] = []
    for fact in facts[:num_shown]:
        if parts:
            parts.append((" " * gap, ""))
        parts += fact
    return parts


def plain(parts: Sequence[Part]) -> str:
    return "".join(text for text, _ in parts)


def ended_parts(state: RunState) -> list[Part]:
    """`✖ crashed 02:14:09, 6h 31m ago`."""
    words, role = phase_words(state.phase)
    if state.last_ts is None:
        return [(words, role)]
    return [
        (f"{words} {clock_words(state.last_ts, state.now)}", role),
        (f", {ago_words(state.now - state.last_ts)}", "dim"),
    ]


def end_sentences(state: RunState) -> list[list[Part]]:
    """Why the run is over, what was lost, and what a resume would do; the same sentences as `status` says."""
    return [[(words, _ROLES.get(role, ""))] for words, role in wording.end_sentences(state)]
