"""Events as TensorBoard's scalars and texts, below `tensorboard/` in the run directory.

A resumed session goes on in the same run: it says from which step on what an earlier one wrote is void, and
TensorBoard hides that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ckpt_tui.events.schema import Eval, Event, RunStart, event_name
from ckpt_tui.events.words import words_of
from trainer.observers.scalars import scalars_of

FOLDER = "tensorboard"


class TensorBoard:
    def __init__(self, directory: str) -> None:
        self._directory = os.path.join(directory, FOLDER)
        self._writer: Any = None

    def observe(self, events: Sequence[Event]) -> None:
        for event in events:
            self._observe(event)
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _observe(self, event: Event) -> None:
        if self._writer is None:
            # `run_start` comes first; of an earlier session what lies beyond its step was not trained on from.
            start = event.start_step if isinstance(event, RunStart) else event.step
            self._writer = SummaryWriter(self._directory, purge_step=start + 1 if event.session > 1 else None)
        for tag, value in scalars_of(event).items():
            self._writer.add_scalar(tag, value, event.step, walltime=event.ts)
        if isinstance(event, RunStart):
            rows = "".join(f"|{key}|{value}|\n" for key, value in event.config.items())
            self._writer.add_text("config", f"|setting|value|\n|-|-|\n{rows}", event.step, walltime=event.ts)
        words, _ = words_of(event)
        if words and not isinstance(event, Eval):
            self._writer.add_text(f"events/{event_name(event)}", words, event.step, walltime=event.ts)
