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
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.services.surroundings import Surroundings
from ckpt_tui.tui.screens.runs import RunsHeader
from screenshots.make import moment, names_at, read_log
from tests.builders.run_directories import damage, torch_zip, training_state

RUN_NAME = "gpt-stdlib"
ENV = {"COLORTERM": "truecolor", "TERM": "xterm-256color", "LANG": "en_US.UTF-8"}
NIGHT_S = 6.5 * 3600
_STOPPED = SimpleNamespace(monotonic=lambda: 0.0)


class Scene:
    """What is looked at, the time `now`, Unix seconds, and the name of the run whose process lives."""

    def __init__(self, directory: Path, now: float, alive: str = "") -> None:
        # A relative path: where the test lies must not show.
        self.directory, self.now, self.alive = Path(os.path.relpath(directory)), now, alive

    def monitor(self) -> RunMonitor | None:
        """With its own clock; None for a directory of runs."""
        if not (self.directory / "events.jsonl").exists():
            return None
        return RunMonitor(str(self.directory), clock=lambda: self.now)

    @contextmanager
    def process(self) -> Iterator[None]:
        """The recorded process is long gone: whether it lives is part of the scene."""

        def is_alive(around: Surroundings, *_: object) -> bool:
            return Path(around.directory).name == self.alive

        set_parts = RunsHeader.set_parts

        def without_place(header: RunsHeader, name: str, *parts: Any) -> None:
            set_parts(header, f"/home/you/{Path(name).name}", *parts)

        with (
            patch("ckpt_tui.services.surroundings.Surroundings.is_alive", is_alive),
            patch.object(RunsHeader, "set_parts", without_place),
            patch("time.time", lambda: self.now),
            patch("socket.gethostname", lambda: "gpu-17"),  # where the recorded log says that it ran
            patch("ckpt_tui.checkpoints.validate.time", _STOPPED),  # how long it took is on the screen
            patch("ckpt_tui.checkpoints.diff.time", _STOPPED),
        ):
            yield


def _write(directory: Path, events: list[dict[str, Any]], until: float, cwd: str = "/home/you") -> None:
    """The run at `until`. cwd: where it says that it was started; its length moves every byte behind it."""
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
                told |= {
                    "cwd": cwd,
                    "argv": ["python3", *event["argv"][1:]],
                    "host": "gpu-17",
                }
            elif event["event"] == "checkpoint_saved":
                told |= {"bytes": sizes.get(event["step"], 10_000), "digest": ""}
            log.write(json.dumps(told) + "\n")
    os.utime(directory / "events.jsonl", (until, until))
    os.utime(directory, (until, until))


def running(parent: Path) -> Scene:
    """In its third session, at step 8,000 of 10,000."""
    events = read_log()
    now = moment(events, 3, 8000)
    _write(parent / RUN_NAME, events, now)
    return Scene(parent / RUN_NAME, now, alive=RUN_NAME)


def crashed(parent: Path) -> Scene:
    """Killed in its first session, six and a half hours ago; latest.pt has a flipped bit."""
    events = read_log()
    crash = max(event["ts"] for event in events if event["session"] == 1)
    _write(parent / RUN_NAME, events, crash, cwd=str(parent.resolve()))  # it is there: a resume starts in it
    damage(parent / RUN_NAME / "latest.pt")
    return Scene(parent / RUN_NAME, crash + NIGHT_S)


def runs(parent: Path) -> Scene:
    """Three runs of one directory: running, crashed while it learned at half the rate, finished."""
    parent = parent / "runs"
    parent.mkdir()
    scene = running(parent)
    events = read_log()
    crash = max(event["ts"] for event in events if event["session"] == 1)
    halved = [
        {**event, "config": {**event["config"], "lr": 0.001, "seed": 2}, "run_name": "half-lr"}
        if event["event"] == "run_start"
        else event
        for event in events
    ]
    _write(parent / "half-lr", halved, crash)
    _write(parent / "short", [*events, *_end(events)], events[-1]["ts"])
    return Scene(parent, max(scene.now, events[-1]["ts"]), alive=RUN_NAME)


def _end(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if events[-1]["event"] == "run_end":
        return []
    return [{**events[-1], "event": "run_end", "seq": events[-1]["seq"] + 1, "status": "finished", "reason": ""}]
