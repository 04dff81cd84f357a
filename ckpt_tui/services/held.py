"""Files that were set aside, looked at before they are put back: are they still what they were?

What nobody has touched since (same file, same size and times, ctime too, which nobody can set back) is what it was, as
far as anybody but the disk is concerned: it is put back by renaming it, and need not be read for that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from ckpt_tui.records import dataclass
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.catalog_entries import UNCHECKED, CatalogEntry, check_entry
from ckpt_tui.services.copied_deed import is_alike
from ckpt_tui.services.deed_record import read_deed
from ckpt_tui.services.files import Content, changed_ns, content_of
from ckpt_tui.services.reachable import folder_number
from ckpt_tui.services.validity import ACT_AGE_S
from ckpt_tui.text import safe_text, size


@dataclass(frozen=True, slots=True)
class Held:
    """A file that lies aside. entry: what validation says of it, None when it is no checkpoint by its name.
    doubt: what speaks against putting it back, in a sentence, or "". is_read: that was found out now, or lately."""

    entry: CatalogEntry | None
    doubt: str
    is_read: bool = True


def look_at(
    directory: str,
    wanted: Iterable[tuple[str, Content, str]],
    *,
    recheck: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> dict[str, Held]:
    """Look at files that lie aside: each with its place below `directory`, what it was, and the verdict of then.
    Those that somebody may have touched are validated; with `recheck` all of them, whatever is remembered.

    Raises CkptError when a folder cannot be listed; Cancelled.
    """
    started = time.time()
    catalogs: dict[str, dict[str, CatalogEntry]] = {}
    found = {}
    changed: dict[int, dict[str, int]] = {}
    for place, content, was in wanted:
        folder, _, name = place.rpartition("/")
        if folder not in catalogs:
            inside = read_catalog(os.path.join(directory, folder)).entries
            catalogs[folder] = {entry.name: entry for entry in inside}
        entry = catalogs[folder].get(name)
        if entry is not None and not recheck and _is_untouched(directory, place, content, changed):
            if entry.validity == UNCHECKED and was:
                entry = replace(entry, validity=was)
            found[place] = Held(entry, "", is_read=False)
            continue
        if entry is not None:
            # A look at an earlier plan may have been remembered, and the times be set back since.
            max_age_s = time.time() - started if recheck else ACT_AGE_S
            entry = check_entry(entry, max_age_s=max_age_s, on_bytes=on_bytes, is_cancelled=is_cancelled)
        found[place] = Held(entry, _doubt(directory, place, content, was, entry))
    return found


def read_now(
    directory: str, place: str, content: Content, was: str, entry: CatalogEntry, *,
    on_bytes: Callable[[int], None] | None = None, is_cancelled: Callable[[], bool] | None = None,
) -> Held:  # fmt: skip
    """The same of one of them that was not read before, validated."""
    checked = check_entry(entry, max_age_s=ACT_AGE_S, on_bytes=on_bytes, is_cancelled=is_cancelled)
    return Held(checked, _doubt(directory, place, content, was, checked))


def _is_untouched(directory: str, place: str, content: Content, changed: dict[int, dict[str, int]]) -> bool:
    """Whether nobody has touched it since the deed in whose folder it lies set it aside."""
    number = folder_number(place)
    if number is None:
        return False
    if number not in changed:
        deed = read_deed(directory, number)
        changed[number] = {move.target: move.kept_changed_ns for move in deed.moves} if deed is not None else {}
    then = changed[number].get(place.split("/", 2)[2], 0)
    path = os.path.join(directory, place)
    return then > 0 and changed_ns(path) == then and content.is_same(content_of(path))


def _doubt(directory: str, place: str, content: Content, was: str, entry: CatalogEntry | None) -> str:
    now = content_of(os.path.join(directory, place))
    said = safe_text(place)
    if now is not None and not now.is_directory and not content.is_directory:
        if now.size_bytes != content.size_bytes:
            return (
                f"{said} changed while it lay aside: it had {size(content.size_bytes)}, now it has "
                f"{size(now.size_bytes)}" + (f" and is {entry.validity}." if entry is not None else ".")
            )
        if not is_alike(content, now):
            then = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now.mtime_ns / 1e9))
            return f"{said} was written while it lay aside, at {then}" + (
                f"; it is {entry.validity}." if entry is not None else "."
            )
    if entry is None or not entry.is_bad:
        return ""
    note = f": {safe_text(entry.note, 300)}" if entry.note else ""
    if was == entry.validity:
        return ""  # it was so before, and is put back so
    if was:
        return f"{said} was {was} when it was set aside, and is {entry.validity} now{note}."
    return f"{said} is {entry.validity}; nobody had looked at it when it was set aside{note}."
