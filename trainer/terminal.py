"""What a person sees of a training: lines that stay, and where it stands now.

On a terminal the standing is a few lines that are redrawn (`trainer.live`); anywhere else it is a compact line now and
then, without a carriage return or an escape code: log files are read with `less` and `grep`.

Nobody may be listening any more (`| head`, a closed connection, a full disk under a redirected log), or listen too
slowly (`| less`, Ctrl+S): what cannot be printed at once is dropped, and neither ends a training nor holds it up.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.events.schema import (
    Best,
    CheckpointSaved,
    Disk,
    Eval,
    Event,
    LostWork,
    Nonfinite,
    RunEnd,
    SaveAdvice,
    SignalReceived,
    Step,
)
from ckpt_tui.events.words import words_of
from trainer.standing import Standing

if TYPE_CHECKING:
    from trainer.live import Live

PRINT_SECONDS = 10.0
# Of lines that come with every save and every skipped batch, no more than one in this time.
ROUTINE_SECONDS = 1.0
_MAX_WAITING = 200
_CHUNK_BYTES = 4096  # a pipe that poll() calls writable takes so many without blocking


class Outlet:
    """Writes to stdout as it was when this was made, without ever blocking or raising."""

    def __init__(self) -> None:
        self._stream = sys.stdout
        self.fd = -1
        # None: it was closed before Python began (`>&-`); its number may be another file's by now.
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                self.fd = self._stream.fileno()
        self._poll = select.poll()
        if self.fd >= 0:
            self._poll.register(self.fd, select.POLLOUT)
        self.encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._waiting: deque[bytes] = deque(maxlen=_MAX_WAITING)

    def is_terminal(self) -> bool:
        return self.fd >= 0 and os.isatty(self.fd) and os.environ.get("TERM", "dumb") != "dumb"

    def write(self, string: str, wait_ms: int = 0) -> None:
        """Write it, after what is still waiting; what nobody takes within `wait_ms` waits, the oldest is dropped."""
        if self._stream is None:
            return
        if self.fd < 0:  # a stream of somebody else's, in memory
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(string)
            return
        data = string.encode(self.encoding, "backslashreplace")
        self._waiting.extend(data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES))
        self._drain(wait_ms)

    def flush(self, wait_ms: int = 1000) -> None:
        """Give what waits a last chance."""
        self._drain(wait_ms)

    def _drain(self, wait_ms: int) -> None:
        try:
            while self._waiting and self._poll.poll(wait_ms):
                chunk = self._waiting[0]
                written = os.write(self.fd, chunk)
                self._waiting.popleft()
                if written < len(chunk):
                    self._waiting.appendleft(chunk[written:])
        except OSError:
            self._waiting.clear()


class Terminal:
    """Tells of one session. Give its `on_event` to the log, its `at_step` every step.

    print_seconds: least time between two lines of progress where no terminal is. is_quiet: say nothing, one of several
    processes tells of all.
    """

    def __init__(self, print_seconds: float = PRINT_SECONDS, *, is_quiet: bool = False) -> None:
        self.standing = Standing()
        self._is_quiet = is_quiet
        self._print_seconds = print_seconds
        self._out = Outlet()
        self._live: Live | None = None
        self._lock = threading.RLock()
        self._last_print = -1e9
        self._last_routine: dict[str, float] = {}
        self._num_untold: dict[str, int] = {}
        self._untold: dict[str, tuple[str, str]] = {}  # the newest line that was not told, and its role
        self._eval: Eval | None = None

    def begin(self, run_name: str, total_steps: int, step: int, *, durable_step: int | None = None) -> None:
        """Training begins at `step`; durable_step: of the checkpoint that it goes on from."""
        self.standing.begin(run_name, total_steps, step, durable_step)
        if self._out.is_terminal() and not self._is_quiet:
            from trainer.live import Live

            self._live = Live(self.standing, self._out)
            self._live.start()

    def at_step(self, step: int) -> None:
        """A step is completed. Cheap: what is drawn is drawn by another thread."""
        self.standing.at_step(step, time.monotonic())

    def say(self, lines: str, role: str = "plain") -> None:
        """Lines that stay. role: plain, good, warning, error. Any text: what could speak to the terminal is escaped."""
        clock = time.strftime("%H:%M:%S")
        with self._lock:
            for number, line in enumerate(lines.rstrip("\n").split("\n")):
                shown = text.safe_text(line, 4000)
                self._line(" " * len(clock) if number else clock, shown, role)

    def on_event(self, event: Event) -> None:
        """Tell what an event means for a person, if it does. Never raises: it is called by the log."""
        with self._lock:
            if not isinstance(event, Best):
                self._tell_eval(is_best=False)
            match event:
                case Step():
                    self.standing.took(event)
                    self._progress(event.step)
                case Eval():
                    self.standing.evaluated(event)
                    self._eval = event
                case Best():
                    self.standing.best, self.standing.best_step = event.value, event.step
                    self._tell_eval(is_best=True)
                case CheckpointSaved():
                    self.standing.saved(event, time.monotonic())
                    self._routine("save", f"saved {words_of(event)[0]}", "good")
                case Nonfinite(rolled_back_to=int(step)):
                    self.standing.at_step(step, time.monotonic())
                case Nonfinite():
                    self.standing.num_skipped += 1
                    what = event.what if event.what == "spike" else f"{event.what} is not finite"
                    self._routine("skip", f"step {event.step:,}: {what}, {event.action}", "warning")
                case SignalReceived():
                    self.say(words_of(event)[0], "warning")
                case RunEnd():
                    self._tell_untold()  # before what is said of the end
                case LostWork() | SaveAdvice():
                    words, role = words_of(event)
                    self.say(words, "plain" if role == "info" else role)
                case Disk():
                    self.standing.saves_that_fit = event.saves_that_fit
                    if event.saves_that_fit is not None and event.saves_that_fit < 3:
                        self._routine("disk", f"the disk is nearly full: {words_of(event)[0]}", "warning")

    def close(self) -> None:
        """Leave the lines on the terminal, with the last standing."""
        with self._lock:
            self._tell_eval(is_best=False)
            self._tell_untold()
            live, self._live = self._live, None
        if live is not None:
            live.stop()
        self._out.flush()

    def _line(self, clock: str, line: str, role: str) -> None:
        if self._is_quiet:
            return
        if self._live is not None:
            self._live.print(clock, line, role)
        else:
            self._out.write(f"{clock}  {line}\n")

    def _routine(self, what: str, line: str, role: str) -> None:
        """One of many lines alike: when they come too fast, the next that is told says how many were not."""
        now = time.monotonic()
        untold = self._num_untold.get(what, 0)
        is_hidden = role != "warning" and self._live is not None and not self._live.is_in_front()
        if is_hidden or now - self._last_routine.get(what, -1e9) < ROUTINE_SECONDS:
            self._num_untold[what], self._untold[what] = untold + 1, (line, role)
            return
        self._last_routine[what], self._num_untold[what] = now, 0
        self._untold.pop(what, None)
        self.say(f"{line} (and {untold:,} more before)" if untold else line, role)

    def _tell_untold(self) -> None:
        """The newest of each kind of routine line, which is what counts at the end."""
        for what, (line, role) in self._untold.items():
            untold = self._num_untold[what] - 1
            self.say(f"{line} (and {untold:,} more before)" if untold else line, role)
        self._untold.clear()
        self._num_untold.clear()

    def _tell_eval(self, *, is_best: bool) -> None:
        event, self._eval = self._eval, None
        if event is not None:
            words = f"step {event.step:,}: {words_of(event)[0]}{', the best so far' if is_best else ''}"
            self._routine("eval", words, "plain")

    def _progress(self, step: int) -> None:
        now = time.monotonic()
        is_last = step >= self.standing.total_steps > 0
        if self._live is None and (now - self._last_print >= self._print_seconds or is_last):
            self._last_print = now
            self._line(time.strftime("%H:%M:%S"), self.standing.line(now), "plain")
