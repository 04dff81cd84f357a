"""One event in a few words, for the feed. Steps and machine load are the curves' business and stay out of it."""

from __future__ import annotations

from ckpt_tui import text
from ckpt_tui.events.schema import (
    Best,
    CheckpointFailed,
    CheckpointRemoved,
    CheckpointRestored,
    CheckpointSaved,
    Disk,
    EpochEnd,
    ErrorRaised,
    Eval,
    Event,
    Nonfinite,
    RunEnd,
    RunStart,
    SignalReceived,
    Step,
    System,
    Unknown,
    event_name,
)  # fmt: skip
from ckpt_tui.run.state import FeedLine

QUIET_EVENTS = (Step, System)


def feed_line(event: Event) -> FeedLine | None:
    """None for the quiet ones. The text is safe for a terminal."""
    if isinstance(event, QUIET_EVENTS):
        return None
    words, severity = _words(event)
    return FeedLine(
        event.ts, event.session, event.step, text.safe_text(event_name(event), 40), text.safe_text(words, 300),
        severity, event.seq,
    )  # fmt: skip


def _words(event: Event) -> tuple[str, str]:
    match event:
        case RunStart():
            source = (event.resumed_from or {}).get("path")
            return (f"resumed from {source} at step {event.start_step:,}" if source else "started"), "info"
        case Eval():
            numbers = [f"{k} {text.metric(v)}" for k, v in event.metrics.items() if isinstance(v, float)]
            took = f", took {text.duration(event.seconds)}" if event.seconds is not None else ""
            return ", ".join(numbers[:4]) + took, "info"
        case EpochEnd():
            return f"epoch {event.epoch or 0:g}: train {text.metric(event.train_loss)}, " \
                   f"val {text.metric(event.val_loss)}", "info"  # fmt: skip
        case CheckpointSaved():
            return f"{event.path}, {text.size(event.bytes)}, in {text.duration(event.save_seconds)}", "good"
        case CheckpointFailed():
            kept = f"; kept {event.kept}" if event.kept else ""
            return f"{event.path}: {event.stage}: {event.error}{kept}", "error"
        case CheckpointRestored():
            return f"{event.path} from {event.source} by {event.by}: {event.why}", "good"
        case CheckpointRemoved():
            return f"{event.path}: {event.reason}", "info"
        case Best():
            return f"{event.metric} {text.metric(event.value)}, before {text.metric(event.previous)}", "good"
        case Nonfinite():
            return f"{event.what}: {event.action}", "warning"
        case SignalReceived():
            return f"{event.signal}: {event.action}", "warning"
        case Disk():
            return f"{text.size(event.free_bytes)} free, {text.count(event.saves_that_fit)} saves fit", "info"
        case ErrorRaised():
            return f"{event.type}: {event.message}", "error"
        case RunEnd():
            bad = event.status in ("failed", "diverged")
            return f"{event.status}: {event.reason}" if event.reason else event.status, "error" if bad else "info"
        case Unknown():
            return ", ".join(f"{k} {text.safe_text(v, 60)}" for k, v in list(event.extra.items())[:4]), "info"
    return "", "info"
