"""A trainer without torch, for tests of who starts and ends trainings: it starts in a tenth of a second.

Goes on from its newest checkpoint, holds the directory's lock, saves every 5 steps, writes the event log, saves and
ends at SIGTERM. What goes wrong is given for each session: `--ends kill@12,error@17,ok`; the last one holds for all
that follow. A second one in the directory writes `twice.txt`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

from ckpt_tui.events.schema import CheckpointSaved
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.process_identity import ProcessIdentity
from tests.builders.run_directories import save


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--step-s", type=float, default=0.002)
    parser.add_argument("--save-s", type=float, default=0.0)
    parser.add_argument("--ends", default="ok")
    parser.add_argument("--waits-for", type=Path, help="a file, without which it does not come beyond step 20")
    args = parser.parse_args()
    directory: Path = args.directory
    lock = os.open(directory / "trainer.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        (directory / "twice.txt").touch()
        return 9
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(ProcessIdentity.of().fields()).encode(), 0)

    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: asked.append(number))
    log = EventWriter(directory)
    ends = args.ends.split(",")
    how, _, at = ends[min(log.session, len(ends)) - 1].partition("@")
    newest = max((int(match[1]) for name in os.listdir(directory)
                  if (match := re.fullmatch(r"rolling_step_(\d+)\.pt", name))), default=0)  # fmt: skip
    newest = 0 if how == "anew" else newest
    log.start(total_steps=args.steps, start_step=newest, config={"steps": args.steps})
    print(f"session {log.session} from {newest}", flush=True)

    def checkpoint(step: int) -> None:
        time.sleep(args.save_s)
        name = f"rolling_step_{step:06d}.pt"
        size = len(save(directory / f".{name}.tmp", step))
        (directory / f".{name}.tmp").replace(directory / name)
        log.emit(CheckpointSaved(step=step, path=name, kind="rolling", bytes=size, save_seconds=args.save_s))

    for step in range(newest + 1, args.steps + 1):
        time.sleep(args.step_s)
        while args.waits_for is not None and step == 21 and not asked and not args.waits_for.exists():
            time.sleep(0.005)
        log.step(step, loss=1.0 / step)
        if step % 5 == 0:
            checkpoint(step)
        if asked:
            checkpoint(step)
            log.end("preempted" if asked[0] == signal.SIGTERM else "interrupted", f"saved {step}")
            print(f"saved {step} after {len(asked)} signals", flush=True)
            return 128 + asked[0]
        if at and step == int(at):
            print(f"goes wrong at {step}", flush=True)
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "error":
                log.end("failed", "ValueError: bad batch")
                return 1
            if how == "diverged":
                log.end("diverged", "the loss is not finite")
                return 1
            if how == "hang":
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)
                time.sleep(600)
    log.end("finished", f"{args.steps} steps")
    print("finished", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
