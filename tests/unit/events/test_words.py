"""What an event says in a few words, wherever it is shown."""

from __future__ import annotations

import pytest

from ckpt_tui.events.schema import Best, CheckpointSaved, ErrorRaised, Event, LostWork, SaveAdvice, Step, System
from ckpt_tui.events.words import words_of

SAVED = {"path": "rolling_step_000500.pt", "bytes": 258_000_000}


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            CheckpointSaved(**SAVED, stall_seconds=0.012, save_seconds=0.8),
            "rolling_step_000500.pt 258.0 MB: stalled 12 ms, durable after 800 ms",
        ),
        (
            CheckpointSaved(**SAVED, stall_seconds=0.42, save_seconds=0.42),
            "rolling_step_000500.pt 258.0 MB: stalled 420 ms",
        ),
        (CheckpointSaved(**SAVED, save_seconds=2.0), "rolling_step_000500.pt 258.0 MB: durable after 2.0 s"),
        (CheckpointSaved(**SAVED), "rolling_step_000500.pt 258.0 MB"),
        (Best(metric="val_loss", value=2.5), "val_loss 2.500"),
        (Best(metric="val_loss", value=2.5, previous=3.0), "val_loss 2.500, before 3.000"),
        (ErrorRaised(type="RuntimeError", message="no answer", rank=3), "rank 3: RuntimeError: no answer"),
        (
            LostWork(lost_session=1, cause="killed", from_step=500, to_step=899, seconds=1290.0,
                     predicted_seconds=810.0, down_seconds=42.0),
            "session 1 killed: 399 steps, 21m 30s lost (13m 30s predicted), down for 42 s",
        ),
        (LostWork(lost_session=2, cause="failed", from_step=7, to_step=8), "session 2 failed: 1 step lost"),
        (
            SaveAdvice(recommended_steps=294, recommended_seconds=294.0, save_every_steps=250, save_cost_seconds=0.5,
                       failure_every_seconds=86400.0),
            "save every 294 steps (4m 54s), now every 250; a save costs 500 ms, a failure is expected every 24h 00m",
        ),
        (SaveAdvice(), "no interval can be recommended yet"),
        (Step(metrics={"loss": 1.0}), ""),
        (System(cpu_percent=180.4, rss_bytes=1_200_000_000), "cpu 180 %, 1.2 GB"),
        (
            System(gpus=[
                {"utilization_percent": 93, "memory_used_bytes": 71_200_000_000},
                {"index": 1},
                {"utilization_percent": 10**400, "memory_used_bytes": "x"},
            ]),
            "gpu0 93 %, 71.2 GB",
        ),
    ],
)  # fmt: skip
def test_words(event: Event, words: str) -> None:
    assert words_of(event)[0] == words
