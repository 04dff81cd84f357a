"""The standing on a terminal: a few lines at the bottom that are redrawn, above them the lines that stay.

Drawn here and not by `rich.live`, which hides the cursor (a killed training would leave the terminal without one), ends
with an error when the terminal goes away, and leaves ghosts when a window gets narrower. Rich gives bar and colours.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from textwrap import wrap
from typing import TYPE_CHECKING, BinaryIO, TextIO

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.text import Text

from ckpt_tui import text
from trainer.standing import Standing, pace_words

if TYPE_CHECKING:
    from trainer.terminal import Outlet

FRAME_SECONDS = 0.25
MIN_WIDTH, MIN_HEIGHT = 20, 6
# Without a frame for so long we were stopped (Ctrl+Z), and a shell has written below it.
_STOPPED_SECONDS = 2.0
_BLOCKS = "▁▂▃▄▅▆▇█"
_ROLES = {"good": "green", "warning": "yellow", "error": "red", "plain": ""}


class Live:
    """Draws `standing` until `stop`. While it does, what others print goes above it, line by line."""

    def __init__(self, standing: Standing, out: Outlet) -> None:
        self._standing, self._out = standing, out
        self._lock = threading.RLock()
        self._drawn: list[int] = []  # widths of the lines of the frame that is on the screen
        self._drawn_at = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="terminal", daemon=True)
        self._streams: tuple[TextIO, TextIO] | None = None
        self.unicode = "utf" in out.encoding.lower()
        self._console = Console(file=io.StringIO(), force_terminal=True, width=10_000, highlight=False, markup=False,
                                emoji=False, legacy_windows=False)  # fmt: skip

    def start(self) -> None:
        self._streams = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = _Above(self, sys.stdout), _Above(self, sys.stderr)
        self._thread.start()

    def stop(self) -> None:
        """The last frame stays."""
        self._stopping.set()
        self._thread.join(timeout=2.0)
        if self._streams is not None:
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, _Above):
                    stream.finish()
            sys.stdout, sys.stderr = self._streams
        self._draw()

    def print(self, clock: str, line: str, role: str) -> None:
        """A line above the frame, on as many rows as it takes."""
        with self._lock:
            if not self.is_in_front():
                self._drawn = []
            is_trouble = role in ("warning", "error")
            room = max(self._size()[0] - len(clock) - 3, MIN_WIDTH)
            # By hand: a terminal breaks within words, and the rest of the line would begin at the margin.
            first, *rest = wrap(line, room) if len(line) > room else [line]
            word, space, others = first.partition(" ")
            shown = [Text.assemble((f"{clock}  ", "dim"), (word, _ROLES[role]),
                                   (space + others, _ROLES[role] if is_trouble else ""))]  # fmt: skip
            shown += [Text(" " * (len(clock) + 2) + row, _ROLES[role] if is_trouble else "") for row in rest]
            self._write([self._painted(row) for row in shown])

    def is_in_front(self) -> bool:
        """False while a shell has the terminal, and we are a job in the background: then nothing is redrawn."""
        try:
            return os.tcgetpgrp(self._out.fd) == os.getpgrp()
        except OSError:
            return True  # not our controlling terminal (a pty of somebody's): nobody else writes there

    def _run(self) -> None:
        while not self._stopping.wait(FRAME_SECONDS):
            # A frame that cannot be drawn is no reason to end anything; the lines still come.
            with contextlib.suppress(Exception):
                self._draw()

    def _draw(self) -> None:
        with self._lock:
            if self.is_in_front():
                self._write([])
            else:
                self._drawn = []

    def _write(self, above: list[str]) -> None:
        """One write: back to the frame's first line, the lines that stay, the frame."""
        now = time.monotonic()
        if now - self._drawn_at > _STOPPED_SECONDS:
            self._drawn = []
        self._drawn_at = now
        width, height = self._size()
        lines = self.frame(width, height, now) if self.is_in_front() else []
        # The cursor waits on the line below the frame, where the shell's prompt goes on when we are killed. A terminal
        # that got narrower has wrapped the old frame.
        rows = sum(max(-(-cells // width), 1) for cells in self._drawn)
        parts = [f"\x1b[{rows}A\r" if rows else "\r"]
        if above or rows > len(lines):
            parts.append("\x1b[J")
        parts += [f"{line}\n" for line in above]
        parts += [f"{self._painted(line)}\x1b[K\n" for line in lines]
        self._drawn = [line.cell_len for line in lines]
        self._out.write("".join(parts))

    def _size(self) -> tuple[int, int]:
        try:
            width, height = os.get_terminal_size(self._out.fd)
        except OSError:
            width, height = 80, 24
        return width or 80, height or 24

    def _painted(self, line: Text) -> str:
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return capture.get()

    def frame(self, width: int, height: int, now: float) -> list[Text]:
        """The lines of the frame, none longer than the terminal is wide (less one: some wrap a full line)."""
        width, gap = max(width - 1, MIN_WIDTH), "   " if width >= 100 else "  "
        head, figures, safety = self._head(now), self._figures(), self._safety(now)
        if height < MIN_HEIGHT:
            return [_flowed([*head[:1], *figures[:1]], width, gap)[0]]
        wanted = sum(part.cell_len + len(gap) for part in head)
        if width - wanted >= 16:
            first = Text.assemble(self._bar(min(width - wanted, 60)), gap, Text(gap).join(head))
            lines = [first]
        else:
            lines = [self._bar(width), *_flowed(head, width, gap)]
        lines += _flowed(figures, width, gap)
        if width >= 100 and self.unicode and (spark := self._sparkline(width - lines[-1].cell_len - len(gap))):
            lines[-1] = Text.assemble(lines[-1], gap, (spark, "cyan"))
        return [*lines, *_flowed(safety, width, gap)][: height - 2]

    def _bar(self, width: int) -> Text:
        bar = ProgressBar(total=1.0, completed=self._standing.fraction, width=width, complete_style="cyan",
                          finished_style="green", style="bright_black")  # fmt: skip
        options = self._console.options.update(width=width)
        options.encoding = "utf-8" if self.unicode else "ascii"
        pieces = [(segment.text, segment.style or "") for segment in self._console.render(bar, options)]
        line = Text.assemble(*[(piece, style) for piece, style in pieces if piece != "\n"])
        line.align("left", width)  # without colours the part that is to come is not drawn
        return line

    def _head(self, now: float) -> list[Text]:
        standing = self._standing
        steps = f"step {standing.step:,}"
        if not standing.total_steps:
            return [Text(steps, "bold")]
        parts = [Text(f"{int(100 * standing.fraction)} %", "bold"),
                 Text(f"{steps} / {standing.total_steps:,}")]  # fmt: skip
        eta = standing.eta_s()
        if standing.fraction < 1:
            parts.append(Text(f"eta {text.duration(eta)}" if eta is not None else f"{self._waited(now)}"))
        return parts

    def _waited(self, now: float) -> str:
        return f"first step for {text.duration(max(now - self._standing.started_at, 0.0))}"

    def _figures(self) -> list[Text]:
        standing = self._standing
        parts = []
        if standing.loss is not None:
            is_bad = standing.loss - standing.loss != 0
            parts.append(
                Text.assemble(("loss ", "dim"), (text.metric(standing.loss), "bold red" if is_bad else "bold"))
            )
        if standing.val_loss is not None:
            parts.append(Text.assemble(("val ", "dim"), text.metric(standing.val_loss)))
        if standing.best is not None:
            parts.append(
                Text.assemble(("best ", "dim"), text.metric(standing.best), (f" @{standing.best_step:,}", "dim"))
            )
        if standing.lr is not None:
            parts.append(Text.assemble(("lr ", "dim"), f"{standing.lr:.2g}"))
        if (pace := standing.steps_per_s) is not None:
            parts.append(Text(pace_words(pace)))
        if standing.tokens_per_s is not None:
            parts.append(Text(f"{text.short_count(standing.tokens_per_s)} tok/s"))
        return parts

    def _safety(self, now: float) -> list[Text]:
        standing = self._standing
        steps, seconds = standing.at_risk(now)
        if standing.durable_step is None:
            saved = Text("no checkpoint yet", "yellow")
        elif standing.saved_at is None:
            saved = Text(f"resumed from {standing.durable_step:,}")
        else:
            saved = Text(f"saved {standing.durable_step:,}, {text.short_age(now - standing.saved_at)} ago")
        parts = [saved, Text(f"at risk {text.plural(steps, 'step')}, {text.duration(seconds)}")]
        if standing.num_skipped:
            parts.append(Text(f"{standing.num_skipped:,} skipped", "yellow"))
        if standing.saves_that_fit is not None and standing.saves_that_fit < 10:
            role = "red" if standing.saves_that_fit < 3 else "yellow"
            parts.append(Text(f"{text.plural(max(standing.saves_that_fit, 0), 'save')} fit", role))
        silent_s = now - standing.stepped_at
        pace = standing.steps_per_s
        if pace and silent_s > max(5.0, 5 / pace) and standing.fraction < 1:
            parts.append(Text(f"no step for {text.duration(silent_s)}", "yellow"))
        return parts

    def _sparkline(self, width: int) -> str:
        values = [value for value in self._standing.losses if value - value == 0][-max(width, 0) :]
        if width < 10 or len(values) < 10:
            return ""
        low, high = min(values), max(values)
        scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
        return "".join(_BLOCKS[round((value - low) * scale)] for value in values)


class _Above(io.TextIOBase):
    """Stands in for a stream while the frame is drawn: whole lines of what is printed go above it."""

    def __init__(self, live: Live, stream: TextIO) -> None:
        self._live, self._stream, self._rest = live, stream, ""

    def write(self, string: str, /) -> int:
        *whole, self._rest = (self._rest + string).split("\n")
        for line in whole:
            self._live.print(" " * 8, text.safe_text(line, 4000), "plain")
        return len(string)

    def finish(self) -> None:
        if self._rest:
            self.write("\n")

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def buffer(self) -> BinaryIO:
        """Bytes cannot be put above the frame; who writes them gets the stream itself."""
        return self._stream.buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def _flowed(parts: list[Text], width: int, gap: str) -> list[Text]:
    """Parts side by side, in more lines where they do not fit; one that is too long is cut."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + len(gap) + part.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], gap, part)
        else:
            lines.append(part.copy())
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines
