"""What the ranks other than main have where main writes: a log and checkpoints that take everything and do nothing.

So the training reads the same on every rank, and only one of them writes what is one file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ckpt_tui.events.lineage import Lineage
from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.background import Background
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.forms import form_of
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish import PublishError
from trainer.checkpoint.resume import Source


class SilentLog(EventWriter):
    """Main writes the log."""

    on_event: Callable[[Event], None] | None = None

    def emit(self, event: Event) -> bool:
        return True

    def _look(self) -> None:
        """Nothing is opened."""


class FollowedCheckpoints(Checkpointer):
    """Main finds and keeps. Where each process writes its part (dcp), this one does whenever main saves."""

    def __init__(self, directory: str, policy: Policy) -> None:
        self.directory, self.policy = directory, policy
        self._form = form_of("dcp", directory) if policy.checkpoint_format == "dcp" else None
        self._background = Background()

    @property
    def last_step(self) -> int:
        return -1

    @property
    def lineage(self) -> Lineage:
        return ()

    def settle(self, source: Source) -> None:
        """Main does."""

    def save(self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str = "regular") -> None:
        if self._form is None or not self._is_wanted(kinds):
            return
        self.wait()
        self._form.take(state)
        if self.policy.is_async:
            self._background.start(self._write)
        else:
            self._write()

    def save_now(
        self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str = "emergency"
    ) -> str | None:
        if self._form is not None:
            self.wait()
            self._form.take(state)
            self._write()
        return None

    def poll(self) -> None:
        """Main tells."""

    def wait(self) -> None:
        self._background.wait()

    def close(self) -> None:
        self.wait()

    def _is_wanted(self, kinds: Collection[str]) -> bool:
        return not (self.policy.save_best_only and kinds and not set(kinds) & {"best", "emergency"})

    def _write(self) -> None:
        assert self._form is not None
        # Main heard of it and tells; what broke the connection, the next step finds out.
        with contextlib.suppress(PublishError, RuntimeError):
            self._form.finish()
