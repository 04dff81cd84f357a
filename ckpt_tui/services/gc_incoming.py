"""What a deed left in `incoming/` that met somebody else's file: new contents that never got their names, and now and
then an old one, which a crash in the midst of an exchange left there.

Nothing ever puts them in place: the deed is over. Most are copies of what is still there, which only take space. Each
is judged like what was set aside: it goes when a valid copy stays, or when it is of no use; the only copy stays.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from ckpt_tui.services import journal
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.copied_deed import is_alike
from ckpt_tui.services.deed_record import INCOMING_NAME
from ckpt_tui.services.deeds import PastDeed
from ckpt_tui.services.files import content_of
from ckpt_tui.services.gc_items import BEHIND_LINK, GcItem, item_of
from ckpt_tui.services.journal import FOLDER_NAME, Move
from ckpt_tui.services.only_copies import BAD, Copies
from ckpt_tui.services.unlinking import leads_elsewhere
from ckpt_tui.text import safe_text


def incoming_items(
    directory: str, deed: PastDeed, copies: Copies, staying: Collection[str], *, takes_only_copies: bool
) -> list[GcItem]:
    """One for each name in the `incoming/` of a deed that ended in a conflict. staying: the places of what stays
    aside. Names that its journal does not know are nobody's to free, and left out."""
    folder = f"{FOLDER_NAME}/{deed.number}/{INCOMING_NAME}"
    read = journal.read_deed(directory, deed.number)
    items = []
    for move in read.moves if read is not None else ():
        place = f"{folder}/{move.target}"
        if move.how in ("copy", "link", "write", "rename") and os.path.lexists(os.path.join(directory, place)):
            items.append(_item(directory, deed, move, place, copies, staying, takes_only_copies=takes_only_copies))
    return items


def _item(
    directory: str, deed: PastDeed, move: Move, place: str, copies: Copies, staying: Collection[str], *,
    takes_only_copies: bool,
) -> GcItem:  # fmt: skip
    if leads_elsewhere(directory, place):
        return item_of(directory, "leftover", [place], deed.at, False, BEHIND_LINK, number=deed.number)
    is_old = is_alike(move.before, content_of(os.path.join(directory, place)))
    what = f"what was {safe_text(move.target, 80)}" if is_old else "never put in place"
    if move.how == "write" and not is_old:
        return item_of(directory, "leftover", [place], deed.at, True, what, number=deed.number)
    is_chosen, why, copy, is_good = _judged(copies.incoming_entry(deed.number, move.target), copies, staying)
    return item_of(
        directory, "leftover", [place], deed.at, is_chosen or takes_only_copies, f"{what}, {why}",
        number=deed.number, copy=copy, is_good=is_good,
    )  # fmt: skip


def _judged(entry: CatalogEntry | None, copies: Copies, staying: Collection[str]) -> tuple[bool, str, str, bool]:
    """Whether it goes, why, where the copy is for whose sake it may, and whether it is the only good one."""
    if entry is None:
        return False, "what it is, is not known", "", False
    if copy := copies.copy_of(entry, staying):
        return True, f"copy: {safe_text(copy, 120)}", copy, False
    checked = copies.judged(entry)
    if checked.validity in BAD:
        return True, checked.validity.replace("-", " "), "", False
    of_step = f" of step {checked.step:,}" if checked.step is not None else ""
    return False, f"the only copy that stays{of_step}", "", checked.is_good
