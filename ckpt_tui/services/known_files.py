"""What is known of a run's checkpoint files without reading what is in them: for a look at many runs.

What validation found is remembered (services/validity.py); and where the log tells of no checkpoint, the names and
heads of the files do. Both are asked for only where they can change what is said: a run without known damage whose
log tells of its saves costs one look into the memory of validations.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Phase, RunState, Save
from ckpt_tui.services import validity

if TYPE_CHECKING:
    from ckpt_tui.services.catalog_entries import CatalogEntry

MAX_REMEMBERED = 1000  # directories


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """invalid: names of what no resume takes. found: what one may take, in its order."""

    entries: tuple[CatalogEntry, ...] = ()
    invalid: frozenset[str] = frozenset()
    found: tuple[Save, ...] = ()

    @property
    def bad(self) -> tuple[str, ...]:
        """Names of what was found to be bad and has not changed since."""
        return tuple(entry.name for entry in self.entries if entry.is_bad)


_Stamp = tuple[object, ...]
_known: dict[str, tuple[_Stamp, KnownFiles]] = {}


def known_files(directory: str, state: RunState, names: Collection[str] | None) -> KnownFiles | None:
    """None where they change nothing. names: what is in the directory. state: of its run, judged without them."""
    if state.phase is Phase.WAITING or not names:
        return None
    tells_of_none = state.at_risk is None or (state.at_risk.checkpoint is None and state.step > 0)
    if not tells_of_none and not is_any_bad(directory):
        return None
    stamp = (frozenset(names), validity.stamp(), _modified(directory))
    known = _known.get(directory)
    if known is None or known[0] != stamp:
        while len(_known) >= MAX_REMEMBERED:
            del _known[next(iter(_known))]
        known = _known[directory] = (stamp, read_known_files(directory))
    return known[1]


def known_bad(directory: str) -> tuple[str, ...]:
    """Names of what was known to be bad when that run was looked at."""
    known = _known.get(directory)
    return known[1].bad if known is not None and is_any_bad(directory) else ()


def is_any_bad(directory: str) -> bool:
    """Whether something in it was ever found to be bad; it may have changed since."""
    return os.path.realpath(directory) in validity.directories_with_bad()


def read_known_files(directory: str) -> KnownFiles:
    """Of one run, whatever its log tells."""
    from ckpt_tui.services.catalog import read_catalog
    from ckpt_tui.services.damage import found_checkpoints, invalid_names

    try:
        entries = read_catalog(directory).entries
    except CkptError:
        return KnownFiles()
    return KnownFiles(entries, invalid_names(entries), found_checkpoints(entries))


def _modified(directory: str) -> int:
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:
        return 0
