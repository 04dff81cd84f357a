"""Which of the checkpoints that lie aside are the only valid copy of their step: validated before anything is freed.

A copy counts when it stays, is valid now, and is of the same step and the same session; a resume has to be able to
start from it where one can from the other. Other people's checkpoints do not tell their session: of a run that was
rolled back and trained on, one may have the name and the step of another, and only the same bytes are a copy. What
nobody could judge, or what a program with code in its checkpoints may need, counts as an only copy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from ckpt_tui.records import dataclass
from ckpt_tui.services.catalog import Catalog, CatalogEntry, read_catalog, resume_order
from ckpt_tui.services.copies import are_same
from ckpt_tui.services.deeds import HeldFile
from ckpt_tui.services.journal import FOLDER_NAME
from ckpt_tui.services.registry import REGISTRY_NAME
from ckpt_tui.text import safe_text

Check = Callable[[CatalogEntry], CatalogEntry]
# Of no use to a training, whatever else may be got out of them.
_BAD = frozenset({"damaged", "nonfinite", "not-a-checkpoint"})


@dataclass(frozen=True, slots=True)
class OnlyCopy:
    """A checkpoint that nothing else here has. why: what it is, in words. is_valid: validation passed, and a training
    can resume from it."""

    place: str
    why: str
    is_valid: bool


class Copies:
    """The checkpoints of a directory and of the folders of its deeds, each validated when it is first asked for."""

    def __init__(
        self,
        catalog: Catalog,
        held: Mapping[int, Sequence[HeldFile]],
        check: Check,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self._directory = catalog.directory
        self._entries = catalog.entries
        self._held = held
        self._check = check
        self._advance = advance
        self._checked: dict[str, CatalogEntry] = {}
        self._aside: dict[int, dict[str, CatalogEntry]] = {}
        # Places, below the run directory, of what was found valid, and what something is freed because of.
        self.relied_on: set[str] = set()

    def only_in(self, number: int, staying: Iterable[int]) -> list[OnlyCopy]:
        """What the folder of a deed has that neither the run directory nor the deeds `staying` have."""
        found = []
        staying = [other for other in staying if other != number]
        for file in self._held[number]:
            if file.name == REGISTRY_NAME:
                continue
            entry = self._aside_entries(number).get(file.name)
            if entry is None:
                found.append(OnlyCopy(file.place, f"{safe_text(file.name, 120)} (what it is, is not known)", False))
                continue
            if entry.step is not None and self._stands_in(entry, staying):
                continue
            checked = self._judged(entry)
            if checked.validity in _BAD:
                continue
            step = f"step {checked.step:,}" if checked.step is not None else "its step is not known"
            said = step if checked.validity == "valid" else f"{step}, {checked.validity}"
            found.append(OnlyCopy(file.place, f"{safe_text(file.name, 120)} ({said})", checked.is_good))
        return found

    def newest_valid(self) -> CatalogEntry | None:
        """The first in the order of a resume that is valid now, among those in the run directory."""
        for entry in resume_order(self._entries):
            if entry.can_resume and (checked := self._judged(entry)).is_good:
                return checked
        return None

    def _stands_in(self, entry: CatalogEntry, staying: Sequence[int]) -> bool:
        here = ((other.name, other) for other in self._entries)
        aside = (
            (f"{FOLDER_NAME}/{number}/{other.name}", other)
            for number in staying
            for other in self._aside_entries(number).values()
        )
        for place, other in chain(here, aside):
            if self._is_copy(entry, other):
                self.relied_on.add(place)
                return True
        return False

    def _is_copy(self, entry: CatalogEntry, other: CatalogEntry) -> bool:
        if (other.step, other.session_id) != (entry.step, entry.session_id) or other.is_bad:
            return False
        if not entry.session_id and not self._has_same_bytes(entry, other):
            return False
        checked = self._judged(other)
        is_as_whole = checked.validity == "valid" or (checked.is_good and bool(self._judged(entry).lacks))
        return is_as_whole and (checked.can_resume or not entry.can_resume)

    def _has_same_bytes(self, entry: CatalogEntry, other: CatalogEntry) -> bool:
        try:
            return are_same(entry.path, other.path, self._advance)
        except OSError:
            return False

    def _aside_entries(self, number: int) -> dict[str, CatalogEntry]:
        if number not in self._aside:
            folder = os.path.join(self._directory, FOLDER_NAME, str(number))
            names = {file.name for file in self._held.get(number, ())}
            self._aside[number] = {e.name: e for e in read_catalog(folder).entries if e.name in names}
        return self._aside[number]

    def _judged(self, entry: CatalogEntry) -> CatalogEntry:
        if entry.path not in self._checked:
            self._checked[entry.path] = self._check(entry)
        return self._checked[entry.path]
