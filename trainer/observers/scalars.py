"""The numbers of an event by the names under which they are plotted elsewhere."""

from __future__ import annotations

from ckpt_tui.events.schema import CheckpointSaved, EpochEnd, Eval, Event, Step, System


def scalars_of(event: Event) -> dict[str, float]:
    match event:
        case Step():
            found = {f"train/{key}": value for key, value in event.metrics.items()}
            found["train/epoch"] = event.epoch
        case Eval():
            found = {f"eval/{key}": value for key, value in event.metrics.items()}
            found["eval/seconds"] = event.seconds
        case EpochEnd():
            found = {"epoch/train_loss": event.train_loss, "epoch/val_loss": event.val_loss}
        case CheckpointSaved():
            found = {
                "checkpoint/stall_seconds": event.stall_seconds, "checkpoint/save_seconds": event.save_seconds,
                "checkpoint/bytes": event.bytes,
            }  # fmt: skip
        case System():
            found = {"system/cpu_percent": event.cpu_percent, "system/rss_bytes": event.rss_bytes}
        case _:
            found = {}
    return {
        key: float(value)
        for key, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
