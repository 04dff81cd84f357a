"""One event in a few words: the same in the viewer's feed, in `tail`, and in what the trainer says while it trains.

The text holds what the event holds: who shows it makes it safe first (`text.safe_text`).
"""

from __future__ import annotations

from ckpt_tui import text
from ckpt_tui.events.schema import (
    Best,
    CheckpointFailed,
    CheckpointQuarantined,
    CheckpointRemoved,
    CheckpointRestored,
    CheckpointSaved,
    Disk,
    EpochEnd,
    ErrorRaised,
    Eval,
    Event,
    LostWork,
    Nonfinite,
    RunEnd,
    RunStart,
    SaveAdvice,
    SignalReceived,
    Supervised,
    System,
    Unknown,
)

_MAX_GPUS = 8
_MAX_NUMBER = 10**18  # a log can claim one that no float holds


def words_of(event: Event) -> tuple[str, str]:
    """What it says, and how much that matters: info, good, warning, error. "" for steps."""
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
            return _saved(event), "good"
        case CheckpointFailed():
            kept = f"; kept {event.kept}" if event.kept else ""
            return f"{event.path}: {event.stage}: {event.error}{kept}", "error"
        case CheckpointRestored():
            return _restored(event), "good" if event.act == "restore" else "warning"
        case CheckpointRemoved():
            return f"{event.path}: {event.reason}", "info"
        case CheckpointQuarantined():
            return f"{event.path} moved to {event.to}: {event.why}", "warning"
        case Best():
            before = f", before {text.metric(event.previous)}" if event.previous is not None else ""
            return f"{event.metric} {text.metric(event.value)}{before}", "good"
        case Nonfinite():
            return f"{event.what}: {event.action}", "warning"
        case SignalReceived():
            return f"{event.signal}: {event.action}", "warning"
        case Disk():
            return f"{text.size(event.free_bytes)} free, {text.count(event.saves_that_fit)} saves fit", "info"
        case ErrorRaised():
            where = f"rank {event.rank}: " if event.rank is not None else ""
            return f"{where}{event.type}: {event.message}", "error"
        case LostWork():
            return _lost(event), "warning"
        case SaveAdvice():
            return _advised(event), "info"
        case RunEnd():
            bad = event.status in ("failed", "diverged")
            return f"{event.status}: {event.reason}" if event.reason else event.status, "error" if bad else "info"
        case Supervised():
            severity = {"restart": "warning", "gave_up": "error", "finished": "good"}.get(event.action, "info")
            return (event.told or event.action), severity
        case System():
            return _load(event), "info"
        case Unknown():
            return ", ".join(f"{k} {text.safe_text(v, 60)}" for k, v in list(event.extra.items())[:4]), "info"
    return "", "info"


def _restored(event: CheckpointRestored) -> str:
    """`restored latest.pt from latest_backup.pt by viewer: damaged`, `rolled back: latest.pt from ... by viewer`."""
    # Its own name: newer ones were set aside, and it is the newest now.
    what = f"{event.path} from {event.source}" if event.path != event.source else f"{event.path}, step {event.step:,},"
    if event.act == "restore":
        return f"restored {what} by {event.by}: {event.why}"
    return f"{event.why or event.act}: {what} by {event.by}"


def _saved(event: CheckpointSaved) -> str:
    """`rolling_step_000500.pt 258.0 MB: stalled 12 ms, durable after 800 ms`."""
    what = f"{event.path} {text.size(event.bytes)}"
    stall, whole = event.stall_seconds, event.save_seconds
    if whole is None:
        return what if stall is None else f"{what}: stalled {text.duration(stall)}"
    if stall is None:
        return f"{what}: durable after {text.duration(whole)}"
    # Training stood still for all of it, but for the event itself: one figure says it.
    if stall >= 0.95 * whole:
        return f"{what}: stalled {text.duration(stall)}"
    return f"{what}: stalled {text.duration(stall)}, durable after {text.duration(whole)}"


def _load(event: System) -> str:
    """`cpu 180 %, 1.2 GB; gpu0 93 %, 71.2 GB`."""
    parts = [_used("cpu", event.cpu_percent, event.rss_bytes)]
    for position, gpu in enumerate(event.gpus[:_MAX_GPUS]):
        parts.append(_used(f"gpu{position}", gpu.get("utilization_percent"), gpu.get("memory_used_bytes")))
    return "; ".join(part for part in parts if part)


def _used(what: str, percent: object, num_bytes: object) -> str:
    words = [f"{percent:.0f} %"] if isinstance(percent, (int, float)) and abs(percent) < _MAX_NUMBER else []
    words += [text.size(num_bytes)] if isinstance(num_bytes, (int, float)) and abs(num_bytes) < _MAX_NUMBER else []
    return f"{what} {', '.join(words)}" if words else ""


def _lost(event: LostWork) -> str:
    steps = max(event.to_step - event.from_step, 0)
    what = f"session {event.lost_session} {event.cause}: {text.plural(steps, 'step')}"
    if event.seconds is not None:
        what += f", {text.duration(event.seconds)}"
    what += " lost"
    if event.predicted_seconds is not None:
        what += f" ({text.duration(event.predicted_seconds)} predicted)"
    return what + (f", down for {text.duration(event.down_seconds)}" if event.down_seconds is not None else "")


def _advised(event: SaveAdvice) -> str:
    if event.recommended_steps is None:
        return "no interval can be recommended yet"
    what = f"save every {text.plural(event.recommended_steps, 'step')} ({text.duration(event.recommended_seconds)})"
    if event.save_every_steps:
        what += f", now every {event.save_every_steps:,}"
    if event.save_cost_seconds is not None:
        what += f"; a save costs {text.duration(event.save_cost_seconds)}"
    if event.failure_every_seconds is not None:
        what += f", a failure is expected every {text.duration(event.failure_every_seconds)}"
    return what
