"""A moment in words, the same on the screen and for a plain command: lines of (text, role) as in `wording`."""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_tui.run.moment import STANDS_OUT, MetricMoment, Moment
from ckpt_tui.run.state import Marker, Save
from ckpt_tui.run.wording import Line, Span, clock_time
from ckpt_tui.text import cell_width, count, duration, fit, metric, plural, safe_text

_EVENTS = {
    "save": "saved", "best": "best", "save_failed": "a save failed", "crash": "crashed", "stop": "stopped",
    "signal": "signal", "resume": "resumed", "restore": "restored", "rollback": "rolled back", "undo": "undone",
    "redo": "done again", "config": "settings changed", "nonfinite": "not finite", "error": "error",
    "finish": "finished", "restart": "restarted by the supervisor", "gave_up": "the supervisor gave up",
}  # fmt: skip


def steps_words(told: Moment) -> str:
    """`step 8,250`, or the stretch of steps that is known of it."""
    if told.last_step <= told.first_step:
        return f"step {count(told.step)}"
    return f"steps {count(told.first_step)}-{count(told.last_step)}"


def moment_lines(told: Moment, *, unicode: bool = True, width: int = 80) -> list[Line]:
    """When and where, the metrics around it, the events around it, what changed. On a narrow terminal what was after
    it goes first."""
    where: list[Span] = [(clock_time(told.ts, seconds=True, now=told.now), "plain")]
    if told.session is not None:
        where.append((f"   session {told.session.number}", "plain"))
    if told.last_step > told.first_step and width >= 50:
        where.append(("   extremes of these steps", "dim"))
    lines: list[Line] = [tuple(where)]
    if told.continued_from is not None:
        lines.append(((f"An abandoned branch: the run went on from step {count(told.continued_from)}.", "warn"),))
    lines += [(), *_table(told.metrics, unicode, width), ()]
    lines.append(_event("before it", told.event_before, told))
    lines.append(_event("after it", told.event_after, told))
    lines += _rate(told, unicode)
    return lines


def _table(metrics: tuple[MetricMoment, ...], unicode: bool, width: int) -> list[Line]:
    names = [safe_text(one.name, 200) for one in metrics]
    has_after = width >= 44
    column = 10 if width >= 50 else 9
    room = width - (column + 2) * (3 if has_after else 2) - 2
    most = max(min(max((cell_width(name) for name in names), default=6), room, 26), 4)
    head = f"{'':{most}}  {'before':>{column}}  {'here':>{column}}    "
    lines: list[Line] = [((head + (f"{'after':>{column}}" if has_after else ""), "dim"),)]
    for one, name in zip(metrics, names, strict=True):
        stands_out = one.num_bad or one.deviation >= STANDS_OUT
        here = ("NaN" if one.num_bad else "-") if one.at is None else metric(one.at)
        spans: list[Span] = [
            (f"{fit(name, most, keep='end')}  {_value(one.before):>{column}}  ", "plain"),
            (f"{here:>{column}}", "bad" if one.num_bad else "warn" if stands_out else "plain"),
            (f" {'×' if one.num_bad else '▲' if stands_out else ' '}" if unicode
             else f" {'x' if one.num_bad else '!' if stands_out else ' '}", "bad" if one.num_bad else "warn"),
        ]  # fmt: skip
        if has_after:
            spans.append((f"  {_value(one.after):>{column}}", "plain"))
        if one.num_bad and width >= 70:
            spans.append((f"  {plural(one.num_bad, 'value')} not finite", "bad"))
        lines.append(tuple(spans))
    return lines


def _value(value: float | None) -> str:
    return metric(value) if value is not None else "-"


def _event(word: str, marker: Marker | None, told: Moment) -> Line:
    if marker is None:
        return ((f"{word:<12}", "dim"), ("nothing", "plain"))
    name = _EVENTS.get(marker.kind, safe_text(marker.kind, 30))
    label = f" {safe_text(marker.label, 60)}" if marker.label and marker.label not in (marker.kind, name) else ""
    role = "bad" if marker.kind in ("crash", "save_failed", "error", "nonfinite") else "plain"
    apart = abs(marker.step - told.step)
    away = f"   {plural(apart, 'step')}" if apart else "   at this step"
    if told.ts is not None and (apart or abs(told.ts - marker.ts) >= 1.0):
        away += f", {duration(abs(told.ts - marker.ts))}"
    return (
        (f"{word:<12}", "dim"), (f"{name}{label}", role), (f" at step {count(marker.step)}", "plain"), (away, "dim"),
    )  # fmt: skip


def _rate(told: Moment, unicode: bool) -> list[Line]:
    if not told.rate_name or told.rate_after is None:
        return []
    name = safe_text(told.rate_name, 30)
    if told.rate_before is None or metric(told.rate_before) == metric(told.rate_after):
        return [((f"{name:<12}", "dim"), (f"{metric(told.rate_after)}, unchanged", "plain"))]
    arrow = "→" if unicode else "->"
    factor = told.rate_after / told.rate_before if told.rate_before else float("inf")
    # A schedule moves it a little with every step: only a jump is news.
    role = "warn" if not 0.8 <= factor <= 1.25 else "plain"
    return [((f"{name:<12}", "dim"), (f"{metric(told.rate_before)} {arrow} {metric(told.rate_after)}", role))]


def save_words(save: Save) -> str:
    """`rolling 8,000`."""
    return f"{safe_text(save.kind or save.path, 40)} {count(save.step)}"


def way_back(told: Moment, validity: Mapping[str, str]) -> Line:
    """The checkpoint to go back to, what is known of it, and how many steps that is."""
    if told.save is None:
        return ((f"{'go back to':<12}", "dim"), ("no checkpoint from before it is left", "warn"))
    known = validity.get(told.save.path, "not checked")
    good = known == "valid"
    apart = told.step - told.save.step
    spans: list[Span] = [
        (f"{'go back to':<12}", "dim"), (save_words(told.save), "bold"), (f"  {known}", "good" if good else "warn"),
        (f"  {plural(apart, 'step')} before" if apart else "  of this step", "dim"),
    ]  # fmt: skip
    if told.passed_over:
        spans.append((f"  ({save_words(told.passed_over[0])} is of no use)", "bad"))
    return tuple(spans)
