"""Which checkpoints of a run stay where they are though the training goes on, and which its saves replace or remove.

What retention will rotate is no reason to free the copy that lies aside. Beside a live training only that counts which
no save ever takes: what is pinned, every Nth step, epochs, emergencies within their pool, branches that were left, and
names that a person gave. While nothing trains, what the next saves take does not count. Once a run has finished, all
of it does.
"""

from __future__ import annotations

import os

from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.names import NameFacts, read_name
from ckpt_tui.services.registry import stored_policy

_REPLACED = "the next saves replace"
_REMOVED = "retention removes"


class Lasting:
    """What becomes of the checkpoints in the run directory `directory`. is_owned: a training is alive in it."""

    def __init__(self, directory: str, state: RunState | None, *, is_owned: bool) -> None:
        self._is_owned = is_owned
        self._is_over = not is_owned and state is not None and state.phase is Phase.FINISHED
        policy = stored_policy(directory)
        self._is_ours = policy is not None
        every = (policy or {}).get("keep_every")
        self._keep_every = every if isinstance(every, int) and every > 0 else 0

    def why_not(self, entry: CatalogEntry) -> str:
        """Why `entry` will not stay, as words before its name (`retention removes`), "" where it will."""
        if self._is_over:
            return ""
        facts = read_name(os.path.basename(entry.name), is_directory=os.path.isdir(entry.path))
        if facts is None or not facts.is_own or "/" in entry.name:
            # Which rules another trainer has, nobody here knows; in a run of ours it is a person's own.
            is_theirs = not self._is_ours and not entry.session_id
            return "the training that runs here may remove" if self._is_owned and is_theirs else ""
        if facts.kind == "latest":
            return _REPLACED
        if facts.kind == "best":
            return "a new best replaces" if self._is_owned else ""
        if facts.kind == "rolling" and facts.is_backup:
            return _REPLACED
        return self._why_not_in_its_pool(entry, facts)

    def _why_not_in_its_pool(self, entry: CatalogEntry, facts: NameFacts) -> str:
        if entry.removed_next:
            return _REMOVED
        is_kept = entry.is_abandoned or os.path.exists(f"{entry.path}.keep") or self._is_every(entry)
        return _REMOVED if facts.kind == "rolling" and self._is_owned and not is_kept else ""

    def _is_every(self, entry: CatalogEntry) -> bool:
        return self._keep_every > 0 and entry.step is not None and entry.step % self._keep_every == 0
