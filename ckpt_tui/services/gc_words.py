"""The lines of a plan of gc: under a heading for each deed what goes, what stays, and why, the same on every screen.

Names are safe to print. Where very many files of one deed have the same said of them, the first are named and the rest
counted; the plan's JSON has them all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ckpt_tui.records import dataclass
from ckpt_tui.services.gc_items import GcFile, GcItem
from ckpt_tui.services.gc_plan import GcPlan
from ckpt_tui.text import plural, safe_text, short_age, size

MOST_ALIKE = 6
NAME_CELLS = 44  # a longer name leaves the others their place, and keeps its end
_HEADINGS = {"leftover": "left by a crash", "temporary": "of processes that are gone", "quarantine": "in quarantine"}


@dataclass(frozen=True, slots=True)
class GcRow:
    """One line. heading: under which it stands; name, step, size, why: its cells; name is "" where the heading says
    it all."""

    heading: str
    is_chosen: bool
    name: str
    step: str = ""
    size: str = ""
    why: str = ""

    @property
    def words(self) -> str:
        """What is beside the name, for a line of its own."""
        return ", ".join(part for part in (self.step, self.why) if part)


def rows_of(plan: GcPlan, now: float | None = None) -> list[GcRow]:
    """Every line of a plan: what goes first, within each deed."""
    now = time.time() if now is None else now
    rows: list[GcRow] = []
    for item in plan.items:
        if item.files:
            rows += _deed_rows(item, now)
    others = [item for item in plan.items if not item.files]
    for kind, words in _HEADINGS.items():
        for item in sorted((one for one in others if one.kind == kind), key=lambda one: not one.is_chosen):
            name = safe_text(item.name.removeprefix("quarantine/") if kind == "quarantine" else item.name)
            told = _told(item.is_chosen, _why(item))
            rows.append(GcRow(f"{words}:", item.is_chosen, name, "", size(item.size_bytes), told))
    return rows


@dataclass(frozen=True, slots=True)
class GcChoice:
    """One thing that a person may choose by itself. place: as `plan_gc` takes it; heading: of what it is a part; the
    rest as of `GcRow`."""

    place: str
    heading: str
    is_chosen: bool
    name: str
    step: str
    size: str
    why: str


def choices_of(plan: GcPlan, now: float | None = None) -> list[GcChoice]:
    """Every file and every other item of a plan, none left out, in an order that stays when another one is chosen."""
    now = time.time() if now is None else now
    found = []
    for item in plan.items:
        for file in item.files:
            name = f"{item.number}/{safe_text(file.name)}{'/' if file.is_directory else ''}"
            step = f"step {file.step:,}" if file.step is not None else ""
            why = f"has a copy: {safe_text(file.copy)}" if file.is_chosen and file.copy else safe_text(file.why)
            found.append(
                GcChoice(file.place, _heading(item, now), file.is_chosen, name, step, size(file.size_bytes), why)
            )
    for kind, words in _HEADINGS.items():
        found += [
            GcChoice(
                item.name, f"{words}:", item.is_chosen, safe_text(item.name), "", size(item.size_bytes), _why(item)
            )
            for item in plan.items
            if item.kind == kind and not item.files
        ]
    return found


def _why(item: GcItem) -> str:
    return safe_text(item.why or ("half written" if item.kind != "quarantine" else "the trainer found it bad"))


def _heading(item: GcItem, now: float) -> str:
    act = "rest of an interrupted gc" if item.kind == "leftover" else f"{safe_text(item.act, 20)}, {_ago(item.at, now)}"
    return f"{item.name} {act}: {plural(len(item.files), 'file')} of {size(item.size_bytes)}"


def _deed_rows(item: GcItem, now: float) -> Iterator[GcRow]:
    heading = _heading(item, now)
    if item.is_chosen:
        yield from _file_rows(f"{heading}; frees {size(item.freed_bytes)}", item.files)
    elif len({file.why for file in item.files}) == 1 and len(item.files) > 1:
        yield GcRow(f"{heading}; all stays: {item.files[0].why}", False, "")
    else:
        yield from _file_rows(f"{heading}; all stays", item.files)


def _file_rows(heading: str, files: Sequence[GcFile]) -> Iterator[GcRow]:
    ordered = sorted(files, key=lambda file: not file.is_chosen)
    while ordered:
        alike = [one for one in ordered if _said(one) == _said(ordered[0])]
        ordered = [one for one in ordered if _said(one) != _said(ordered[0])]
        shown = alike if len(alike) <= MOST_ALIKE + 1 else alike[:MOST_ALIKE]
        for file in shown:
            step = f"step {file.step:,}" if file.step is not None else ""
            name = safe_text(file.name) + ("/" if file.is_directory else "")
            has_copy = file.is_chosen and file.copy
            told = f"goes, copy: {safe_text(file.copy)}" if has_copy else _told(file.is_chosen, safe_text(file.why))
            yield GcRow(heading, file.is_chosen, name, step, size(file.size_bytes), told)
        if rest := alike[len(shown) :]:
            total = size(sum(file.size_bytes for file in rest))
            why = _told(rest[0].is_chosen, safe_text(rest[0].why))
            yield GcRow(heading, rest[0].is_chosen, f"and {len(rest)} more", "", total, why)


def _told(is_chosen: bool, why: str) -> str:
    return f"goes: {why}" if is_chosen else f"stays: {why}"


def _said(file: GcFile) -> tuple[bool, str]:
    return file.is_chosen, file.why


def _ago(at: float, now: float) -> str:
    return f"{short_age(now - at)} ago"
