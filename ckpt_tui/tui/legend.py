"""The words on a chart's rule: what is drawn and how; with a cursor, what the curves and the run say there.

What has no room goes from the end, so the parts come in the order in which a person needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckpt_tui.run.state import Marker, RunState, Save
from ckpt_tui.text import count, metric, safe_text
from ckpt_tui.tui import facts
from ckpt_tui.tui.facts import Part
from ckpt_tui.tui.plot import NamedCurve, Plot
from ckpt_tui.tui.points import Point
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.view import View


def legend(
    shown: View, curves: Sequence[NamedCurve], drawn: Plot | None, *, unicode: bool = True, num_hidden_pins: int = 0,
    is_over: bool = False,
) -> list[Part]:  # fmt: skip
    """`all, log y   × not finite   ━ train  ╌ val  ━ abandoned`."""
    words = "to the end" if shown.words == "live" and is_over else shown.words
    parts: list[Part] = [(words, "accent" if words == "frozen" else "dim")]
    if shown.axis != "step":
        parts.append((f", by {shown.axis}", "dim"))
    if shown.is_log:
        parts.append((", log y", "dim"))
    if shown.smoothing != "off":
        parts.append((f", {shown.smoothing} smoothing", "dim"))
    parts += _cut_off(shown, drawn, unicode)
    if drawn is not None and drawn.num_bad:
        parts.append((f"   {'×' if unicode else 'x'} not finite", "bad"))
    if drawn is not None and drawn.num_unloggable:
        parts.append((f"   {'▼' if unicode else 'v'} not above 0: no log", "bad"))
    solid, dashed, plain = "━", "╌", {"train": "*", "val": "o"}
    for index, curve in enumerate(curves):
        glyph = (dashed if curve.dashed else solid) if unicode else plain.get(curve.role, "")
        mark = curve.mark if curve.mark and not unicode else f"{glyph}{curve.mark}"
        parts.append((f"{'  ' if index else '   '}{mark} {safe_text(curve.label, 24)}", curve.role))
    if any(segment.abandoned_after is not None for curve in curves for segment in curve.series.segments):
        parts.append((f"  {solid if unicode else '.'} abandoned", "abandoned"))
    if drawn is not None and drawn.has_bands:
        parts.append(("  shaded: extremes of several steps", "dim"))
    if num_hidden_pins:
        parts.append((f"   {num_hidden_pins} pinned: no room", "dim"))
    return parts


def _cut_off(shown: View, drawn: Plot | None, unicode: bool) -> list[Part]:
    """`▲ up to 1.2e6 (Y)`: what the y range leaves out, and the key that shows it."""
    highest, lowest = drawn.cut_off if drawn is not None else (None, None)
    parts: list[Part] = []
    if highest is not None:
        parts.append((f"   {'▲' if unicode else '^'} up to {metric(highest)}", "warning"))
    if lowest is not None:
        parts.append((f"   {'▼' if unicode else 'v'} down to {metric(lowest)}", "warning"))
    if parts:
        parts.append((" (Y)", "dim"))
    elif shown.y_range != "auto":
        parts.append((", y all" if shown.y_range == "all" else ", y tight", "dim"))
    return parts


def readout(
    points: Sequence[tuple[NamedCurve, Point]], state: RunState | None, x: XScale | None, cell: int | None,
    *, unicode: bool = True,
) -> list[Part]:  # fmt: skip
    """`step 8,250-8,259  02:14:09  1.482 (1.31 - 9.1 at 8,251)  val 1.51 at 8,000  rolling 8,250`."""
    if not points:
        return [("nothing here", "dim")]
    # Of several runs one may have ended long before the cursor.
    here = min((point for _, point in points), key=lambda point: point.distance)
    parts = _place(here, state)
    for index, (curve, point) in enumerate(points):
        parts += _value(curve, point, here, several=len(points) > 1, name_it=bool(index) or bool(curve.mark))
    if state is not None and x is not None and cell is not None:
        parts += _happened(state.markers, x, cell, unicode)
        save = nearest_save(state.saves, here.peak_step)
        if save is not None:
            parts.append((f"  {'▸' if unicode else '>'} {safe_text(save.kind, 20)} {count(save.step)}", "accent"))
    return parts


def _place(point: Point, state: RunState | None) -> list[Part]:
    words = f"step {count(point.step)}"
    if point.last_step > point.step:
        words += f"-{count(point.last_step)}"
    parts: list[Part] = [(words, "strong")]
    if state is not None:
        parts.append((f"  {facts.clock_words(point.ts, state.now)}", "dim"))
    return parts


def _value(curve: NamedCurve, point: Point, first: Point, *, several: bool, name_it: bool) -> list[Part]:
    name = f"{safe_text(curve.mark or curve.label, 16)} " if name_it else ""
    parts: list[Part] = [(f"  {name}{metric(point.last)}", curve.role)]
    if point.hi > point.lo:
        at = f" at {count(point.peak_step)}" if point.peak_step not in (point.step, point.last_step) else ""
        parts.append((f" ({metric(point.lo)} - {metric(point.hi)}{at})", "dim"))
    if point.bad:
        parts.append((f" {count(point.bad)} not finite", "bad"))
    if point.smoothed is not None:
        parts.append((f" ~{metric(point.smoothed)}", curve.role))
    if several and not first.step <= point.step <= first.last_step:
        parts.append((f" at {count(point.step)}", "dim"))
    if point.is_abandoned:
        parts.append((" abandoned", "warning"))
    return parts


def _happened(markers: Iterable[Marker], x: XScale, cell: int, unicode: bool) -> list[Part]:
    """What the event lane has under the cursor, the most serious first."""
    from ckpt_tui.tui.widgets.event_lane import MARKS, marks_in

    found = marks_in(markers, x, cell)
    if not found:
        return []
    glyph, plain, role, word = MARKS[found[0].kind]
    label = f" {safe_text(found[0].label, 24)}" if found[0].label and found[0].label != word else ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [(f"  {glyph if unicode else plain} {word}{label}{more}", role or "dim")]


def nearest_save(saves: Sequence[Save], step: int) -> Save | None:
    """The checkpoint to go back to from `step`: the newest at or before it that is still there, else the nearest."""
    there = [save for save in saves if not save.removed]
    before = [save for save in there if save.step <= step]
    if before:
        return max(before, key=lambda one: (one.step, one.ts))
    return min(there, key=lambda one: one.step - step, default=None)
