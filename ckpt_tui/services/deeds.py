"""The history of a run directory's deeds: what was done when, what each still holds, and which can be taken back.

Reads journals and names only: for everybody who may read the directory, also while a training runs.
"""

from __future__ import annotations

import os
from typing import Literal

from ckpt_tui.errors import from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.services import journal
from ckpt_tui.services.deed_record import INCOMING_NAME, JOURNAL_NAME, Freed, is_unwritten_journal, names_in
from ckpt_tui.services.deed_words import told_words
from ckpt_tui.services.files import content_of
from ckpt_tui.services.journal import FOLDER_NAME, Deed, folder_of
from ckpt_tui.services.reachable import needed_for, why_gone
from ckpt_tui.services.undo import why_no_redo
from ckpt_tui.services.whereabouts import REDO, UNDO, Whereabouts, taken_back, trace
from ckpt_tui.text import safe_text

_MAX_NAMES = 6
DeedState = Literal["done", "undone", "interrupted", "conflict", "collected", "unreadable"]


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file or directory that lies aside. name: what it was called; place: where it lies now, below the run."""

    name: str
    place: str
    size_bytes: int
    is_directory: bool


@dataclass(frozen=True, slots=True)
class PastDeed:
    """One deed of the history.

    at: Unix seconds. undone_by: the number of the undo that took it back (for an undo: of the redo), None when it
    holds. takes_back: which deeds an undo takes back, or which undo a redo does. can_undo: `undo` can take it back,
    by itself or with those after it; can_redo: `undo --redo` would do it again now; why_not: why neither, or "".
    needs: the places of what is put back then, below the run directory. strangers: names in its folder that its
    journal does not know. freed: what gc took of what it had set aside, and is not there any more. sentences: those of
    its plan; told: what was done of it, and what was not.
    """

    number: int
    act: str
    at: float
    state: DeedState
    sentences: tuple[str, ...] = ()
    held: tuple[HeldFile, ...] = ()
    undone_by: int | None = None
    takes_back: tuple[int, ...] = ()
    conflicts: tuple[str, ...] = ()
    can_undo: bool = False
    can_redo: bool = False
    why_not: str = ""
    collected_at: float | None = None
    strangers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    freed: tuple[Freed, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.held)

    @property
    def freed_words(self) -> str:
        """Of a deed of which gc freed a part: which, "" for others."""
        if not self.freed or self.state == "collected":
            return ""
        names = ", ".join(safe_text(one.name, 120) for one in self.freed[:_MAX_NAMES])
        more = f" and {len(self.freed) - _MAX_NAMES} more" if len(self.freed) > _MAX_NAMES else ""
        return f"gc freed {names}{more} of it: that does not come back."


@dataclass(frozen=True, slots=True)
class History:
    """Every deed of a run directory, the oldest first.

    next_undo: the number of the deed that `undo` takes back, next_redo: of the undo that `undo --redo` takes back;
    None when there is none. why_no_redo: why, in a sentence. not_ours: names in set_aside/ that are no deed's.
    """

    directory: str
    deeds: tuple[PastDeed, ...]
    next_undo: int | None
    next_redo: int | None
    why_no_redo: str
    not_ours: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum(deed.size_bytes for deed in self.deeds)


def read_history(directory: str) -> History:
    """The history of `directory`. Raises CkptError when the directory cannot be read."""
    path = os.path.abspath(directory)
    root = os.path.join(path, FOLDER_NAME)
    try:
        with os.scandir(path):
            pass
        names = names_in(root)
    except OSError as error:
        raise from_os_error(error, error.filename or path, "list") from error
    numbers = journal.deed_numbers(path)
    read = {number: journal.read_deed(path, number) for number in numbers}
    found = trace([deed for deed in read.values() if deed is not None])
    redo = found.undo_to_redo()
    past = tuple(
        _past(path, found, deed, redo) if deed is not None else _unreadable(path, number)
        for number, deed in read.items()
    )
    undo = next((one.number for one in reversed(past) if one.number in found.standing), None)
    known = {str(number) for number in numbers}
    return History(
        path, past,
        next_undo=undo if undo is not None and any(one.number == undo and one.can_undo for one in past) else None,
        next_redo=redo if any(one.number == redo and one.can_redo for one in past) else None,
        why_no_redo=why_no_redo(found) if redo is None else "",
        not_ours=tuple(f"{FOLDER_NAME}/{name}" for name in sorted(names) if name not in known),
    )  # fmt: skip


def held_files(directory: str, deed: Deed) -> tuple[HeldFile, ...]:
    """What lies in a deed's folder of what its journal names."""
    held = []
    for move in deed.moves:
        place = f"{FOLDER_NAME}/{deed.number}/{move.target}"
        content = content_of(os.path.join(directory, place))
        if content is not None:
            held.append(HeldFile(move.target, place, content.size_bytes, content.is_directory))
    return tuple(held)


