"""One compact line for a person: rewritten in place on a terminal, a line of its own otherwise."""

from __future__ import annotations

import sys


class Terminal:
    def __init__(self) -> None:
        self._is_tty = sys.stdout.isatty()
        self._width = 0

    def progress(self, line: str) -> None:
        if self._is_tty:
            sys.stdout.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._is_tty and self._width:
            sys.stdout.write("\n")
            self._width = 0
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
