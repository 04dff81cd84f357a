"""The lineage of a run directory: where it is written, and how it is found again when that is gone."""

from __future__ import annotations

import os
import secrets

from ckpt_tui.events.lineage import Lineage, Segment, lineage_now
from ckpt_tui.events.schema import LOG_NAME
from trainer.checkpoint.registry import Registry, lineage_of_file

_MAX_OPENED = 8


def new_segment(session: int, start_step: int = 0, source: str = "") -> Segment:
    """A session begins. Its id is no function of the seed: two runs of the same seed are two runs."""
    return Segment(session, secrets.token_hex(8), start_step, source)


def lineage_of(directory: str, registry: Registry) -> Lineage | None:
    """The lineage of the run as it is now, None when nothing tells: then every checkpoint lies on it.

    As the registry has it, or a session that went on from there and died before it could tell the registry; without
    one, as the log does; without that, that of the newest session's checkpoints.
    """
    if registry.lineage is not None:
        return registry.lineage
    log_path = os.path.join(directory, LOG_NAME)
    known = lineage_now(registry.stored_lineage, log_path, registry.untold) or _of_newest(directory, registry)
    # The registry knows those checkpoints from its next writing on: what they tell of the run must be in it, too.
    registry.stored_lineage = known
    return known


def _of_newest(directory: str, registry: Registry) -> Lineage | None:
    made = [entry for entry in registry.entries.values() if entry["session_id"] and entry["step"] is not None]
    made.sort(key=lambda entry: (-entry["session"], -entry["step"], entry["path"]))
    for entry in made[:_MAX_OPENED]:
        known = lineage_of_file(os.path.join(directory, entry["path"]))
        if known is not None:
            return known
    return None
