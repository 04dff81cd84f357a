"""How many lines each part of the overview gets, at every size: decided by arithmetic, so that nothing jumps.

What it depends on changes rarely: the terminal's size, how many lines the header has to say, how many sessions there
are, and what the person wants to see where there is not room for all.
"""

from __future__ import annotations

from ckpt_tui.records import dataclass

# What the lower part shows, and, where the screen is low, the only part.
CURVES, CHECKPOINTS, EVENTS, SESSIONS = "curves", "checkpoints", "events", "sessions"

MAX_HEADER = 10
MIN_STACKED = 13  # lines under the header for curves and a list below each other
WIDE = 110  # events fit beside the checkpoints
BESIDE_WIDTH, BESIDE_HEIGHT = 150, 20  # the lists fit beside the curves
_FIXED = 2  # the chart's rule and the event lane
_MOST_BESIDE = 24  # lines of a list there: more than a run usually keeps, and by how many files are there it would jump


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Lines of each part, 0 where it is not shown. lanes: with their rule. left: the list that is shown, "" for none.
    has_feed: the events have a place of their own. is_beside: the lists stand right of the curves, `right` cells wide,
    the events under the checkpoints."""

    header: int
    chart: int
    lanes: int
    lists: int
    left: str
    has_feed: bool = False
    is_beside: bool = False
    right: int = 0
    feed: int = 0


def header_room(height: int) -> int:
    """The most lines that the header may take: the lower the screen, the more of it answers what matters first."""
    return max(min(MAX_HEADER, height - 5), 1)


def shown_parts(width: int, height: int, header: int, num_sessions: int) -> tuple[str, ...]:
    """What can be chosen to be shown at this size, in the order in which a key goes round."""
    body = height - 1 - header
    sessions = (SESSIONS,) if num_sessions > 1 else ()
    if body < MIN_STACKED:
        return (CURVES, CHECKPOINTS, EVENTS, *sessions)
    if width >= WIDE:
        return (CHECKPOINTS, *sessions)
    return (CHECKPOINTS, EVENTS, *sessions)


def arrange(
    width: int, height: int, header: int, num_sessions: int, *, has_outlook: bool, part: str, has_curves: bool = True
) -> Arrangement:
    """The lines for everything. header: what it would like. part: one of `shown_parts()`; another one counts as the
    first. has_outlook: there is a lane for what a resume would do. has_curves: there is, or will be, something to draw:
    else the lists get the room."""
    header = min(header, header_room(height))
    body = max(height - 1 - header, 0)
    parts = shown_parts(width, height, header, num_sessions)
    part = part if part in parts else parts[0]
    if body < MIN_STACKED:
        if part == CURVES:
            return Arrangement(header, max(body - _FIXED, 1), 0, 0, "")
        return Arrangement(header, 0, 0, max(body, 1), part)
    is_beside = width >= BESIDE_WIDTH and body >= BESIDE_HEIGHT
    most = 1 if body < 15 else 2 if body < 22 else 4 if body < 34 else 8
    lanes = 1 + min(max(num_sessions, 1), most) + has_outlook if has_curves else 0
    rest = body - _FIXED - lanes
    if is_beside:
        feed = max(body * 2 // 5, body - _MOST_BESIDE)
        right = min(max(width * 45 // 100, 70), 122)
        return Arrangement(header, rest, lanes, body - feed, part, True, True, right, feed)
    lists = max(min(max(rest * 2 // 5, 5), rest - 4), 2) if has_curves else rest - 4
    return Arrangement(header, rest - lists, lanes, lists, part, width >= WIDE)