def strangers_in(directory: str, number: int, deed: Deed | None) -> tuple[str, ...]:
    """Names in a deed's folder, below the run directory, that its journal does not know; nobody touches them."""
    folder = folder_of(directory, number)
    known = {move.target for move in deed.moves} if deed is not None else set()
    above = {name[:at] for name in known for at, char in enumerate(name) if char == "/"}
    found, waiting = [], [""]
    while waiting:
        inside = waiting.pop()
        for name in sorted(names_in(os.path.join(folder, inside))):
            path = os.path.join(inside, name)
            is_ours = not inside and (name in (JOURNAL_NAME, INCOMING_NAME) or is_unwritten_journal(name))
            if path in above:
                waiting.append(path)
            elif path not in known and not is_ours:
                found.append(f"{FOLDER_NAME}/{number}/{path}")
    return tuple(found)


def _past(directory: str, found: Whereabouts, deed: Deed, redo: int | None) -> PastDeed:
    undone_by = found.undone_by.get(deed.number)
    state: DeedState = "done"
    if deed.state in (journal.INTENT, journal.PREPARED, journal.MOVED):
        state = "interrupted"
    elif deed.state == journal.COLLECTED:
        state = "collected"
    elif undone_by is not None:
        state = "undone"
    elif deed.conflicts:
        state = "conflict"
    why_not = _why_not(directory, found, deed, state, redo)
    needed = needed_for(found, deed.number) if deed.number in found.standing or deed.number == redo else []
    held = held_files(directory, deed)
    there = {file.name for file in held}
    return PastDeed(
        deed.number, deed.act, deed.started_at, state, tuple(deed.sentences), held,
        undone_by=undone_by, takes_back=taken_back(deed), conflicts=tuple(deed.conflicts),
        can_undo=not why_not and deed.number in found.standing, can_redo=not why_not and deed.number == redo,
        why_not=why_not, collected_at=deed.collected_at or None,
        strangers=strangers_in(directory, deed.number, deed),
        needs=tuple(traced.place for traced in needed if traced.place is not None),
        freed=tuple(one for one in deed.freed if one.name not in there), told=told_words(directory, deed),
    )  # fmt: skip


def _why_not(directory: str, found: Whereabouts, deed: Deed, state: DeedState, redo: int | None) -> str:
    """Why a deed can be neither taken back nor done again, "" when it can."""
    number = deed.number
    if state == "interrupted":
        return "it was interrupted: the next act completes it or cleans it up"
    if number in found.standing or number == redo:
        return why_gone(directory, found, number)
    if number in found.undone_by:
        return f"number {found.undone_by[number]} took it back"
    if deed.act == UNDO:
        return "something else was done since"
    return "it is a redo: undo what it did again" if deed.act == REDO else "it changed nothing"


def _unreadable(directory: str, number: int) -> PastDeed:
    folder = folder_of(directory, number)
    held = []
    try:
        names = sorted(names_in(folder))
    except OSError:  # somebody else's, and not for us to look into
        names = []
    for name in names:
        content = content_of(os.path.join(folder, name))
        if content is not None and name != JOURNAL_NAME and not is_unwritten_journal(name):
            held.append(HeldFile(name, f"{FOLDER_NAME}/{number}/{name}", content.size_bytes, content.is_directory))
    try:
        at = os.stat(folder).st_mtime
    except OSError:
        at = 0.0
    return PastDeed(
        number, "unknown", at, "unreadable", held=tuple(held), why_not="its journal cannot be read"
    )  # fmt: skip
