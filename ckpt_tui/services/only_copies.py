"""Which of the checkpoints that lie aside have a valid copy that stays: validated before anything is freed.

A copy counts when it stays, also when the training goes on (`lasting.py`), is valid now, and is of the same step and
the same session; a resume has to be able to start from it where one can from the other. Other people's checkpoints do
not tell their session: of a run that was rolled back and trained on, one may have the name and the step of another, and
only the same bytes are a copy. So it is with names that the trainer does not give: a person may have edited it, or
salvaged it in part. A symbolic link is no copy of what it leads to. What nobody could judge, or what a program with
code in its checkpoints may need, counts as an only copy.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from ckpt_tui.services.catalog import Catalog, read_catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.copies import are_same
from ckpt_tui.services.deed_record import INCOMING_NAME
from ckpt_tui.services.deeds import HeldFile
from ckpt_tui.services.files import tree_entries
from ckpt_tui.services.journal import FOLDER_NAME
from ckpt_tui.services.names import read_name

Check = Callable[[CatalogEntry], CatalogEntry]
# Of no use to a training, whatever else may be got out of them.
BAD = frozenset({"damaged", "nonfinite", "not-a-checkpoint"})


class Copies:
    """The checkpoints of a directory and of the folders of its deeds, each validated when it is first asked for."""

    def __init__(
        self,
        catalog: Catalog,
        held: Mapping[int, Sequence[HeldFile]],
        check: Check,
        advance: Callable[[int], None] | None = None,
        why_passing: Callable[[CatalogEntry], str] = lambda _: "",
    ) -> None:
        """why_passing: of one in the run directory, why it will not stay there, "" where it will."""
        self._directory = catalog.directory
        self._entries = catalog.entries
        self._held = held
        self._check = check
        self._advance = advance
        self._why_passing = why_passing
        self._checked: dict[str, CatalogEntry] = {}
        self._compared: dict[tuple[str, str], bool] = {}
        self._lying: dict[str, bool] = {}
        self._aside: dict[int, dict[str, CatalogEntry]] = {}
        self._incoming: dict[int, dict[str, CatalogEntry]] = {}

    def entry(self, number: int, name: str) -> CatalogEntry | None:
        """What the file `name` of a deed's folder says of itself, not yet validated; None when it is no checkpoint."""
        return self._aside_entries(number).get(name)

    def incoming_entry(self, number: int, name: str) -> CatalogEntry | None:
        """The same of what lies in its `incoming/`."""
        if number not in self._incoming:
            folder = os.path.join(self._directory, FOLDER_NAME, str(number), INCOMING_NAME)
            self._incoming[number] = {e.name: e for e in read_catalog(folder).entries}
        return self._incoming[number].get(name)

    def judged(self, entry: CatalogEntry) -> CatalogEntry:
        """The same, validated."""
        if entry.path not in self._checked:
            self._checked[entry.path] = self._check(entry)
        return self._checked[entry.path]

    def copy_of(self, entry: CatalogEntry, staying: Collection[str]) -> str:
        """Where a valid copy of `entry` lies that stays, below the run directory: there, or among the places `staying`
        of what lies aside. "" when there is none."""
        if entry.step is None:
            return ""
        others = self._elsewhere(entry, staying)
        return next(
            (place for place, other in others if not self._passes(other, place) and self._is_copy(entry, other)), ""
        )

    def passing_copy_of(self, entry: CatalogEntry) -> tuple[str, str]:
        """Where a valid copy lies that will not stay, and why (`retention removes`); "" where there is none."""
        if entry.step is None:
            return "", ""
        others = (
            (place, why, other) for place, other in self._elsewhere(entry, ()) if (why := self._passes(other, place))
        )
        return next(((place, why) for place, why, other in others if self._is_copy(entry, other)), ("", ""))

    def has_step(self, entry: CatalogEntry, staying: Collection[str]) -> bool:
        """Whether something valid of its step stays, whoever made it: for what is of no use itself."""
        return entry.step is None or any(
            other.step == entry.step and not other.is_bad and self.judged(other).is_good
            for _, other in self._elsewhere(entry, staying)
        )

    def name_of(self, inode: tuple[int, int]) -> str:
        """The name in the run directory of the file `inode` (device, number), "" where it has none that is known."""
        for entry in self._entries:
            with contextlib.suppress(OSError):
                status = os.lstat(entry.path)
                if (status.st_dev, status.st_ino) == inode:
                    return entry.name
        return ""

    def newest_valid(self) -> CatalogEntry | None:
        """The first in the order of a resume that is valid now, among those in the run directory."""
        for entry in resume_order(self._entries):
            if entry.can_resume and self._lies_there(entry, entry.name) and (checked := self.judged(entry)).is_good:
                return checked
        return None

    def _elsewhere(self, entry: CatalogEntry, staying: Collection[str]) -> Iterator[tuple[str, CatalogEntry]]:
        for other in self._entries:
            if self._lies_there(other, other.name):
                yield other.name, other
        for number in self._held:
            for name, other in self._aside_entries(number).items():
                place = f"{FOLDER_NAME}/{number}/{name}"
                if place in staying and other is not entry and self._lies_there(other, place):
                    yield place, other

    def _passes(self, entry: CatalogEntry, place: str) -> str:
        return "" if place.startswith(f"{FOLDER_NAME}/") else self._why_passing(entry)

    def _lies_there(self, entry: CatalogEntry, place: str) -> bool:
        """Whether its bytes lie at its own place, or outside the run directory, and not at another place in it, to
        which a link leads, and which may go."""
        if place not in self._lying:
            run = os.path.realpath(self._directory)
            own = os.path.join(run, place)
            paths = [entry.path]
            try:
                if os.path.isdir(entry.path):
                    inside = tree_entries(os.path.realpath(entry.path))
                    paths += [os.path.join(entry.path, e.path) for e in inside if stat.S_ISLNK(e.status.st_mode)]
                found = [os.path.realpath(path) for path in paths]
                self._lying[place] = all(
                    path == own or path.startswith(own + os.sep) or not path.startswith(run + os.sep) for path in found
                )
            except OSError:
                self._lying[place] = False
        return self._lying[place]

    def _is_copy(self, entry: CatalogEntry, other: CatalogEntry) -> bool:
        if (other.step, other.session_id) != (entry.step, entry.session_id) or other.is_bad:
            return False
        is_told = bool(entry.session_id) and _is_own(entry) and _is_own(other)
        if not is_told and not self._has_same_bytes(entry, other):
            return False
        checked = self.judged(other)
        is_as_whole = checked.validity == "valid" or (checked.is_good and bool(self.judged(entry).lacks))
        return is_as_whole and (checked.can_resume or not entry.can_resume)

    def _has_same_bytes(self, entry: CatalogEntry, other: CatalogEntry) -> bool:
        pair = (entry.path, other.path)
        if pair not in self._compared:
            try:
                self._compared[pair] = are_same(entry.path, other.path, self._advance)
            except OSError:
                self._compared[pair] = False
        return self._compared[pair]

    def _aside_entries(self, number: int) -> dict[str, CatalogEntry]:
        if number not in self._aside:
            folder = os.path.join(self._directory, FOLDER_NAME, str(number))
            names = {file.name for file in self._held.get(number, ())}
            self._aside[number] = {e.name: e for e in read_catalog(folder).entries if e.name in names}
        return self._aside[number]


def _is_own(entry: CatalogEntry) -> bool:
    """Whether the trainer gives that name, so that what it says of itself is what the trainer saved."""
    facts = read_name(os.path.basename(entry.name), is_directory=os.path.isdir(entry.path))
    return facts is not None and facts.is_own
