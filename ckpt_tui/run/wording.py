"""The sentences and facts about a run that people see, the same in `status`, `watch --plain` and on the screens.

Lines are tuples of (text, role); roles are those of `output.Style`: good, bad, warn, accent, dim, bold, plain.
Texts are safe for a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ckpt_tui import text
from ckpt_tui.run.state import NextStart, Phase, RunState
from ckpt_tui.run.timeline import ResumeOutlook, resume_outlook

Span = tuple[str, str]
Line = tuple[Span, ...]

_PHASES = {  # glyph, plain glyph, role
    Phase.WAITING: ("○", "o", "dim"), Phase.RUNNING: ("●", "*", "good"), Phase.STALLED: ("◐", "?", "warn"),
    Phase.SILENT: ("◌", "~", "warn"),
    Phase.CRASHED: ("✖", "x", "bad"), Phase.INTERRUPTED: ("■", "#", "warn"), Phase.PREEMPTED: ("■", "#", "warn"),
    Phase.FAILED: ("✖", "x", "bad"), Phase.DIVERGED: ("✖", "x", "bad"), Phase.FINISHED: ("✓", "+", "good"),
    Phase.RESTARTING: ("◔", "r", "warn"), Phase.STARTING: ("◔", "s", "warn"),
}  # fmt: skip


def phase_glyph(phase: Phase, unicode: bool = True) -> str:
    return _PHASES[phase][0 if unicode else 1]


def phase_word(phase: Phase) -> str:
    return phase.value


def phase_role(phase: Phase) -> str:
    return _PHASES[phase][2]


def clock_time(ts: float | None, seconds: bool = False, now: float | None = None) -> str:
    """Local time of day; with the date before it where `now` is given and is of another day."""
    if ts is None:
        return "-"
    try:
        then = time.localtime(ts)
        today = time.localtime(now) if now is not None else then
        date = "" if then[:3] == today[:3] else "%m-%d " if then[0] == today[0] else "%Y-%m-%d "
        return time.strftime(f"{date}%H:%M:%S" if seconds else f"{date}%H:%M", then)
    except (OverflowError, ValueError, OSError):
        return "-"


def checkpoint_words(state: RunState) -> str:
    """The checkpoint that a resume would take: `rolling 9,250`; "" when there is none."""
    at_risk = state.at_risk
    if at_risk is None or at_risk.checkpoint is None:
        return ""
    # Under another name than the one it was told by it is a stand-in: that one is damaged, or gone.
    kind = next((s.kind for s in reversed(state.saves) if at_risk.checkpoint == s.path and s.kind), "")
    if not kind:  # another trainer's: its name may say the step
        name = at_risk.checkpoint.rpartition("/")[2]
        if str(at_risk.checkpoint_step) in name:
            return text.safe_text(name, 60)
        return f"{text.safe_text(name, 60)}, step {at_risk.checkpoint_step:,}"
    return f"{text.safe_text(kind, 60)} {at_risk.checkpoint_step:,}"


def header_lines(state: RunState, unicode: bool = True) -> list[Line]:
    """The header: is it fine, when will it end, what is at risk."""
    phase = state.phase
    name = text.safe_text(state.name or Path(state.directory).absolute().name or "run", 40)
    words = f"{phase_glyph(phase, unicode)} {phase_word(phase)}"
    if phase.is_over and state.last_ts is not None:
        words += f" {clock_time(state.last_ts, now=state.now)}, {text.elapsed(max(state.now - state.last_ts, 0.0))} ago"
    first: list[Span] = [(name, "bold"), (words, phase_role(phase))]
    if phase is Phase.WAITING:
        coming = f"; {coming_words(state.next_start, state.now)}" if state.next_start is not None else ""
        return [(*first, (f"no event yet{coming}", "dim"))]
    step = f"{text.safe_text(state.step_unit, 10)} {state.step:,}"
    if state.total_steps:
        percent = min(state.step * 100 // state.total_steps, 100)
        step += f" / {state.total_steps:,}"
        first += [(step, "plain"), (f"{percent} %", "plain")]
    else:
        first.append((step, "plain"))
    second: list[Span] = []
    if state.eta is not None:
        eta = state.eta
        second.append((
            f"eta {text.duration(eta.seconds)} ({text.duration(eta.low_s)} - {text.duration(eta.high_s)})", "plain",
        ))  # fmt: skip
    if state.steps_per_s:
        second.append((f"{state.steps_per_s:.3g} it/s", "plain"))
    if state.tokens_per_s:
        second.append((f"{text.short_count(state.tokens_per_s)} tok/s", "plain"))
    if state.last_loss is not None:
        bad = state.last_loss - state.last_loss != 0
        second.append((f"loss {text.metric(state.last_loss)}", "bad" if bad else "plain"))
    if state.best_value is not None:
        luck = " (within noise)" if state.best_is_within_noise else ""
        second.append((f"best {text.metric(state.best_value)}{luck}", "plain"))
    lines: list[Line] = [tuple(first)]
    if second:
        lines.append(tuple(second))
    third = _risk_spans(state)
    if third:
        lines.append(tuple(third))
    return lines


def _risk_spans(state: RunState) -> list[Span]:
    spans: list[Span] = []
    at_risk = state.at_risk
    # Between two sessions it is lost already, and the sentence about the end says so.
    if at_risk is not None and not state.phase.is_over and not state.trains_in and not state.phase.is_between:
        # No time is told where nobody knows the pace.
        seconds = f", {text.duration(at_risk.seconds)}" if at_risk.seconds > 0 or not at_risk.steps else ""
        words = f"at risk {text.plural(at_risk.steps, text.safe_text(state.step_unit, 10))}{seconds}"
        spans.append((words, "plain"))
    if at_risk is not None:
        if at_risk.checkpoint is None:
            spans.append(("no checkpoint" if state.phase.is_over else "no checkpoint yet", "warn"))
        else:
            age = text.short_age(state.now - at_risk.checkpoint_ts) if at_risk.checkpoint_ts is not None else "-"
            spans.append((f"last valid {checkpoint_words(state)}, {age} ago", "plain"))
    disk = disk_span(state)
    if disk is not None:
        spans.append((disk[0], "plain" if disk[1] == "dim" else disk[1]))
    return spans


MAX_FULL_S = 30 * 86400.0  # a disk that is full later than this is nobody's business today
SOON_FULL_S = 86400.0


def disk_span(state: RunState) -> Span | None:
    """`41 saves fit, full in 2h 10m`: what the disk still takes, and how much that matters."""
    fit = state.saves_that_fit
    if fit is None:
        return None
    role = "bad" if fit < 2 else "warn" if fit < 10 else "dim"
    number = f"{max(fit, 0):,}" if fit < 10_000 else text.short_count(fit)
    words = "1 save fits" if fit == 1 else f"{number} saves fit"
    full_s = state.disk_full_ts - state.now if state.disk_full_ts is not None else None
    if full_s is None or full_s >= MAX_FULL_S or state.phase.is_over:
        return words, role
    when = text.duration(full_s // 60 * 60) if full_s > 60 else "a minute"
    return f"{words}, full in {when}", "warn" if role == "dim" and full_s < SOON_FULL_S else role


def end_sentences(state: RunState, damage: Sequence[Span] = ()) -> list[Span]:
    """What is seen first when a run is over or stalled: why, what it cost, what a resume would do.

    damage: sentences about damaged checkpoints, said before what a resume would do.
    """
    reason, lost, resume = reason_sentence(state), lost_sentence(state), resume_sentence(state)
    before = [sentence for sentence in (reason, lost) if sentence is not None]
    return [*before, *damage, *([resume] if resume is not None else [])]


def reason_sentence(state: RunState, *, is_ticking: bool = True) -> Span | None:
    """Why it is over or stalled; None while nothing has to be explained. is_ticking: may tell seconds that pass."""
    phase = state.phase
    if phase in (Phase.WAITING, Phase.RUNNING, Phase.FINISHED):
        return None
    unit = text.safe_text(state.step_unit, 10)
    last_line = f"last line: {unit} {state.step:,}, {clock_time(state.last_ts, seconds=True, now=state.now)}"
    reason = text.safe_text(state.reason, 200)
    if state.next_start is not None and phase.is_between:
        why = f"; {reason}" if reason else ""
        coming = coming_words(state.next_start, state.now, is_ticking=is_ticking)
        return f"{phase_word(phase).capitalize()}: {coming}{why} ({last_line}).", phase_role(phase)
    if phase is Phase.CRASHED and reason == "the process is gone without a word":
        return f"Killed: the process is gone without a word ({last_line}).", "bad"
    words = f"{phase_word(phase).capitalize()}: {reason or 'no reason was given'} ({last_line})."
    return words, phase_role(phase)


def coming_words(start: NextStart, now: float, *, is_ticking: bool = True) -> str:
    """`attempt 3, in 20 s`, or `attempt 3, at 02:14:09`."""
    from ckpt_tui.run.next_start import next_start_words

    at = start.due_at if start.due_at is not None else start.started_at
    clock = "" if is_ticking or at is None else clock_time(at, seconds=True, now=now)
    return next_start_words(start, now, clock=clock)


def lost_sentence(state: RunState) -> Span | None:
    """What the end cost; None while it is not over, or when nobody knows."""
    is_ended = state.phase.is_over or state.phase.is_between
    if not is_ended or state.phase is Phase.FINISHED:
        return None
    at_risk, since = state.at_risk, checkpoint_words(state)
    if at_risk is not None and at_risk.steps:
        # No time is told where no two steps were: nobody knows the pace.
        seconds = f", {text.duration(at_risk.seconds)} of training" if at_risk.seconds > 0 else ""
        lost = f"Lost {text.plural(at_risk.steps, 'step')}{seconds}"
        return f"{lost} since {since}." if since else f"{lost}: there is no checkpoint.", "bad"
    if at_risk is not None and at_risk.checkpoint_step > state.step:
        return f"Nothing that the log tells of was lost: {since} is newer than its last line.", "good"
    return (f"Nothing was lost: {since} holds the last step.", "good") if since else None


def resume_sentence(state: RunState) -> Span | None:
    """What a resume now would do; None where nothing is there to resume, or to resume from."""
    outlook = resume_outlook(state)
    if not state.phase.is_over or state.phase is Phase.FINISHED or outlook.checkpoint is None:
        return None
    parts = []
    if outlook.skipped:
        parts.append(f"skips 0-{outlook.skipped - 1:,}")
    if outlook.redone:
        parts.append(f"redoes {outlook.step:,}-{outlook.step + outlook.redone - 1:,}")
    words = ", ".join(parts)
    if state.total_steps:
        words += f"{', then ' if words else ''}trains {outlook.new:,} new"
    if outlook.seconds is not None and state.total_steps:
        words += f": about {text.duration(outlook.seconds)}"
    return f"A resume {words}.", "plain"


# What a resume does, to scale: glyph, plain glyph, role.
_BAR = {"skip": ("░", ".", "dim"), "redo": ("▓", "+", "accent"), "new": ("□", "-", "good")}


def resume_bar(outlook: ResumeOutlook, width: int, unicode: bool = True) -> Line:
    """`░░░░░▓▓□□□  skip 9,000  redo 377  new 3,324`: what a resume would do, drawn to scale. Whatever there is at all
    gets a cell, however little it is. Without a bar where it has no room."""
    parts = [("skip", outlook.skipped), ("redo", outlook.redone), ("new", outlook.new)]
    parts = [(name, steps) for name, steps in parts if steps > 0]
    words: list[Span] = [(f"{name} {steps:,}", _BAR[name][2]) for name, steps in parts]
    total = sum(steps for _, steps in parts)
    room = width - sum(text.cell_width(said) + 2 for said, _ in words)
    if not total or room < 2 * len(parts):
        return tuple(span for said in words for span in ((("  ", "plain"), said) if said is not words[0] else (said,)))
    cells = {name: max(1, steps * room // total) for name, steps in parts}
    cells[max(parts, key=lambda part: part[1])[0]] += room - sum(cells.values())
    bar = [(_BAR[name][0 if unicode else 1] * cells[name], _BAR[name][2]) for name, _ in parts]
    return (*bar, *(span for said in words for span in (("  ", "plain"), said)))


def alert_sentences(state: RunState) -> list[Span]:
    """The alerts that hold, and how many there were before; not what the sentences about the end say."""
    lines: list[Span] = []
    earlier = [alert for alert in state.alerts if alert.is_over]
    for alert in state.alerts:
        if not alert.is_over and not alert.key.startswith(f"{state.phase.value}-"):
            words = f"{alert.title}: {text.safe_text(alert.detail)} (step {alert.step:,})."
            lines.append((words, "bad" if alert.severity == "error" else "warn"))
    if earlier:
        last = earlier[-1]
        steps = f"step {last.step:,}" if last.last_step <= last.step else f"steps {last.step:,}-{last.last_step:,}"
        newest = f"{last.title.lower()}, {steps}"
        said = f"{text.plural(len(earlier), 'alert')} before, over now; the newest: {newest}."
        lines.append((said, "dim"))
    return lines


def log_sentences(state: RunState) -> list[Span]:
    """What is wrong with the log itself."""
    lines: list[Span] = [(text.safe_text(notice[:1].upper() + notice[1:], 200) + ".", "warn")
                         for notice in state.notices]  # fmt: skip
    bad = state.bad_lines
    if bad.count:
        at = f", first at byte {bad.first_offset:,}" if bad.first_offset is not None else ""
        lines.append((f"{text.plural(bad.count, 'bad line')}{at}: {text.safe_text(bad.first_reason, 100)}.", "warn"))
    if state.missing_lines:
        lines.append((f"{text.plural(state.missing_lines, 'line')} missing (gaps in seq).", "warn"))
    return lines
