"""How far a training that was just started has come, and why when it has ended: lock, log, first step, last lines."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME, ErrorRaised, Event, RunEnd, RunStart, Step
from ckpt_tui.records import dataclass
from ckpt_tui.services.last_lines import last_lines, read_tail
from ckpt_tui.services.system import lock_owner
from ckpt_tui.sources.jsonl import JsonlSource
from ckpt_tui.text import duration, safe_text

_TAIL_LINES = 12
_TELL_EVERY_S = 1.0
_RANK = re.compile(r"^\[(?:rank|default)?\d+\]:\s?")
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Failed|Killed|Timeout)\b")
_SAYS_AN_ERROR = re.compile(r"(?:\S+: )?(?:error|fatal|cannot|trainer): ?", re.IGNORECASE)
_JOB = re.compile(rb"^Submitted batch job (\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class StartProgress:
    """stage: started, locked (the trainer holds the directory), begun (its log tells of the session), stepping (its
    first new step), submitted (a cluster's job), ended. seconds: since it was started. sentence: for a person."""

    stage: str
    seconds: float
    sentence: str
    step: int | None = None


OnProgress = Callable[[StartProgress], None]


class TrainingDiedError(CkptError):
    """A training was started and ended with a failure while it was looked at.

    exit_code: negative for a signal. reason: in one line, "" when its output does not tell. lines: its last ones, safe
    for a terminal.
    """

    def __init__(self, exit_code: int, seconds: float, log_path: str, begin: int) -> None:
        self.exit_code = exit_code
        self.seconds = seconds
        self.log_path = log_path
        self.lines = tuple(safe_text(line, 400) for line in last_lines(log_path, begin, _TAIL_LINES))
        self.reason = reason_in(self.lines)
        why = self.reason or (f"its last lines: {' | '.join(self.lines)}" if self.lines else "it has written nothing")
        super().__init__(
            "The training ended at once",
            f"{ending_words(exit_code)} after {duration(seconds)}: {safe_text(why, 1500)}",
            f"All of its output is in {log_path}.",
        )


class StartWatch:
    """Looks at the directory of a training that was just started, and tells each thing that is new."""

    def __init__(self, directory: str, on_progress: OnProgress | None) -> None:
        self._directory = directory
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._told_at = self._began
        self.progress = StartProgress("started", 0.0, "")
        path = os.path.join(directory, LOG_NAME)
        self._log = JsonlSource(path)
        with contextlib.suppress(OSError):
            self._log.skip_to(os.stat(path).st_size)  # what comes after this moment is its

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def tell(self, stage: str, sentence: str, step: int | None = None) -> None:
        self.progress = StartProgress(stage, self.seconds, sentence, step)
        self._told_at = time.monotonic()
        if self._on_progress is not None:
            self._on_progress(self.progress)

    def look(self) -> None:
        """Tell what is new; once a second the same again, with the seconds."""
        if self.progress.stage == "started" and lock_owner(self._directory) is not None:
            self.tell("locked", "The trainer holds the directory.")
        for event in self._log.poll().events:
            if isinstance(event, RunStart):
                source = (event.resumed_from or {}).get("path")
                come_from = f" from {safe_text(source, 200)}" if source else ""
                self.tell("begun", f"Session {event.session} begins{come_from} at step {event.start_step:,}.")
            elif isinstance(event, Step) and self.progress.stage != "stepping":
                self.tell("stepping", f"It trains: step {event.step:,}.", event.step)
            elif isinstance(event, (RunEnd, ErrorRaised)):
                word = event.status if isinstance(event, RunEnd) else f"{event.type}: {event.message}"
                self.tell(self.progress.stage, f"Its log says: {safe_text(word, 200)}.", _step_of(event))
        if time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self.tell(self.progress.stage, self.progress.sentence, self.progress.step)


def _step_of(event: Event) -> int | None:
    return event.step or None


def ending_words(exit_code: int) -> str:
    """How a process ended, for a person."""
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        return f"killed by {name}" + (" (out of memory? `dmesg` tells)" if exit_code == -signal.SIGKILL else "")
    meaning = {126: " (it may not be executed)", 127: " (a command was not found)"}.get(exit_code, "")
    return f"exit code {exit_code}{meaning}"


def reason_in(lines: tuple[str, ...]) -> str:
    """The line that says why: the last exception of a traceback, else the last line that calls itself an error."""
    stripped = [_RANK.sub("", line) for line in lines]
    found = [line for line in stripped if _EXCEPTION.match(line)]
    # What torchrun says of its children comes last and tells nothing.
    own = [line for line in found if "ChildFailedError" not in line]
    said = [line for line in stripped if _SAYS_AN_ERROR.match(line)]
    for kind in (own, said, found):
        if kind:
            return kind[-1]
    return ""


def submitted_job(path: str, begin: int) -> str:
    """The number of the job that `sbatch` says it has submitted, "" for none."""
    found = _JOB.findall(read_tail(path, begin))
    return found[-1].decode() if found else ""
