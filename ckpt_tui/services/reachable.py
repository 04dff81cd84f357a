"""Whether what a deed displaced can still be had: the journals say where it is, here the names are looked at."""

from __future__ import annotations

import os

from ckpt_tui.services.deed_record import Freed
from ckpt_tui.services.files import content_of
from ckpt_tui.services.journal import COLLECTED, FOLDER_NAME
from ckpt_tui.services.registry import REGISTRY_NAME
from ckpt_tui.services.whereabouts import Traced, Whereabouts, is_same, names_of
from ckpt_tui.text import safe_text


def lies_there(directory: str, traced: Traced) -> bool:
    """Whether what was displaced still lies where it was put."""
    if traced.place is None:
        return False
    now = content_of(os.path.join(directory, traced.place))
    # What was put back may be written over since by a training; what lies aside is looked at (`held.py`).
    return is_same(traced.content, now) if folder_number(traced.place) is None else now is not None


def needed_for(found: Whereabouts, number: int) -> list[Traced]:
    """What has to be there for a standing deed to be taken back, or for an undo to be: without the registry, which
    can be built anew."""
    names = [name for name in names_of(found, [number]) if name != REGISTRY_NAME]
    if number in found.standing:
        wanted = [found.to_take_back(number, name) for name in names]
    else:
        wanted = [found.before[number, name] for name in names]
    return [traced for traced in wanted if traced is not None]


def why_gone(directory: str, found: Whereabouts, number: int) -> str:
    """Why a deed cannot be taken back, "" when it can: all of what is needed is gone, by gc or by somebody's hand, or
    a redo left alone all that it would change.

    A part that is gone does not keep the rest from being put back.
    """
    if _is_left_alone(directory, found, number):
        return "when it was done again, all that it had changed was left alone"
    needed = needed_for(found, number)
    missing = [traced for traced in needed if not lies_there(directory, traced)]
    if not missing or len(missing) < len(needed):
        return ""
    folders = sorted({folder_number(traced.place) or 0 for traced in missing if freed_by_gc(found, traced) is not None})
    if folders:
        return f"what {', '.join(f'{FOLDER_NAME}/{folder}/' for folder in folders)} held was freed by gc"
    if all(folder_number(traced.place) is None for traced in missing):
        return "what it had displaced was put back since, and written over"
    places = sorted(safe_text(traced.place, 120) for traced in missing if traced.place is not None)
    more = " and more" if len(places) > 3 else ""
    return f"{', '.join(places[:3])}{more} {'is' if len(places) == 1 else 'are'} no longer there"


def _is_left_alone(directory: str, found: Whereabouts, number: int) -> bool:
    """Whether nothing changes when a deed that holds is taken back: an undo could not bring back what it had displaced,
    so that the redo had nothing to change either."""
    names = [name for name in names_of(found, [number]) if name != REGISTRY_NAME]
    if number not in found.standing or not names:
        return False
    there = [(found.to_take_back(number, name), found.now.get(name)) for name in names]
    return all(wanted is now and (now is None or lies_there(directory, now)) for wanted, now in there)


def is_freed(directory: str, found: Whereabouts, number: int) -> bool:
    """Whether a deed cannot be taken back because gc freed what is needed for it."""
    needed = needed_for(found, number)
    return bool(why_gone(directory, found, number)) and any(freed_by_gc(found, traced) is not None for traced in needed)


def freed_by_gc(found: Whereabouts, traced: Traced) -> Freed | None:
    """What the journals say of gc having freed it, None when they say nothing. It may lie there all the same, where
    that gc was interrupted."""
    number = folder_number(traced.place)
    deed = found.deeds.get(number) if number is not None else None
    if deed is None or traced.place is None:
        return None
    name = traced.place.split("/", 2)[2]
    if deed.state == COLLECTED and not deed.freed:  # a journal of an earlier version: all of it went
        return Freed(name, deed.collected_at)
    return next((one for one in deed.freed if one.name == name), None)


def folder_number(place: str | None) -> int | None:
    """Of which deed's folder a place is, None when it is of none."""
    parts = (place or "").split("/")
    return int(parts[1]) if len(parts) > 2 and parts[0] == FOLDER_NAME and parts[1].isdecimal() else None
