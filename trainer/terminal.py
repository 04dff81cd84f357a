"""One compact line for a person: rewritten in place on a terminal, a line of its own otherwise.

Nobody may be listening any more (`| head`, a closed connection, a full disk under a redirected log): a line that
cannot be printed is dropped, and never ends a training or keeps it from its emergency save.
"""

from __future__ import annotations

import contextlib
import sys


class Terminal:
    def __init__(self) -> None:
        self._is_tty = sys.stdout.isatty()
        self._width = 0

    def progress(self, line: str) -> None:
        if self._is_tty:
            self._write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._write(line + "\n")

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._is_tty and self._width:
            self._write("\n")
            self._width = 0
        self._write(line + "\n")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(text)
            sys.stdout.flush()
