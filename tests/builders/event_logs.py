"""Event logs by hand: lines with the fields of every event filled in."""

from __future__ import annotations

import json
from typing import Any


class LogText:
    """Makes lines that count on; `text` is the log so far."""

    def __init__(self, start_ts: float = 1000.0) -> None:
        self.ts, self.seq, self.lines = start_ts, 0, list[bytes]()

    def add(self, event: str, step: int = 0, session: int = 1, ts: float | None = None, **fields: Any) -> bytes:
        self.seq += 1
        self.ts = self.ts if ts is None else ts
        base = {"v": 1, "event": event, "seq": self.seq, "ts": self.ts, "session": session, "step": step}
        self.lines.append(json.dumps({**base, **fields}).encode() + b"\n")
        return self.lines[-1]

    @property
    def text(self) -> bytes:
        return b"".join(self.lines)


def worked_example(first_part_only: bool = False) -> LogText:
    """SPEC section 10: 1,270 batches of 3.22 s, a save every 500, a crash after batch 899, a resume from 500."""
    log, pace = LogText(), 3.22
    start = {"total_steps": 1270, "steps_per_epoch": 1270, "config": {"checkpoint_freq": 500}}
    log.add("run_start", **start)
    for step in range(1, 901):
        log.add("step", step, ts=1000 + (step - 1) * pace, loss=3 - step / 1000)
        if step == 500:
            log.add("checkpoint_saved", 500, path="rolling_step_000500.pt", kind="rolling", stall_seconds=0.5)
    if not first_part_only:
        log.add("run_start", 500, 2, ts=10000.0, start_step=500, resumed_from={"path": "x.pt"}, **start)
        for step in range(501, 1271):
            log.add("step", step, 2, ts=10000 + (step - 501) * pace, loss=2.0)
        log.add("run_end", 1270, 2, status="finished")
    return log
