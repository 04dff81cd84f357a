"""What happens to the log of a training that goes on: each accident of SPEC section 2, on a real file.

A `TrainingLog` writes ten steps; an accident happens; `go_on()` writes five more, as the training would.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.builders.event_logs import LogText


class TrainingLog:
    """A training that this process is. now: the time of its newest line."""

    def __init__(self, directory: Path, name: str = "gpt", start_ts: float = 1_790_000_000.0) -> None:
        self.path = directory / "events.jsonl"
        self.log = LogText(start_ts)
        self.step = 0
        self.write(
            self.log.add("run_start", run_name=name, total_steps=100, pid=os.getpid(), host=socket.gethostname())
        )
        self.go_on(10)

    @property
    def now(self) -> float:
        return self.log.ts

    def write(self, *lines: bytes) -> None:
        with self.path.open("ab") as file:
            for line in lines:
                file.write(line)

    def line(self) -> bytes:
        """The next step's."""
        self.step += 1
        return self.log.add("step", self.step, ts=self.log.ts + 1, loss=5.0 - self.step / 100)

    def go_on(self, num_steps: int = 5) -> None:
        for _ in range(num_steps):
            self.write(self.line())


Poll = Callable[[], object]


@dataclass(frozen=True)
class Accident:
    """num_bad: bad lines that are to be counted. notice: a word of what is to be said, "" for nothing.
    num_lost: step lines that nobody can read any more. lost_steps: trained again. num_missing: gaps in seq."""

    happen: Callable[[TrainingLog, Poll], None]
    num_bad: int = 0
    notice: str = ""
    num_lost: int = 0
    lost_steps: int = 0
    num_missing: int = 0
    name: str = "gpt"

    def __repr__(self) -> str:
        return self.happen.__name__


def torn(training: TrainingLog, poll: Poll) -> None:
    line = training.line()
    training.write(line[:30])
    poll()
    training.write(line[30:50])
    poll()
    training.write(line[50:])


def garbage(training: TrainingLog, poll: Poll) -> None:
    training.write(b"Traceback (most recent call last):\n")


def nul_bytes(training: TrainingLog, poll: Poll) -> None:
    training.write(bytes(4096), training.line())


def invalid_utf8(training: TrainingLog, poll: Poll) -> None:
    line = training.line()
    training.write(line[:-2] + b', "note": "\xff\xfe"}\n', b"\xc3\x28\n")


def line_of_50_mb(training: TrainingLog, poll: Poll) -> None:
    training.write(b'{"v": 1, "event": "step", "note": "')
    for _ in range(50):
        training.write(b"x" * 1_000_000)
        poll()
    training.write(b'"}\n')


def byte_order_mark(training: TrainingLog, poll: Poll) -> None:
    training.write(b"\xef\xbb\xbf" + training.line())


def truncated(training: TrainingLog, poll: Poll) -> None:
    lines = training.path.read_bytes().splitlines(keepends=True)
    os.truncate(training.path, len(b"".join(lines[:6])))


def rotated(training: TrainingLog, poll: Poll) -> None:
    training.go_on(2)  # nobody has read these yet
    training.path.rename(training.path.with_name("events.1.jsonl"))


def deleted_and_back(training: TrainingLog, poll: Poll) -> None:
    training.path.unlink()
    poll()


def deleted_while_it_is_written(training: TrainingLog, poll: Poll) -> None:
    with training.path.open("ab", buffering=0) as file:
        training.path.unlink()
        poll()
        file.write(training.line())
        poll()


def replaced_by_another_run(training: TrainingLog, poll: Poll) -> None:
    training.path.rename(training.path.with_name("old"))
    other = TrainingLog(training.path.parent, "other", training.now + 60)
    training.log, training.step = other.log, other.step


def clock_back(training: TrainingLog, poll: Poll) -> None:
    training.log.ts -= 3600.0


def step_back(training: TrainingLog, poll: Poll) -> None:
    training.step -= 4


def disk_full(training: TrainingLog, poll: Poll) -> None:
    """Half a line fits; later there is room again, and who writes does not know where it stopped."""
    training.write(training.line()[:40])
    poll()


def disk_full_then_newline(training: TrainingLog, poll: Poll) -> None:
    training.write(training.line()[:40], b"\n")


def directory_in_its_place(training: TrainingLog, poll: Poll) -> None:
    aside = training.path.with_name("aside")
    training.path.rename(aside)
    training.path.mkdir()
    poll()
    training.path.rmdir()
    aside.rename(training.path)


def absurd_session(training: TrainingLog, poll: Poll) -> None:
    training.write(training.line().replace(b'"session": 1', b'"session": 987654321'))


def another_process(training: TrainingLog, poll: Poll) -> None:
    """A second training begins beside the first; both write."""
    line = training.log.add("run_start", training.step, 2, run_name="gpt", total_steps=100, pid=os.getpid(),
                            host=socket.gethostname(), start_step=training.step)  # fmt: skip
    training.write(line)
    for _ in range(3):
        stranger = training.line()
        training.step -= 1
        own = training.line().replace(b'"session": 1', b'"session": 2')
        training.write(stranger, own)
        poll()
    lines = training.line

    def of_second() -> bytes:
        return lines().replace(b'"session": 1', b'"session": 2')

    training.line = of_second  # type: ignore[method-assign]


ACCIDENTS = (
    Accident(torn), Accident(garbage, num_bad=1), Accident(nul_bytes, num_bad=1), Accident(invalid_utf8, num_bad=1),
    Accident(line_of_50_mb, num_bad=1), Accident(byte_order_mark),
    Accident(truncated, notice="truncated", num_lost=5, num_missing=5), Accident(rotated, notice="replaced"),
    Accident(deleted_and_back, notice="read again"), Accident(deleted_while_it_is_written, notice="read again"),
    Accident(replaced_by_another_run, notice="replaced", name="other"), Accident(clock_back),
    Accident(step_back, lost_steps=4), Accident(disk_full, num_bad=1, num_lost=1, num_missing=1),
    Accident(disk_full_then_newline, num_bad=1, num_lost=1, num_missing=1),
    Accident(directory_in_its_place, notice="read again"), Accident(absurd_session),
    Accident(another_process, notice="two trainings"),
)  # fmt: skip
