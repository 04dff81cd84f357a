"""What part of a run the charts show, and how: one frozen value that main chart, pinned charts and lanes share.

Changes are functions from a view and the extent of the data to a view, so that they are tested without a screen.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ckpt_tui.records import dataclass
from ckpt_tui.run.epochs import Epochs
from ckpt_tui.tui.scale import XScale, nice_step

LEAST_IN_VIEW = {"step": 8.0, "time": 5.0, "epoch": 0.01}
SMOOTHINGS = ("off", "light", "heavy")
# auto: a spike that would flatten the rest is cut off and marked. all: nothing is. tight: every spike is.
RANGES = ("auto", "all", "tight")

Extent = tuple[float, float]


@dataclass(frozen=True, slots=True)
class View:
    """window: the width of what is in view, None for all of it. end: its right end when frozen, None while it follows
    the run. cursor: an x, None when there is no cursor. metric: what the main chart shows, "" for the loss.
    y_range: one of RANGES. smoothing: one of SMOOTHINGS. Window, end and cursor are in units of the axis."""

    axis: str = "step"
    is_log: bool = False
    window: float | None = None
    end: float | None = None
    cursor: float | None = None
    smoothing: str = "off"
    metric: str = ""
    y_range: str = "auto"

    @property
    def words(self) -> str:
        if self.end is not None:
            return "frozen"
        return "live" if self.window is not None else "all"


def x_scale(
    view: View, extent: Extent | None, width: int, *, is_over: bool, epochs: Epochs | None = None
) -> XScale | None:
    """The axis that `view` means for data from extent[0] to extent[1]; None where there is nothing to show."""
    if extent is None or width <= 0:
        return None
    first, last = extent
    least = _least(view.axis, extent)
    if view.axis != "time" and 0 < first <= (last - first) * 0.05:
        first = 0.0
    window = view.window if view.window is not None else max(last - first, least)
    if view.end is not None:
        return XScale(view.axis, view.end - window, view.end, width, epochs)
    # The right end moves in jumps of a twentieth, not with every step: or the whole chart is sent each tick.
    if not is_over:
        jump = nice_step(max(window, least), 20)
        origin = first if view.axis == "time" else 0.0
        last = origin + math.ceil((last - origin) / jump) * jump
    if view.window is None:
        return XScale(view.axis, first, max(last, first + least), width, epochs)
    return XScale(view.axis, last - window, last, width, epochs)


def _least(axis: str, extent: Extent) -> float:
    """The narrowest window: where numbers are huge, their own resolution."""
    return max(LEAST_IN_VIEW[axis], abs(extent[1]) * 2.0**-44)


def zoomed(view: View, x: XScale, extent: Extent, factor: float, at: float | None = None) -> View:
    """A narrower (factor < 1) or wider window around `at`, the cursor, or else with the same end."""
    least = _least(view.axis, extent)
    window = max((x.x1 - x.x0) * factor, least)
    if window >= max(extent[1] - extent[0], least) * 1.01:
        return replace(view, window=None, end=None)
    end = view.end
    around = view.cursor if at is None else at
    if around is not None:
        share = (around - x.x0) / (x.x1 - x.x0)
        end = around + (1 - share) * window
        if view.end is None and end >= extent[1]:
            end = None  # it followed the run and still does
    return replace(view, window=window, end=end)


def panned(view: View, x: XScale, extent: Extent, share: float) -> View:
    """The window moved by a share of its width; at the run's end it follows the run again."""
    if view.window is None:
        return view
    end = max(x.x1 + share * view.window, extent[0] + view.window)
    return replace(view, end=None if end >= extent[1] else end)


def frozen(view: View, x: XScale) -> View:
    """Held still, or following the run again."""
    if view.end is not None:
        return replace(view, end=None)
    return replace(view, window=x.x1 - x.x0, end=x.x1)


def with_axis(view: View, axis: str) -> View:
    return replace(view, axis=axis, window=None, end=None, cursor=None)


def after(choices: tuple[str, ...], chosen: str) -> str:
    """The next of `choices`, round and round."""
    return choices[(choices.index(chosen) + 1) % len(choices)] if chosen in choices else choices[0]
