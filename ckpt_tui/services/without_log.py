"""What can be said of a training that keeps no log: its newest checkpoint, and when that was. Only reads."""

from __future__ import annotations

from ckpt_tui import text
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.services.catalog import read_catalog, resume_order


@dataclass(frozen=True, slots=True)
class NewestCheckpoint:
    """Of a directory without a log: what a resume would try first. num_checkpoints: how many there are in all."""

    name: str
    kind: str
    step: int | None
    saved_at: float | None
    num_checkpoints: int

    def words(self, now: float) -> str:
        """`No log was found, so nothing tells how it goes. Newest of 12 checkpoints: latest.pt, step 600, ...`"""
        step = f", step {self.step:,}" if self.step is not None else ""
        ago = f", {text.duration(max(now - self.saved_at, 0.0))} ago" if self.saved_at is not None else ""
        name = text.safe_text(self.name, 120)
        kind = f" ({self.kind})" if self.kind != "other" and not name.startswith(self.kind) else ""
        which = "Its only checkpoint" if self.num_checkpoints == 1 else f"Newest of {self.num_checkpoints} checkpoints"
        return f"No log was found, so nothing tells how it goes. {which}: {name}{kind}{step}{ago}."


def newest_checkpoint(directory: str) -> NewestCheckpoint | None:
    """None where there is no checkpoint, or the directory cannot be read."""
    try:
        entries = read_catalog(directory).entries
    except CkptError:
        return None
    order = resume_order(entry for entry in entries if not entry.is_bad)
    if not order:
        return None
    newest = order[0]
    return NewestCheckpoint(newest.name, newest.kind, newest.step, newest.saved_at, len(entries))
