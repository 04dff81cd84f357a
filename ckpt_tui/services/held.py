"""Files that were set aside, looked at before they are put back: are they still what they were?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from ckpt_tui.records import dataclass
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.catalog_entries import CatalogEntry, check_entry
from ckpt_tui.services.copied_deed import is_alike
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.services.validity import written_together
from ckpt_tui.text import safe_text, size


@dataclass(frozen=True, slots=True)
class Held:
    """A file that lies aside. entry: what validation says of it, None when it is no checkpoint by its name.
    doubt: what speaks against putting it back, in a sentence, or ""."""

    entry: CatalogEntry | None
    doubt: str


def look_at(
    directory: str,
    wanted: Iterable[tuple[str, Content, str]],
    *,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> dict[str, Held]:
    """Validate files that lie aside: each with its place below `directory`, what it was, and the verdict of then.

    Raises CkptError when a folder cannot be listed; Cancelled.
    """
    catalogs: dict[str, dict[str, CatalogEntry]] = {}
    found = {}
    with written_together():
        for place, content, was in wanted:
            folder, _, name = place.rpartition("/")
            if folder not in catalogs:
                inside = read_catalog(os.path.join(directory, folder)).entries
                catalogs[folder] = {entry.name: entry for entry in inside}
            entry = catalogs[folder].get(name)
            if entry is not None:
                # What is remembered of a file goes by its name: set aside it has another one, and is looked at again.
                entry = check_entry(entry, on_bytes=on_bytes, is_cancelled=is_cancelled)
            found[place] = Held(entry, _doubt(directory, place, content, was, entry))
    return found


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
