"""What is known of a run beside its log, at the moment in which a state is asked for."""

from __future__ import annotations

from collections.abc import Collection

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import NextStart, Save


@dataclass(frozen=True, slots=True)
class Beside:
    """As far as somebody looked.

    is_process_alive: of the last session's process, None when it cannot be known. trains_in: where that process trains,
    of a directory that is a copy of it; else "". invalid_checkpoints: names known to be damaged. existing_names: what
    is in the run directory, None when nobody looked. usual_pause_s: a silence that this run may have come back from
    before, though the events so far do not tell of it. found_checkpoints: files that a resume may take, of which the
    log may not tell: it was cut, or its trainer tells of no saves. next_start: of a run that nobody trains, the start
    that its supervisor is about to make, or that somebody has made.
    """

    is_process_alive: bool | None = None
    invalid_checkpoints: Collection[str] = ()
    existing_names: Collection[str] | None = None
    usual_pause_s: float = 0.0
    found_checkpoints: tuple[Save, ...] = ()
    trains_in: str = ""
    next_start: NextStart | None = None


NOTHING = Beside()
