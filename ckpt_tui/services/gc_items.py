"""What gc could free, thing by thing: what lies in the folders of deeds, in quarantine, and what crashes left behind.

Nothing is named here that our journals, the trainer's notes or the names of temporary files do not vouch for, and
nothing that lies behind a link.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Literal

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.services.dead_temporaries import find_temporaries
from ckpt_tui.services.deed_record import INCOMING_NAME, is_unwritten_journal, names_in
from ckpt_tui.services.deeds import History
from ckpt_tui.services.files import content_of
from ckpt_tui.services.free_space import bytes_freed
from ckpt_tui.services.journal import FOLDER_NAME
from ckpt_tui.services.names import QUARANTINE_NAME
from ckpt_tui.services.quarantine import read_about, read_quarantine
from ckpt_tui.services.system import process_is_alive
from ckpt_tui.services.unlinking import leads_elsewhere

Kind = Literal["deed", "quarantine", "leftover", "temporary"]
_RUNNING = "a training is running here"
BEHIND_LINK = "it lies behind a link, and may be anybody's"


@dataclass(frozen=True, slots=True)
class GcFile:
    """One file, or one checkpoint that is a directory, in the folder of a deed.

    name: what it was called; place: where it lies, below the run directory. step, validity: what validation says of
    it, None and "" where nobody looked. is_chosen: it is to go. why: why it goes, or why it stays, in a few words.
    copy: where a valid copy of its training state stays, below the run directory, or "". is_only: nothing else here
    that stays has what it holds; passing: where there is a copy that does not; is_good: and a training could go on
    from it.
    """

    name: str
    place: str
    size_bytes: int
    is_directory: bool
    is_chosen: bool
    why: str
    step: int | None = None
    validity: str = ""
    copy: str = ""
    is_only: bool = False
    is_good: bool = False
    passing: str = ""


@dataclass(frozen=True, slots=True)
class GcItem:
    """One thing that could be freed. name: its path below the run directory; number: of the deed, None for others.

    size_bytes: what it takes; freed_bytes: what becomes free when it goes alone. is_chosen: it is to go, of a deed at
    least one of its files. why: why it stays, or what a person should know of it. paths: what is removed, below the
    run directory. files: of a deed, each that it holds. copy: of others, where a valid copy stays, or "";
    is_good: nothing that stays is a copy of it, and a training could go on from it.
    """

    kind: Kind
    name: str
    at: float
    size_bytes: int
    freed_bytes: int
    is_chosen: bool
    why: str = ""
    number: int | None = None
    act: str = ""
    paths: tuple[str, ...] = ()
    files: tuple[GcFile, ...] = ()
    copy: str = ""
    is_good: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all of it goes, or all of it stays."""
        return len({file.is_chosen for file in self.files}) <= 1


def deed_item(
    directory: str, number: int, act: str, at: float, files: Sequence[GcFile], why: str, *, is_rest: bool
) -> GcItem:
    """The item of a deed's folder. is_rest: a gc that was interrupted had already said that it is gone."""
    paths = [file.place for file in files if file.is_chosen]
    return GcItem(
        "leftover" if is_rest else "deed", f"{FOLDER_NAME}/{number}/", at, sum(file.size_bytes for file in files),
        bytes_freed(os.path.join(directory, path) for path in paths), bool(paths), why, number, act, tuple(paths),
        tuple(files),
    )  # fmt: skip


def other_items(
    directory: str, history: History, state: RunState | None, *, quarantine: bool, older_than_s: float | None,
    is_owned: bool,
) -> list[GcItem]:  # fmt: skip
    """What is not in the hands of a deed: leftovers, the quarantine, files of processes that are gone."""
    return [
        *_leftovers(directory, history),
        *_quarantine_items(directory, older_than_s=older_than_s, is_chosen=quarantine, is_owned=is_owned),
        *(
            item_of(directory, "temporary", [one.place], one.at, not one.why_not, one.why_not)
            for one in find_temporaries(directory, state, is_owned=is_owned)
        ),
    ]


def _leftovers(directory: str, history: History) -> list[GcItem]:
    """What crashes left in the folders of deeds that are over: copies on their way in, journals cut off."""
    items = []
    for deed in history.deeds:
        if deed.state in ("unreadable", "interrupted") or deed.conflicts:
            continue
        folder = f"{FOLDER_NAME}/{deed.number}"
        for name in names_in(os.path.join(directory, folder)):
            pid = name.rpartition("-")[2]
            is_cut_off = (
                is_unwritten_journal(name) and pid.isdecimal() and process_is_alive(ProcessIdentity(int(pid))) is False
            )
            if (name == INCOMING_NAME or is_cut_off) and not leads_elsewhere(directory, f"{folder}/{name}"):
                items.append(item_of(directory, "leftover", [f"{folder}/{name}"], deed.at, True, number=deed.number))
    for name in names_in(os.path.join(directory, QUARANTINE_NAME)):
        place = f"{QUARANTINE_NAME}/{name}"
        told = read_about(os.path.join(directory, place)) if name.endswith(".json") else None
        checkpoint = str(told.get("to") or "") if told is not None else ""
        if told is not None and os.path.dirname(checkpoint) == QUARANTINE_NAME:
            # The note is durable before its checkpoint comes: alone it is of one that never came, or is gone.
            was = os.path.join(directory, str(told.get("path") or "."))
            is_alone = not os.path.lexists(os.path.join(directory, checkpoint)) and not os.path.lexists(was)
            if is_alone and not leads_elsewhere(directory, place):
                items.append(item_of(directory, "leftover", [place], 0.0, True))
    return items


def _quarantine_items(directory: str, *, older_than_s: float | None, is_chosen: bool, is_owned: bool) -> list[GcItem]:
    items = []
    for one in read_quarantine(directory):
        why = "" if is_chosen else "only with --quarantine"
        if is_chosen and is_owned:
            why = _RUNNING
        elif is_chosen and leads_elsewhere(directory, one.place):
            why = BEHIND_LINK
        elif is_chosen and not one.about:
            why = "the trainer did not put it there: nothing says what it is"
        elif is_chosen and older_than_s is not None and time.time() - one.at < older_than_s:
            why = "not old enough"
        # Its note goes last: never a checkpoint there without one.
        places = [one.place, *([one.about] if one.about else [])]
        items.append(item_of(directory, "quarantine", places, one.at, not why, why, name=one.place))
    return items


def item_of(
    directory: str, kind: Kind, paths: Sequence[str], at: float, is_chosen: bool, why: str = "", *,
    name: str = "", number: int | None = None, copy: str = "", is_good: bool = False,
) -> GcItem:  # fmt: skip
    """The item of what no deed has set aside: `paths` below the run directory, which go together."""
    contents = [content_of(os.path.join(directory, path)) for path in paths]
    size_bytes = sum(content.size_bytes for content in contents if content is not None)
    newest_s = max((content.mtime_ns / 1e9 for content in contents if content is not None), default=0.0)
    return GcItem(
        kind, name or paths[0], at or newest_s, size_bytes, bytes_freed(os.path.join(directory, p) for p in paths),
        is_chosen, why, number, "", tuple(paths), copy=copy, is_good=is_good,
    )  # fmt: skip
