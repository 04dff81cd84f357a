"""Put a checkpoint back that the trainer had moved to quarantine, for a person who knows better.

A verified copy goes to the name that it had, so the deed is undone like any other restore, and what lies in quarantine
stays there until `gc --quarantine` frees it. One that still fails validation is refused, unless forced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ckpt_tui.errors import CkptError
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.catalog_entries import CatalogEntry, check_entry
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import Move
from ckpt_tui.services.names import QUARANTINE_NAME
from ckpt_tui.services.plans import Plan, assemble, copy_move, safe_name
from ckpt_tui.services.quarantine import Quarantined, read_quarantine
from ckpt_tui.services.validity import ACT_AGE_S
from ckpt_tui.text import run_word, safe_text

_MAX_NAMES = 8


def place_in_quarantine(directory: str, name: str) -> str | None:
    """`quarantine/NAME` for what a person named in the quarantine of `directory`, also as a path to it; else None."""
    folder, base = os.path.split(name.rstrip("/"))
    if not base or base in (".", ".."):
        return None
    if folder == QUARANTINE_NAME:
        return f"{QUARANTINE_NAME}/{base}"
    is_there = folder and os.path.realpath(folder) == os.path.realpath(os.path.join(directory, QUARANTINE_NAME))
    return f"{QUARANTINE_NAME}/{base}" if is_there else None


def plan_put_back(
    directory: str,
    places: Sequence[str],
    *,
    force: bool = False,
    recheck: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Plan:
    """Plan to give each of `places` (`quarantine/NAME`) the name back that it had.

    force: also one that fails validation. recheck: it is read whatever is remembered of it.
    Raises CkptError when it is not there, when nothing says what it was, when two of them had one name, or when it is
    still bad; Cancelled.
    """
    started = time.time()

    def check_now(entry: CatalogEntry) -> CatalogEntry:
        """It is put in place: what was found long ago does not do."""
        max_age_s = time.time() - started if recheck else ACT_AGE_S
        return check_entry(entry, max_age_s=max_age_s, on_bytes=on_bytes, is_cancelled=is_cancelled)

    directory, notices = begin(directory)
    there = {one.place: one for one in read_quarantine(directory)}
    catalog = read_catalog(directory)
    inside = {entry.name: entry for entry in _entries_in_quarantine(directory)}
    moves: list[Move] = []
    sentences: list[str] = []
    warnings = list(notices)
    held: dict[str, CatalogEntry] = {}
    for place in dict.fromkeys(places):
        one = _wanted(directory, there, place)
        if any(move.target == one.name for move in moves):
            raise CkptError(
                "One name for two",
                f"more than one of them was {safe_name(one.name)} in {directory}",
                "Name one of them.",
            )
        entry = inside.get(place.removeprefix(f"{QUARANTINE_NAME}/"))
        checked = check_now(entry) if entry is not None else None
        if checked is None or checked.is_bad:
            said = _still_bad(place, checked)
            if not force:
                raise CkptError(
                    "Still not valid",
                    f"{said}; nothing was changed",
                    f"`ckpt-tui salvage {run_word(os.path.join(directory, place))} -o OUT` gets out what is whole; "
                    "--force puts it back as it is.",
                )
            warnings.append(f"{said}: a resume finds that again, and passes it over.")
        source = replace(checked or _unknown(directory, one), name=place)
        held[place] = source
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
        why = f": {safe_text(one.why, 300)}" if one.why else ""
        sentences.append(f"The trainer moved {safe_name(one.name)} to {safe_name(place)} at {when}{why}.")
        step = f"step {source.step:,}, " if source.step is not None else ""
        sentences.append(f"{safe_name(place)} ({step}{source.validity}) is copied to {safe_name(one.name)}.")
        moves.append(copy_move(directory, source, one.name))
    replaced = [safe_name(move.target) for move in moves if move.before is not None]
    if replaced:
        sentences.append(f"Set aside, not deleted: the present {', '.join(replaced)}.")
    return assemble(
        "restore",
        directory,
        catalog,
        moves,
        sentences,
        warnings,
        why="put back from quarantine",
        held=held,
        sources=list(held.values()),
    )


def _wanted(directory: str, there: dict[str, Quarantined], place: str) -> Quarantined:
    one = there.get(place)
    if one is None:
        listed = ", ".join(safe_name(name) for name in list(there)[:_MAX_NAMES])
        more = f" and {len(there) - _MAX_NAMES} more" if len(there) > _MAX_NAMES else ""
        raise CkptError(
            "Not in quarantine",
            f"{safe_name(place)} is not in {directory}",
            f"There are: {listed}{more}." if there else "There is nothing in quarantine.",
        )
    if not one.name:
        raise CkptError(
            "Not known what it was",
            f"nothing beside {safe_name(place)} in {directory} says which checkpoint it was",
            f"`ckpt-tui inspect {run_word(os.path.join(directory, place))}` shows what is in it; copy it to the name "
            "that it is to have.",
        )
    return one


def _entries_in_quarantine(directory: str) -> tuple[CatalogEntry, ...]:
    folder = os.path.join(directory, QUARANTINE_NAME)
    return read_catalog(folder).entries if os.path.isdir(folder) else ()


def _still_bad(place: str, checked: CatalogEntry | None) -> str:
    if checked is None:
        return f"{safe_name(place)} is not known as a checkpoint"
    return f"{safe_name(place)} is {checked.validity}" + (f": {safe_text(checked.note, 300)}" if checked.note else "")


def _unknown(directory: str, one: Quarantined) -> CatalogEntry:
    """What is not even taken for a checkpoint, put back by force."""
    return CatalogEntry(
        one.place, os.path.join(directory, one.place), "other", None, None, None, one.size_bytes, one.at,
        validity="not-a-checkpoint",
    )  # fmt: skip
