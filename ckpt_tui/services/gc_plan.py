"""What gc would free, and what it would cost: a plan for a person to read.

What each deed, the quarantine and leftovers of crashes hold, how many bytes really become free, what stays and why,
and what `undo` cannot bring back afterwards. By default whatever is the only valid copy of its step stays; what could
take its place is validated first. Nothing is named that our journals, the trainer's notes or the names of temporary
files do not vouch for, and beside a live training nothing that it uses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from functools import partial
from typing import Literal

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.services.catalog import check_entry, read_catalog
from ckpt_tui.services.dead_temporaries import find_temporaries
from ckpt_tui.services.deed_record import INCOMING_NAME, is_unwritten_journal, names_in
from ckpt_tui.services.deeds import History, PastDeed, read_history
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.services.free_space import bytes_freed, bytes_staying
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import FOLDER_NAME
from ckpt_tui.services.names import QUARANTINE_NAME
from ckpt_tui.services.only_copies import Copies, OnlyCopy
from ckpt_tui.services.owner import owner_of, run_state
from ckpt_tui.services.quarantine import read_about, read_quarantine
from ckpt_tui.services.system import process_is_alive
from ckpt_tui.services.unlinking import leads_elsewhere
from ckpt_tui.text import plural, run_word, safe_text, size

Kind = Literal["deed", "quarantine", "leftover", "temporary"]
_RUNNING = "a training is running here"
_BEHIND_LINK = "it lies behind a link, and may be anybody's"


@dataclass(frozen=True, slots=True)
class GcItem:
    """One thing that could be freed. name: its path below the run directory; number: of the deed, None for others.

    size_bytes: what it takes; freed_bytes: what becomes free when it goes alone. is_chosen: it is to go. why: why it
    stays, or what a person should know of it. paths: what is removed, below the run directory.
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


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What gc would free, for a person to read before it is done.

    freed_bytes: of all that is chosen together. refusals: why it is not done at all without `--force`.
    no_undo: numbers of deeds that `undo` cannot take back, or do again, afterwards, and can now; afterwards: in words.
    """

    directory: str
    items: tuple[GcItem, ...]
    freed_bytes: int
    sentences: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    no_undo: tuple[int, ...] = ()
    afterwards: tuple[str, ...] = ()
    found: tuple[tuple[str, Content], ...] = field(default=(), repr=False)

    @property
    def is_empty(self) -> bool:
        return not any(item.is_chosen for item in self.items)


def plan_gc(
    directory: str,
    numbers: Sequence[int] = (),
    *,
    older_than_s: float | None = None,
    keep: int = 0,
    quarantine: bool = False,
    every: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> GcPlan:
    """Plan to free what lies aside.

    numbers: these deeds and nothing else, whatever they hold. Otherwise every deed that is older than `older_than_s`
    and not among the newest `keep`, leftovers and dead temporary files, and with `quarantine` that, too; but nothing
    that is the only valid copy of its step, unless `every`.
    Raises CkptError when there is no such deed; Cancelled.
    """
    directory, notices = begin(directory)
    history = read_history(directory)
    state = run_state(directory)
    is_owned = owner_of(directory, state) is not None
    there = {deed.number: deed for deed in history.deeds}
    unknown = [number for number in numbers if number not in there]
    if unknown:
        raise CkptError(
            "No such deed",
            f"{', '.join(map(str, unknown))} in {directory}",
            f"`ckpt-tui undo {run_word(directory)} --list` shows them.",
        )
    check = partial(check_entry, on_bytes=on_bytes, is_cancelled=is_cancelled)

    def advance(num_bytes: int) -> None:
        if is_cancelled is not None and is_cancelled():
            raise Cancelled
        if on_bytes is not None:
            on_bytes(num_bytes)

    copies = Copies(read_catalog(directory), {deed.number: deed.held for deed in history.deeds}, check, advance)
    warnings = list(notices)
    items, lost = _deed_items(
        directory, history, copies, numbers, warnings, older_than_s=older_than_s, keep=keep, every=every
    )
    if not numbers:
        items += _leftovers(directory, history)
        items += _quarantine_items(directory, older_than_s=older_than_s, is_chosen=quarantine, is_owned=is_owned)
        items += [
            _item(directory, "temporary", [one.place], one.at, not one.why_not, one.why_not)
            for one in find_temporaries(directory, state, is_owned=is_owned)
        ]
    chosen = [item for item in items if item.is_chosen]
    places = [path for item in chosen for path in item.paths]
    refusals = []
    if any(only.is_valid for only in lost) and copies.newest_valid() is None:
        refusals.append("No valid checkpoint would be left in this directory: it frees the last one.")
    no_undo = _no_undo(history, {item.number for item in chosen if item.number is not None})
    afterwards = tuple(_undo_words(history, no_undo))
    paths = [os.path.join(directory, path) for path in places]
    freed, staying = bytes_freed(paths), bytes_staying(paths)
    watched = [*places, *copies.relied_on] if chosen else []
    contents = [(path, content_of(os.path.join(directory, path))) for path in watched]
    return GcPlan(
        directory, tuple(items), freed, tuple(_sentences(items, freed, staying, afterwards)), tuple(warnings),
        tuple(refusals), tuple(no_undo), afterwards,
        tuple((path, content) for path, content in contents if content is not None),
    )  # fmt: skip


def _deed_items(
    directory: str,
    history: History,
    copies: Copies,
    numbers: Sequence[int],
    warnings: list[str],
    *,
    older_than_s: float | None,
    keep: int,
    every: bool,
) -> tuple[list[GcItem], list[OnlyCopy]]:
    """Each deed that holds something, the oldest first, and the only copies among what is chosen."""
    items: list[GcItem] = []
    lost: list[OnlyCopy] = []
    holding = [deed for deed in history.deeds if deed.held]
    newest = {deed.number for deed in holding[len(holding) - keep :]} if keep else set()
    staying = {deed.number for deed in holding}
    for deed in holding:
        is_behind_link = any(leads_elsewhere(directory, file.place) for file in deed.held)
        why = _BEHIND_LINK if is_behind_link else _why_kept(deed, numbers, newest, older_than_s)
        is_rest = deed.state == "collected"  # of a gc that was interrupted
        only: list[OnlyCopy] = []
        if not why:
            only = copies.only_in(deed.number, staying)
            if only and not (every or numbers):
                listed = ", ".join(one.why for one in only[:3]) + (
                    f" and {len(only) - 3} more" if len(only) > 3 else ""
                )
                why = f"nothing else here has {listed}"
        item = _item(
            directory, "leftover" if is_rest else "deed", [file.place for file in deed.held], deed.at, not why, why,
            name=f"{FOLDER_NAME}/{deed.number}/", number=deed.number, act=deed.act,
        )  # fmt: skip
        if item.is_chosen:
            staying.discard(deed.number)
            lost += only
            if only:
                listed = ", ".join(one.why for one in only[:6])
                listed += f" and {len(only) - 6} more" if len(only) > 6 else ""
                warnings.append(f"Nothing else here has what is freed with {item.name}: {listed}.")
        warnings += [f"{safe_text(name)} is not of ckpt-tui, and stays." for name in deed.strangers if item.is_chosen]
        items.append(item)
    return items, lost


def _why_kept(deed: PastDeed, numbers: Sequence[int], newest: set[int], older_than_s: float | None) -> str:
    if deed.state == "unreadable":
        return "its journal cannot be read: what it holds is not known"
    if deed.state == "interrupted":
        return "it is not finished"
    if numbers:
        return "" if deed.number in numbers else "not named"
    if deed.number in newest:
        return "among the newest, which --keep keeps"
    if older_than_s is not None and time.time() - deed.at < older_than_s:
        return "not old enough"
    return ""


def _leftovers(directory: str, history: History) -> list[GcItem]:
    """What crashes left in the folders of deeds that are over: copies on their way in, journals cut off."""
    items = []
    for deed in history.deeds:
        if deed.state in ("unreadable", "interrupted") or deed.conflicts:
            continue
        folder = f"{FOLDER_NAME}/{deed.number}"
        for name in names_in(os.path.join(directory, folder)):
            pid = name.rpartition("-")[2]
            is_cut_off = is_unwritten_journal(name) and pid.isdecimal() and process_is_alive(int(pid), 0.0, "") is False
            if (name == INCOMING_NAME or is_cut_off) and not leads_elsewhere(directory, f"{folder}/{name}"):
                items.append(_item(directory, "leftover", [f"{folder}/{name}"], deed.at, True, number=deed.number))
    for name in names_in(os.path.join(directory, QUARANTINE_NAME)):
        place = f"{QUARANTINE_NAME}/{name}"
        told = read_about(os.path.join(directory, place)) if name.endswith(".json") else None
        checkpoint = str(told.get("to") or "") if told is not None else ""
        if told is not None and os.path.dirname(checkpoint) == QUARANTINE_NAME:
            # The note is durable before its checkpoint comes: alone it is of one that never came, or is gone.
            was = os.path.join(directory, str(told.get("path") or "."))
            is_alone = not os.path.lexists(os.path.join(directory, checkpoint)) and not os.path.lexists(was)
            if is_alone and not leads_elsewhere(directory, place):
                items.append(_item(directory, "leftover", [place], 0.0, True))
    return items


def _quarantine_items(directory: str, *, older_than_s: float | None, is_chosen: bool, is_owned: bool) -> list[GcItem]:
    items = []
    for one in read_quarantine(directory):
        why = "" if is_chosen else "only with --quarantine"
        if is_chosen and is_owned:
            why = _RUNNING
        elif is_chosen and leads_elsewhere(directory, one.place):
            why = _BEHIND_LINK
        elif is_chosen and not one.about:
            why = "the trainer did not put it there: nothing says what it is"
        elif is_chosen and older_than_s is not None and time.time() - one.at < older_than_s:
            why = "not old enough"
        # Its note goes last: never a checkpoint there without one.
        places = [one.place, *([one.about] if one.about else [])]
        items.append(_item(directory, "quarantine", places, one.at, not why, why, name=one.place))
    return items


def _item(
    directory: str,
    kind: Kind,
    paths: Sequence[str],
    at: float,
    is_chosen: bool,
    why: str = "",
    *,
    name: str = "",
    number: int | None = None,
    act: str = "",
) -> GcItem:
    contents = [content_of(os.path.join(directory, path)) for path in paths]
    size_bytes = sum(content.size_bytes for content in contents if content is not None)
    newest_s = max((content.mtime_ns / 1e9 for content in contents if content is not None), default=0.0)
    return GcItem(
        kind, name or paths[0], at or newest_s, size_bytes, bytes_freed(os.path.join(directory, p) for p in paths),
        is_chosen, why, number, act, tuple(paths),
    )  # fmt: skip


def _no_undo(history: History, freed: set[int]) -> list[int]:
    """Which deeds could be taken back, or done again, and need what lies in the folders that are freed."""
    prefixes = tuple(f"{FOLDER_NAME}/{number}/" for number in freed)
    return [
        deed.number
        for deed in history.deeds
        if (deed.can_undo or deed.can_redo) and any(place.startswith(prefixes) for place in deed.needs)
    ]


def _undo_words(history: History, no_undo: Iterable[int]) -> list[str]:
    numbers = set(no_undo)
    undone = [str(deed.number) for deed in history.deeds if deed.number in numbers and deed.can_undo]
    redone = [str(n) for deed in history.deeds if deed.number in numbers and deed.can_redo for n in deed.takes_back]
    said = []
    if undone:
        said.append(f"Then `undo` cannot bring back what {_numbered(undone)} changed.")
    if redone:
        said.append(f"Then `undo --redo` cannot do {_numbered(sorted(redone))} again.")
    return said


def _numbered(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return f"deed {numbers[0]}"
    return f"deeds {', '.join(numbers[:-1])} and {numbers[-1]}"


def _sentences(items: Sequence[GcItem], freed: int, staying: int, afterwards: Sequence[str]) -> list[str]:
    chosen = [item for item in items if item.is_chosen]
    kept = [item for item in items if not item.is_chosen]
    kept_bytes = sum(item.size_bytes for item in kept)
    stays = f" {plural(len(kept), 'thing')} of {size(kept_bytes)} {'stays' if len(kept) == 1 else 'stay'}."
    if not chosen:
        if not items:
            return ["There is nothing to free: nothing lies aside, and no crash left anything."]
        return [f"Nothing is freed.{stays}"]
    by_kind = {
        "deed": "what {} set aside", "quarantine": "{} in quarantine", "leftover": "{} of a crash",
        "temporary": "{} of processes that are gone",
    }  # fmt: skip
    nouns = {"deed": "deed", "quarantine": "checkpoint", "leftover": "leftover", "temporary": "temporary file"}
    parts = [
        words.format(plural(number, nouns[kind]))
        for kind, words in by_kind.items()
        if (number := sum(item.kind == kind for item in chosen))
    ]
    said = [f"Removes {', '.join(parts)}: {size(freed)} become free.{stays if kept else ''}"]
    if staying:
        said.append(f"{size(staying)} stay on the disk: the same bytes have other names, too (hard links).")
    return [*said, *afterwards, "This deletes, and cannot be undone."]
