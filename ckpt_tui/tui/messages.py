"""What the threads tell the screens. Only the newest of a kind matters: older ones collapse in the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

from ckpt_tui.run.state import RunState

if TYPE_CHECKING:
    from ckpt_tui.errors import CkptError
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.tui.supervised import Supervised


class _NewestWins(Message):
    source: object = None  # the RunSession that it is about: one that was closed meanwhile is not heard

    def can_replace(self, message: Message) -> bool:
        return type(message) is type(self) and getattr(message, "source", None) is self.source


class StateChanged(_NewestWins):
    """The run as it stands now. At most one a tick. progress: how much of the log is read, None when all of it."""

    def __init__(self, state: RunState, progress: float | None = None) -> None:
        super().__init__()
        self.state = state
        self.progress = progress
        self.supervised: Supervised | None = None  # looked at in the same thread


class CatalogChanged(_NewestWins):
    """The checkpoints in the run directory."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__()
        self.catalog = catalog


class SessionFailed(_NewestWins):
    """The log or the directory can no longer be read; shown in place, and tried again."""

    def __init__(self, error: CkptError) -> None:
        super().__init__()
        self.error = error
