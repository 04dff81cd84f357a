"""What an act puts in place: which checkpoint, of which step, and how far its validation went."""

from __future__ import annotations

from ckpt_tui.checkpoints.validate import LEVELS
from ckpt_tui.records import dataclass
from ckpt_tui.services import validity
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.text import safe_text


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """levels: each level with what its check said (pass, fail, not-checked, not-applicable)."""

    name: str
    step: int | None
    validity: str
    levels: tuple[tuple[str, str], ...]


def checked_source(entry: CatalogEntry) -> CheckedSource:
    known = validity.recall(entry.path)
    if known is not None:  # a level may hold above one that could not be checked: most directories have no checksums
        levels = {level: str(known.levels.get(level, "not-checked")) for level in LEVELS}
    else:
        reached = LEVELS.index(entry.level) + 1 if entry.level in LEVELS else 0
        levels = {level: "pass" if place < reached else "not-checked" for place, level in enumerate(LEVELS)}
    return CheckedSource(entry.name, entry.step, entry.validity, tuple(levels.items()))


def checked_words(entry: CatalogEntry) -> str:
    """How far the validation of a source went: a person goes by it when damage is why they are here."""
    levels = checked_source(entry).levels
    held = [level for level, word in levels if word == "pass"]
    rest = [level for level, _ in levels if level not in held]
    name = safe_text(entry.name, 120)
    if not rest:
        return f"{name} holds at every level: {', '.join(held)}."
    return f"{name} was checked for {', '.join(held) or 'nothing'}; {', '.join(rest)} could not be checked."


def step_words(entry: CatalogEntry) -> str:
    """`step 9,250`."""
    return f"step {entry.step:,}" if entry.step is not None else "step not known"
