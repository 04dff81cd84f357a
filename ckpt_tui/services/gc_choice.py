"""Which files of the deeds' folders gc frees: those that have a valid copy which stays, and those of no use.

What nothing else here has stays, unless it was asked for by number or with all. What would free nothing stays, too:
a name of bytes that have another name which stays takes no space, nor does a symbolic link, and `undo` can still bring
it back; but a link goes with what it leads to.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ckpt_tui.records import dataclass
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.deeds import HeldFile, History, PastDeed
from ckpt_tui.services.files import tree_entries
from ckpt_tui.services.gc_items import BEHIND_LINK, GcFile
from ckpt_tui.services.journal import FOLDER_NAME
from ckpt_tui.services.names import KINDS
from ckpt_tui.services.only_copies import BAD, Copies
from ckpt_tui.services.registry import REGISTRY_NAME
from ckpt_tui.services.unlinking import leads_elsewhere
from ckpt_tui.text import safe_text

# Of several copies aside, the one whose name says most stays: a person, and the best's score, go by it.
_KIND_RANKS = {kind: rank for rank, kind in enumerate(dict.fromkeys(("latest", "best", "epoch", *KINDS)))}
_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which deeds gc is about. numbers: these and nothing else, whatever they hold; else those older than
    `older_than_s` and not among the newest `keep`. every: also what nothing else has. picked: what a person chose one
    by one, as places below the run directory, and nothing else, whatever it is."""

    numbers: tuple[int, ...] = ()
    older_than_s: float | None = None
    keep: int = 0
    every: bool = False
    picked: frozenset[str] | None = None

    @property
    def takes_only_copies(self) -> bool:
        return self.every or bool(self.numbers) or self.picked is not None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen of one deed. why: why all of it stays whatever it holds, "" where each file was looked at."""

    deed: PastDeed
    files: tuple[GcFile, ...]
    why: str


def choose(directory: str, history: History, copies: Copies, wanted: Wanted) -> list[Choice]:
    """For each deed that holds something, the oldest first, what goes and what stays."""
    if wanted.picked is not None:
        return _picked(choose(directory, history, copies, Wanted()), copies, wanted.picked)
    holding = [deed for deed in history.deeds if deed.held]
    newest = {deed.number for deed in holding[len(holding) - wanted.keep :]} if wanted.keep else set()
    staying = {file.place for deed in holding for file in deed.held}
    choices = []
    for deed in holding:
        is_behind_link = any(leads_elsewhere(directory, file.place) for file in deed.held)
        why = BEHIND_LINK if is_behind_link else _why_kept(deed, wanted, newest)
        if why:
            files = [_file(file, None, is_chosen=False, why=why) for file in deed.held]
        else:
            files = _judged_files(deed, copies, wanted, staying)
        choices.append(Choice(deed, tuple(files), why))
    if not wanted.takes_only_copies:
        choices = _without_what_frees_nothing(directory, choices, copies)
    staying = {file.place for choice in choices for file in choice.files if not file.is_chosen}
    return [_finished(choice, copies, wanted, staying) for choice in choices]


def _picked(choices: Sequence[Choice], copies: Copies, picked: frozenset[str]) -> list[Choice]:
    """What a person chose of all that may go, and of each why it is, or what it would be."""

    def told(file: GcFile) -> GcFile:
        is_picked = file.place in picked
        why = f"you keep it; {file.why}" if file.is_chosen and not is_picked else file.why
        return replace(file, is_chosen=is_picked, why=why)

    choices = [one if one.why else Choice(one.deed, tuple(map(told, one.files)), "") for one in choices]
    staying = {file.place for choice in choices for file in choice.files if not file.is_chosen}

    def finished(choice: Choice, file: GcFile) -> GcFile:
        entry = copies.entry(choice.deed.number, file.name)
        if not file.is_chosen or entry is None or file.validity in BAD:
            return file
        if copy := copies.copy_of(entry, staying):
            return replace(file, copy=copy, why="has a copy", is_only=False, is_good=False)
        checked = copies.judged(entry)
        why = "its copies go, too" if file.copy else file.why if file.is_only else "the only copy"
        return replace(file, copy="", why=why, is_only=True, validity=checked.validity, is_good=checked.is_good)

    return [
        one if one.why else Choice(one.deed, tuple(finished(one, file) for file in one.files), "") for one in choices
    ]


def _why_kept(deed: PastDeed, wanted: Wanted, newest: set[int]) -> str:
    if deed.state == "unreadable":
        return "its journal cannot be read: what it holds is not known"
    if deed.state == "interrupted":
        return "it is not finished"
    if wanted.numbers:
        return "" if deed.number in wanted.numbers else "not named"
    if deed.number in newest:
        return "among the newest, which --keep keeps"
    if wanted.older_than_s is not None and time.time() - deed.at < wanted.older_than_s:
        return "not old enough"
    return ""


def _judged_files(deed: PastDeed, copies: Copies, wanted: Wanted, staying: set[str]) -> list[GcFile]:
    """Each file of a deed, validated; `staying` loses what is chosen."""
    entries = {file.name: copies.entry(deed.number, file.name) for file in deed.held}
    found = {}
    for file in sorted(deed.held, key=lambda file: _least_wanted_first(file, entries[file.name])):
        entry = entries[file.name]
        if file.name == REGISTRY_NAME:
            judged = _file(file, None, is_chosen=True, why="only a list of the others")
        elif entry is None:
            judged = _file(file, None, is_chosen=wanted.takes_only_copies, why="what it is, is not known", is_only=True)
        else:
            judged = _judged_checkpoint(file, entry, copies, wanted, staying)
        if judged.is_chosen:
            staying.discard(file.place)
        found[file.name] = judged
    return [found[file.name] for file in deed.held]


def _judged_checkpoint(
    file: HeldFile, entry: CatalogEntry, copies: Copies, wanted: Wanted, staying: set[str]
) -> GcFile:
    if copy := copies.copy_of(entry, staying - {file.place}):
        return _file(file, entry, is_chosen=True, why="has a copy", copy=copy)
    checked = copies.judged(entry)
    if checked.validity in BAD:
        return _file(file, checked, is_chosen=True, why=checked.validity.replace("-", " "))
    said = "the only copy" if checked.validity == "valid" else f"the only one, {checked.validity.replace('-', ' ')}"
    passing, why = copies.passing_copy_of(entry)
    said = f"the only copy that stays: {why} {safe_text(passing, 120)}" if passing else said
    judged = _file(file, checked, is_chosen=wanted.takes_only_copies, why=said, is_only=True)
    return replace(judged, passing=passing)


def _least_wanted_first(file: HeldFile, entry: CatalogEntry | None) -> tuple[bool, int, int, str]:
    if entry is None:
        return (True, 0, 0, file.name)
    return (not entry.is_backup, -_KIND_RANKS[entry.kind], -(entry.step or 0), file.name)


def _file(
    file: HeldFile, entry: CatalogEntry | None, *, is_chosen: bool, why: str, copy: str = "", is_only: bool = False
) -> GcFile:
    return GcFile(
        file.name, file.place, file.size_bytes, file.is_directory, is_chosen, why,
        entry.step if entry is not None else None, entry.validity if entry is not None else "", copy, is_only,
        is_only and entry is not None and entry.is_good,
    )  # fmt: skip


def _without_what_frees_nothing(directory: str, choices: Sequence[Choice], copies: Copies) -> list[Choice]:
    """The same without names whose bytes all have names that stay: hard links; and without symbolic links."""
    inodes = {
        file.place: _inodes(os.path.join(directory, file.place))
        for choice in choices
        for file in choice.files
        if file.is_chosen
    }
    going = Counter(inode for found in inodes.values() for inode, _ in found)

    def frees_nothing(file: GcFile) -> bool:
        if file.is_chosen and is_link(file):
            return True
        found = inodes.get(file.place)
        return bool(found) and all(going[inode] < num_links for inode, num_links in found or ())

    def is_link(file: GcFile) -> bool:
        return os.path.islink(os.path.join(directory, file.place))

    def kept(file: GcFile) -> GcFile:
        if is_link(file):
            return replace(file, is_chosen=False, why="frees nothing, a symbolic link")
        other = "" if file.is_directory else copies.name_of(inodes[file.place][0][0])
        return replace(file, is_chosen=False, why=f"frees nothing, hard link of {other or 'another name'}")

    choices = [
        replace(choice, files=tuple(kept(file) if frees_nothing(file) else file for file in choice.files))
        for choice in choices
    ]
    return _without_links_to_what_goes(directory, choices)


def _without_links_to_what_goes(directory: str, choices: Sequence[Choice]) -> list[Choice]:
    """The same where a symbolic link goes with that to which it leads: put back alone, it would lead to nothing."""
    run = os.path.realpath(directory)
    going = {file.place for choice in choices for file in choice.files if file.is_chosen}

    def leads_to_what_goes(file: GcFile) -> bool:
        path = os.path.join(run, file.place)
        if file.is_chosen or not os.path.islink(path):
            return False
        leads_to = os.path.relpath(os.path.realpath(path), run)
        place = next((place for place in going if leads_to == place or leads_to.startswith(f"{place}/")), "")
        # Where it is put back, something else may have the name by then.
        return bool(place) and not os.path.lexists(os.path.join(run, *leads_to.split("/")[2:]))

    def gone(file: GcFile) -> GcFile:
        return replace(file, is_chosen=True, why="a link to what goes", copy="", is_only=False, is_good=False)

    return [
        replace(choice, files=tuple(gone(file) if leads_to_what_goes(file) else file for file in choice.files))
        if not choice.why
        else choice
        for choice in choices
    ]


def _inodes(path: str) -> list[tuple[_Inode, int]]:
    """Of each file there, by its content: the names that it has in all."""
    try:
        status = os.lstat(path)
        statuses = [status]
        if stat.S_ISDIR(status.st_mode):
            statuses = [entry.status for entry in tree_entries(path) if entry.is_file]
    except OSError:
        return []
    return [((one.st_dev, one.st_ino), one.st_nlink) for one in statuses]


def _finished(choice: Choice, copies: Copies, wanted: Wanted, staying: set[str]) -> Choice:
    """The choice with the copies that stay in the end, and with what depends on all the others."""
    files = []
    for file in choice.files:
        entry = copies.entry(choice.deed.number, file.name) if not choice.why else None
        if file.is_chosen and file.copy and entry is not None:
            copy = copies.copy_of(entry, staying)
            file = replace(file, copy=copy, why=file.why if copy else "its copies go, too")
        elif file.is_chosen and file.validity in BAD and entry is not None:
            is_only = not copies.has_step(copies.judged(entry), staying)
            file = replace(file, is_only=is_only, why=f"{file.why}, no other of its step" if is_only else file.why)
        files.append(file)
    if not wanted.takes_only_copies:
        files = [
            replace(file, is_chosen=False, why="`undo` needs it")
            if file.name == REGISTRY_NAME and file.is_chosen and _can_come_back(choice.deed, staying)
            else file
            for file in files
        ]
    return Choice(choice.deed, tuple(files), choice.why)


def _can_come_back(deed: PastDeed, staying: set[str]) -> bool:
    """Whether a deed can be taken back, or done again, when only `staying` is left of what lies aside."""
    if not (deed.can_undo or deed.can_redo):
        return False
    return not deed.needs or any(place in staying or not is_aside(place) for place in deed.needs)


def is_aside(place: str) -> bool:
    """Whether a place below the run directory is in the folder of a deed."""
    return place.startswith(f"{FOLDER_NAME}/")


def only_copy_words(files: Sequence[GcFile], most: int) -> str:
    """`latest.pt (step 400), best_model.pt (step 200) and 3 more`, for a sentence."""
    said = []
    for file in files[:most]:
        step = f"step {file.step:,}" if file.step is not None else "its step is not known"
        if not file.validity:
            step = "what it is, is not known"
        elif file.validity != "valid":
            step = f"{step}, {file.validity}"
        said.append(f"{safe_text(file.name, 120)} ({step})")
    return ", ".join(said) + (f" and {len(files) - most} more" if len(files) > most else "")
