"""Where everything lies that deeds moved, by their journals: what to put back to take a deed back, or to do it again.

Each content that a deed displaced or brought is followed from deed to deed: from its name into `set_aside/<n>/`, out
of it again by an undo, into another folder by a redo. Only journals are read; whether a file is really still at its
place is for the caller to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckpt_tui.records import dataclass
from ckpt_tui.services.copied_deed import is_alike
from ckpt_tui.services.files import Content
from ckpt_tui.services.journal import COLLECTED, CONFLICT, DONE, FOLDER_NAME, MOVED, Deed, Move

UNDO, REDO = "undo", "redo"


@dataclass(slots=True, eq=False)
class Traced:
    """One content that a deed had to do with.

    place: its path relative to the run directory as the journals have it, None once somebody else wrote over it.
    was: the verdict on it when it was set aside, "" when nobody knew.
    """

    content: Content
    place: str | None
    was: str = ""


@dataclass(slots=True)
class Whereabouts:
    """What follows from all the journals of a directory together.

    before, after: by deed and name, what was there (None: nothing). now: by name, what the last deed left there.
    standing: the deeds that hold, the oldest first: those that were done and not taken back.
    undone_by: for those that were taken back, the undo that did it; for an undo, the redo.
    """

    deeds: dict[int, Deed]
    before: dict[tuple[int, str], Traced | None]
    after: dict[tuple[int, str], Traced | None]
    now: dict[str, Traced | None]
    standing: list[int]
    undone_by: dict[int, int]
    _applied: dict[int, tuple[int, tuple[int, ...]]]

    def to_take_back(self, number: int, name: str) -> Traced | None:
        """What has to lie under `name` when the standing deed `number` is taken back.

        After a redo it is what the redo found. Where that took several deeds at once, only the first of them that
        touched the name found what the redo found; the others what the one before them had left. A name that the redo
        left alone, because somebody else had written it, is left alone again.
        """
        by, together = self._applied[number]
        if any(other < number and (other, name) in self.before for other in together):
            by = number
        return self.before[by, name] if (by, name) in self.before else self.now.get(name)

    def undo_to_redo(self) -> int | None:
        """The undo that a redo takes back: the last one, unless a new deed was done since."""
        newest = max((n for n, deed in self.deeds.items() if deed.act not in (UNDO, REDO)), default=0)
        undos = [n for n, deed in self.deeds.items() if deed.act == UNDO and n > newest and n not in self.undone_by]
        return max((n for n in undos if taken_back(self.deeds[n])), default=None)


def is_same(content: Content, other: Content | None) -> bool:
    """Whether it is the same content, also in a copy of the whole run directory (`cp -a`), where inodes differ."""
    return is_alike(content, other)


def taken_back(deed: Deed) -> tuple[int, ...]:
    """The numbers of the deeds that a deed takes back. One that met somebody else's file took none back."""
    if deed.conflicts:
        return ()
    return tuple(deed.takes_back) or ((deed.undoes,) if deed.undoes is not None else ())


def made_moves(deed: Deed) -> list[Move]:
    """The moves that were really made: all, or those before the first that met somebody else's file."""
    for position, move in enumerate(deed.moves):
        if move.target in deed.conflicts:
            return deed.moves[:position]
    return deed.moves


def trace(deeds: Sequence[Deed]) -> Whereabouts:
    """Follow what `deeds`, the oldest first, moved. Those that are not finished are left out."""
    finished = [deed for deed in deeds if deed.state in (MOVED, DONE, CONFLICT, COLLECTED)]
    found = Whereabouts({deed.number: deed for deed in finished}, {}, {}, {}, [], {}, {})
    for deed in finished:
        _follow(found, deed)
        _count(found, deed)
    return found


def _follow(found: Whereabouts, deed: Deed) -> None:
    lying = [traced for traced in (*found.before.values(), *found.now.values()) if traced is not None]
    at = {traced.place: traced for traced in lying if traced.place is not None}
    brought: dict[str, Traced | None] = {}
    for move in made_moves(deed):
        known = found.now.get(move.target)
        if known is not None and not is_same(known.content, move.before):
            known.place = None  # written over by somebody else
            known = None
        before = None
        if move.before is not None:
            before = known or Traced(move.before, None)
            before.was = move.was or before.was
        found.before[deed.number, move.target] = before
        brought[move.target] = None
        if move.how == "rename":
            source = at.get(move.source)
            brought[move.target] = source or (Traced(move.after, None) if move.after is not None else None)
        elif move.how != "remove" and move.after is not None:
            brought[move.target] = Traced(move.after, None)
    # Only now do they change place: a rename's source is told as it was before the deed.
    for name, after in brought.items():
        before = found.before[deed.number, name]
        if before is not None:
            before.place = f"{FOLDER_NAME}/{deed.number}/{name}"
        found.after[deed.number, name] = found.now[name] = after
    for name, after in brought.items():
        if after is not None:
            after.place = name


def _count(found: Whereabouts, deed: Deed) -> None:
    """Which deeds hold after this one."""
    numbers = [number for number in taken_back(deed) if number in found.deeds]
    if deed.act == UNDO:
        for number in numbers:
            found.undone_by[number] = deed.number
        found.standing = [number for number in found.standing if number not in numbers]
    elif deed.act == REDO:
        for undo in numbers:
            found.undone_by[undo] = deed.number
            again = tuple(number for number in taken_back(found.deeds[undo]) if number in found.deeds)
            found.standing = sorted({*found.standing, *again})
            for number in again:
                found.undone_by.pop(number, None)
                found._applied[number] = (deed.number, again)
    elif made_moves(deed):
        found.standing.append(deed.number)
        found._applied[deed.number] = (deed.number, (deed.number,))


def names_of(found: Whereabouts, numbers: Iterable[int]) -> list[str]:
    """Every name that one of these deeds changed, in the order in which they did."""
    return list(dict.fromkeys(move.target for number in numbers for move in made_moves(found.deeds[number])))
