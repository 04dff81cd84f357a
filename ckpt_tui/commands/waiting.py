"""Waiting for a training that was started or asked to end: each thing that it does is told on stderr, once.

Ctrl+C ends the waiting and not what is waited for.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable
from typing import Protocol

from ckpt_tui.output import Output
from ckpt_tui.text import duration


class _Progress(Protocol):
    @property
    def stage(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def sentence(self) -> str: ...


class Interrupted(threading.Event):
    """Set by Ctrl+C, for as long as it is entered."""

    def __enter__(self) -> Interrupted:
        # Elsewhere than in the main thread no signal comes, and nobody presses Ctrl+C.
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, lambda number, frame: self.set())
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)


def teller(out: Output) -> Callable[[_Progress], None]:
    """A callback that says what is new, with the seconds it took; nothing where nobody reads it."""
    said: list[str] = []

    def tell(progress: _Progress) -> None:
        if not out.as_json and progress.sentence not in (*said[-1:], "") and progress.stage != "ended":
            said.append(progress.sentence)
            out.note(f"{duration(progress.seconds):>8}  {progress.sentence}")

    return tell


def seconds(text: str) -> float:
    """A number of seconds to wait, as an argument."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e7:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number of seconds")
    return value
