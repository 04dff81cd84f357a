"""Makes the pictures in this directory from recorded real runs: `python screenshots/make.py`.

`recorded/` holds logs of real trainings of the bundled trainer: `events.jsonl.gz` was killed twice (SIGKILL) and
resumed, `low-lr.jsonl.gz` killed once. They are told up to a moment, the first in a directory whose checkpoints are
written by the trainer's own code with a model of the recorded size, and the app draws them on a terminal of a given
size. Needs the extra `trainer`.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
RECORDED = HERE / "recorded" / "events.jsonl.gz"
RECORDED_LOW_LR = HERE / "recorded" / "low-lr.jsonl.gz"
RUN_NAME = "gpt-stdlib"


def read_log(recorded: Path = RECORDED) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(recorded.read_bytes()).splitlines()]


def moment(events: Sequence[dict[str, Any]], session: int, step: int) -> float:
    """When the recorded session had trained that far, Unix seconds."""
    return next(e["ts"] for e in events if e["session"] == session and e["event"] == "step" and e["step"] >= step)


def write_log(directory: Path, events: Sequence[dict[str, Any]], until: float) -> None:
    """The recorded lines up to `until`, as if the run had been started beside this directory."""
    with open(directory / "events.jsonl", "w") as log:
        for event in events:
            if event["ts"] > until:
                break
            if event["event"] == "run_start":
                event = {**event, "cwd": str(directory.parent), "argv": ["python3", *event["argv"][1:]]}
            log.write(json.dumps(event) + "\n")


def names_at(events: Sequence[dict[str, Any]], until: float) -> dict[str, dict[str, Any]]:
    """The checkpoints that the log tells of and that are still there at `until`: name -> the event of its content."""
    there: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["ts"] > until:
            break
        if event["event"] == "checkpoint_saved":
            for old, new in (("latest.pt", "latest_backup.pt"), ("best_model.pt", "best_model_previous.pt")):
                if old in event["names"] and old in there:
                    there[new] = there[old]
            there.update(dict.fromkeys(event["names"], event))
        elif event["event"] == "checkpoint_removed":
            there.pop(event["path"], None)
    return there


def write_checkpoints(directory: Path, events: Sequence[dict[str, Any]], until: float) -> None:
    """The checkpoints that the log tells of and that are still there at `until`, of the recorded size."""
    import torch

    start = next(event for event in events if event["event"] == "run_start")
    sizes = {name: start["config"][name] for name in ("n_layer", "n_head", "n_embd", "block_size")}
    flags = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [sys.executable, "-m", "trainer", "--out", scratch, *flags, "--max_steps", "40", "--batch_size", "4",
             "--checkpoint_freq", "2", "--keep_checkpoints", "40", "--threads", "1"],
            check=True, cwd=HERE.parent, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        trained = [torch.load(path, weights_only=True) for path in sorted(Path(scratch).glob("rolling_step_*.pt"))]
    there = names_at(events, until)
    steps = sorted({event["step"] for event in there.values()})
    lineages = {event["session"]: event.get("lineage") for event in events if event["event"] == "run_start"}
    losses = [event for event in events if event["event"] == "step"]
    for name, event in there.items():
        # A later checkpoint gets the weights of a later step, so that comparing two of them shows what it would.
        state = trained[steps.index(event["step"]) - len(steps)]
        state.update(step=event["step"], val_loss=event["val_loss"], timestamp=event["ts"], args=start["config"])
        state["epoch"] = event["step"] / start["steps_per_epoch"]
        state["train_loss"] = [one["loss"] for one in losses if one["step"] <= event["step"]][-1]
        state["scheduler"]["last_epoch"] = event["step"]
        # Of the recorded session, and not of the training whose weights these are: else they would be left branches.
        state["lineage"] = lineages[event["session"]]
        if state["lineage"] is None:
            del state["lineage"]
        torch.save(state, directory / name)
        os.utime(directory / name, (event["ts"], event["ts"]))


def write_runs(directory: Path, events: Sequence[dict[str, Any]], now: float) -> None:
    """Three runs: the recorded one that goes on; its first session, as a run that stayed dead; and another recorded
    run, of a fifth of the learning rate and another seed, as if it had been killed a quarter of an hour ago."""
    write_log(_empty(directory / RUN_NAME), events, now)
    first = [event for event in events if event["session"] == 1]
    write_log(_empty(directory / "gpt-first"), [{**event, "run_name": "gpt-first"} for event in first], now)
    other = read_log(RECORDED_LOW_LR)
    moved_s = now - 900 - other[-1]["ts"]
    other = [{**event, "ts": event["ts"] + moved_s} for event in other]
    # It was recorded later, by a trainer with more settings; what the first did not know does not tell them apart.
    other[0]["config"] = {key: value for key, value in other[0]["config"].items() if key in events[0]["config"]}
    write_log(_empty(directory / other[0]["run_name"]), other, now)
    for name, told in ((RUN_NAME, events), ("gpt-first", first), (other[0]["run_name"], other)):
        write_checkpoints(directory / name, told, now)
    for run in directory.iterdir():
        ended = json.loads((run / "events.jsonl").read_text().splitlines()[-1])["ts"]
        os.utime(run / "events.jsonl", (ended, ended))


def _empty(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


async def draw(
    directory: Path,
    now: float,
    pictures: Sequence[tuple[str, int, int, Sequence[str]]],
    alive: Sequence[str] = (),
    theme: str = "auto",
) -> None:
    """One picture each: (name, columns, rows, keys pressed first). directory: a run, or a directory of runs.

    The recorded processes are long gone: `alive` names the runs whose process lives in this scene.
    """
    from ckpt_tui.services.monitor import RunMonitor
    from ckpt_tui.services.surroundings import Surroundings
    from ckpt_tui.settings import Settings
    from ckpt_tui.tui.app import CkptTuiApp

    def is_alive(around: Surroundings, *_: object) -> bool:
        return Path(around.directory).name in alive

    env = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for name, columns, rows, pressed in pictures:
        is_run = (directory / "events.jsonl").exists()
        monitor = RunMonitor(str(directory), clock=lambda: now) if is_run else None
        with (
            patch("ckpt_tui.services.surroundings.Surroundings.is_alive", is_alive),
            patch("time.time", lambda: now),
        ):
            app = CkptTuiApp(str(directory), monitor=monitor, env=env, settings=Settings(theme=theme))
            async with app.run_test(size=(columns, rows)) as pilot:
                await settle(pilot)
                for key in pressed:
                    await pilot.press(key)
                    await settle(pilot)
                svg = app.export_screenshot(title=f"ckpt-tui watch {directory.name}", simplify=True)
        # Rich numbers its classes by a random id: keep the files stable from run to run.
        identifier = re.search(r"terminal-(\d+)-", svg)
        if identifier:
            svg = svg.replace(identifier[0], "terminal-")
        # The list of runs says where it is; a place of the same length keeps the picture's columns.
        svg = re.sub(r"/tmp/tmp\w{8}\b", "/home/you/models", svg)
        target = HERE / f"{name}-{columns}x{rows}.svg"
        target.write_text(svg)
        print(target.relative_to(HERE.parent))


async def settle(pilot: Any) -> None:
    """Until the screen has stayed the same for a second: the threads have told what they found."""
    before, same = "", 0
    for _ in range(100):
        await pilot.pause(0.1)
        now = pilot.app.export_screenshot()
        same = same + 1 if re.sub(r"terminal-\d+", "", now) == before else 0
        before = re.sub(r"terminal-\d+", "", now)
        if same >= 10:
            return
    raise TimeoutError("the screen never came to rest")


def main() -> None:
    os.environ.update(TEXTUAL_ANIMATIONS="none", TZ="UTC")
    time.tzset()
    events = read_log()
    crash = max(e["ts"] for e in events if e["session"] == 1)
    running = moment(events, 3, 8000)
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("CACHE", "CONFIG", "STATE"):
            os.environ[f"XDG_{kind}_HOME"] = f"{scratch}/{kind}"
        directory = Path(scratch) / RUN_NAME

        def scene(until: float) -> None:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            write_log(directory, events, until)
            write_checkpoints(directory, events, until)

        scene(running)
        pictures = [("overview", 120, 40, ()), ("overview", 80, 24, ()), ("inspect", 120, 40, ("i", "n")),
                    ("diff", 80, 24, ("d", "n")), ("help", 80, 24, ("question_mark",)), ("advice", 80, 24, ("A",)),
                    ("metrics", 120, 40, ("m",)), ("events", 80, 24, ("e",))]  # fmt: skip
        asyncio.run(draw(directory, running, pictures, alive=(RUN_NAME,)))
        picture = [("colour-blind", 120, 40, ("y", "s"))]
        asyncio.run(draw(directory, running, picture, alive=(RUN_NAME,), theme="colour-blind"))

        scene(crash)
        damaged = bytearray((directory / "latest.pt").read_bytes())
        damaged[len(damaged) // 2] ^= 0x10
        (directory / "latest.pt").write_bytes(damaged)
        night = crash + 6.5 * 3600
        pictures = [("crashed", 80, 24, ()), ("crashed", 120, 40, ()), ("restore", 80, 24, ("b",)),
                    ("resume", 80, 24, ("r",)), ("what-happened", 80, 24, ("w",))]  # fmt: skip
        asyncio.run(draw(directory, night, pictures))

        runs = Path(scratch) / "runs"
        write_runs(runs, events, running)
        pictures = [("runs", 80, 24, ()), ("compare", 120, 40, ("space", "down", "space", "C", "y", "s"))]
        asyncio.run(draw(runs, running, pictures, alive=(RUN_NAME,)))


if __name__ == "__main__":
    main()
