"""What the ranks other than main have where main writes: a log and checkpoints that take everything and do nothing.

So the training reads the same on every rank, and only one of them writes what is one file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from ckpt_tui.events.lineage import Lineage
from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.resume import Source


class SilentLog(EventWriter):
    """Main writes the log."""

    on_event: Callable[[Event], None] | None = None

    def emit(self, event: Event) -> bool:
        return True

    def _look(self) -> None:
        """Nothing is opened."""


class FollowedCheckpoints(Checkpointer):
    """Main saves, keeps and finds."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    @property
    def last_step(self) -> int:
        return -1

    @property
    def lineage(self) -> Lineage:
        return ()

    def settle(self, source: Source) -> None:
        """Main does."""

    def save(self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str = "regular") -> None:
        """Main does."""

    def save_now(
        self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str = "emergency"
    ) -> str | None:
        return None

    def poll(self) -> None:
        """Main does."""

    def wait(self) -> None:
        """Main does."""

    def close(self) -> None:
        """Main does."""
