"""What a person sees of a training on its own terminal: one line, rewritten; plain lines now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

PLAIN_EVERY_S = 10.0


class Progress:
    """Prints to stdout; never more often than a person can read."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self._is_terminal = sys.stdout.isatty()
        self._next = 0.0

    def step(self, step: int, metrics: Mapping[str, Any], val_loss: float | None) -> None:
        now = time.monotonic()
        if now < self._next and step != self.total_steps:
            return
        self._next = now + (0.2 if self._is_terminal else PLAIN_EVERY_S)
        val = f"  val {val_loss:.3f}" if val_loss is not None and math.isfinite(val_loss) else ""
        line = (
            f"step {step:,} / {self.total_steps:,}  loss {metrics['loss']:.3f}{val}  "
            f"lr {metrics['lr']:.2e}  {metrics['tokens_per_s']:,.0f} tok/s"
        )
        if self._is_terminal:
            sys.stdout.write(f"\r\x1b[K{line}")
            sys.stdout.flush()
        else:
            print(line, flush=True)

    def close(self, line: str) -> None:
        print(f"\r\x1b[K{line}" if self._is_terminal else line, flush=True)
