"""Which checkpoints of a run directory lie on the branch that the run is on now: decided as the trainer decides it.

Only reads. The rules themselves are in `events/lineage.py`, which the trainer uses, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.events.lineage import Lineage, lineage_now, read_lineage
from ckpt_tui.events.schema import LOG_NAME

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.model import Checkpoint

_MAX_OPENED = 8


def run_lineage(
    directory: str, stored: Lineage | None, untold: Iterable[Lineage], made: Iterable[tuple[int, int, str]]
) -> Lineage | None:
    """The lineage of the run in `directory`, None when nothing tells: then no checkpoint is called left behind.

    stored: what the registry says. untold: the lineages of checkpoints that the registry does not know.
    made: (session, step, path) of the checkpoints that were made by a session with a lineage.
    """
    known = lineage_now(stored, os.path.join(directory, LOG_NAME), untold)
    if known is not None:
        return known
    for _, _, path in sorted(made, key=lambda row: (-row[0], -row[1], row[2]))[:_MAX_OPENED]:
        if (found := lineage_of_path(path)) is not None:
            return found
    return None


def fork_step(now: Lineage | None, other: Lineage | None, other_step: int) -> int | None:
    """The last step that the branch `now` shares with a checkpoint of `other_step` on the branch `other`; None where
    nothing is known of one of them."""
    if not now or not other:
        return None
    num_shared = 0
    while num_shared < min(len(now), len(other)) and now[num_shared] == other[num_shared]:
        num_shared += 1
    if not num_shared:
        return 0
    left_at = now[num_shared].start_step if num_shared < len(now) else other_step
    went_on_at = other[num_shared].start_step if num_shared < len(other) else other_step
    return max(min(left_at, went_on_at, other_step), 0)


def lineage_of_path(path: str) -> Lineage | None:
    """The lineage in the checkpoint at `path`, None when it cannot be read or does not tell."""
    from ckpt_tui.checkpoints.registry import open_checkpoint

    try:
        return lineage_in(open_checkpoint(path))
    except CkptError:
        return None


def lineage_in(checkpoint: Checkpoint) -> Lineage | None:
    """The lineage that a checkpoint holds; of a directory, in whichever of its files."""
    state = checkpoint.state
    if not isinstance(state, Mapping):
        return None
    inner = [part for part in state.values() if isinstance(part, Mapping) and "lineage" in part]
    return next((found for part in (state, *inner) if (found := read_lineage(part.get("lineage")))), None)
