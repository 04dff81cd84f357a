"""Small programs that stand in for trainings, real processes that are up in a blink: they log, save and end, or not.

Each writes `up` to its output when it is ready for signals. DIRECTORY is argv[1].
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from ckpt_tui.process_identity import ProcessIdentity

REPO = Path(__file__).parents[2]

_BEGIN = """
import os, signal, sys, time
from ckpt_tui.events.schema import CheckpointSaved, SignalReceived
from ckpt_tui.events.writer import EventWriter
directory = sys.argv[1]
log = EventWriter(directory)
log.start(config={}, total_steps=1000)
def save(name, step):
    with open(os.path.join(directory, name), "wb") as file:
        file.write(b"x" * 100)
    log.emit(CheckpointSaved(step=step, path=name, kind="rolling", bytes=100, names=[name], save_seconds=0.1))
for step in range(1, 8):
    log.step(step, loss=1.0, step_seconds=1.0)
    if step == 4:
        save("rolling_step_000004.pt", 4)
"""
# A trainer of ours, as far as a stop can see: holds the lock, tells of the signal, saves (once there is the file that
# it was told of), tells its end.
SAVES = (
    """
from trainer.checkpoint.lock import DirectoryLock
import sys
lock = DirectoryLock(sys.argv[1])
"""
    + _BEGIN
    + """
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
print("up", flush=True)
may_save = sys.argv[2] if len(sys.argv) > 2 else directory  # a file
while not asked:
    time.sleep(0.005)
log.emit(SignalReceived(step=7, signal="SIGTERM", action="saves and stops"))
while not os.path.exists(may_save):
    time.sleep(0.005)
print("signals", len(asked), flush=True)
save("emergency_step_000007_20260101_101010.pt", 7)
log.end("preempted", "SIGTERM, saved", step=7)
sys.exit(143)
"""
)
# Somebody's loop that logs with our writer and does not know of signals.
DIES = _BEGIN + 'print("up", flush=True)\ntime.sleep(100)\n'
# One that catches the signal, and ends without saving.
CATCHES = _BEGIN + (
    'signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))\nprint("up", flush=True)\ntime.sleep(100)\n'
)
IGNORES = _BEGIN + 'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint("up", flush=True)\ntime.sleep(100)\n'


class StandIn:
    """One such process, with its output in `output`. Leave it with `end()`."""

    def __init__(
        self,
        code: str,
        directory: Path,
        *arguments: str,
        before: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.output = directory.parent / f"{directory.name}.output"
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-c", code, str(directory), *arguments], cwd=REPO, stdout=file, stderr=file,
                stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})},
            )  # fmt: skip
        self.pid = self.process.pid
        self.identity = ProcessIdentity.of(self.pid)
        wait_for(lambda: self.has_said("up") or self.process.poll() is not None, "it did not come up")
        assert self.process.poll() is None, self.output.read_text()

    def has_said(self, word: str) -> bool:
        return word in self.output.read_text()

    def record_launch(self, directory: Path) -> None:
        """As if it was started by `resume`."""
        (directory / "launch.json").write_text(json.dumps({**self.identity.fields(), "log": "x", "command": []}))

    def end(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # a thread of the test may have waited for it just now
            for process in psutil.Process(self.pid).children(recursive=True) if self.process.poll() is None else []:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)
