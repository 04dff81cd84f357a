"""One event in a few words, for the feed. Steps and machine load are the curves' business and stay out of it."""

from __future__ import annotations

from ckpt_tui import text
from ckpt_tui.events.schema import Event, Step, System, event_name
from ckpt_tui.events.words import words_of
from ckpt_tui.run.state import FeedLine

QUIET_EVENTS = (Step, System)


def feed_line(event: Event) -> FeedLine | None:
    """None for the quiet ones. The text is safe for a terminal."""
    if isinstance(event, QUIET_EVENTS):
        return None
    words, severity = words_of(event)
    return FeedLine(
        event.ts, event.session, event.step, text.safe_text(event_name(event), 40), text.safe_text(words, 300),
        severity, event.seq,
    )  # fmt: skip
