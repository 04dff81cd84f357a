"""One real run at chosen moments, for pictures and snapshots: nothing in it depends on clock, machine or torch.

The log is that of a real training that was killed twice (`screenshots/recorded`); the checkpoints beside it are small
files of the same names and steps that readers and validation take for what they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ckpt_tui.services.monitor import RunMonitor
from screenshots.make import moment, names_at, read_log
from tests.builders.run_directories import damage, torch_zip, training_state

RUN_NAME = "gpt-stdlib"
ENV = {"COLORTERM": "truecolor", "TERM": "xterm-256color", "LANG": "en_US.UTF-8"}
NIGHT_S = 6.5 * 3600


class Scene:
    """The run directory at `now`, Unix seconds, and whether its process lives."""

    def __init__(self, directory: Path, now: float, is_alive: bool) -> None:
        self.directory, self.now, self.is_alive = directory, now, is_alive

    def monitor(self) -> RunMonitor:
        return RunMonitor(str(self.directory), clock=lambda: self.now)

    @contextmanager
    def process(self) -> Iterator[None]:
        """The recorded process is long gone: whether it lives is part of the scene."""
        with patch("ckpt_tui.services.surroundings.Surroundings.is_alive", lambda *_: self.is_alive):
            yield


def _write(directory: Path, events: list[dict[str, Any]], until: float) -> None:
    directory.mkdir()
    start = events[0]
    sizes: dict[int, int] = {}
    for name, event in names_at(events, until).items():
        state = training_state(event["step"], val_loss=event["val_loss"], args=start["config"])
        state.update(timestamp=event["ts"], epoch=event["step"] / start["steps_per_epoch"])
        content = torch_zip(state)
        sizes[event["step"]] = len(content)
        (directory / name).write_bytes(content)
        os.utime(directory / name, (event["ts"], event["ts"]))
    with open(directory / "events.jsonl", "w", encoding="utf-8") as log:
        for event in events:
            if event["ts"] > until:
                break
            told = dict(event)
            if event["event"] == "run_start":
                told |= {"cwd": "/home/you", "argv": ["python3", *event["argv"][1:]], "host": "gpu-17"}
            elif event["event"] == "checkpoint_saved":
                told |= {"bytes": sizes.get(event["step"], 10_000), "digest": ""}
            log.write(json.dumps(told) + "\n")


def running(parent: Path) -> Scene:
    """In its third session, at step 8,000 of 10,000."""
    events = read_log()
    now = moment(events, 3, 8000)
    _write(parent / RUN_NAME, events, now)
    return Scene(parent / RUN_NAME, now, is_alive=True)


def crashed(parent: Path) -> Scene:
    """Killed in its first session, six and a half hours ago; latest.pt has a flipped bit."""
    events = read_log()
    crash = max(event["ts"] for event in events if event["session"] == 1)
    _write(parent / RUN_NAME, events, crash)
    damage(parent / RUN_NAME / "latest.pt")
    return Scene(parent / RUN_NAME, crash + NIGHT_S, is_alive=False)
