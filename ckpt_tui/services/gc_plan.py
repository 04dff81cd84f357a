"""What gc would free, and what it would cost: a plan for a person to read.

File by file what goes, what stays, and why; how many bytes really become free; and what `undo` cannot bring back
afterwards. By default whatever is the only valid copy of its step stays (`gc_choice.py`); what could take its place is
validated first. Beside a live training nothing is named that it uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, replace
from functools import partial

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.catalog_entries import check_entry
from ckpt_tui.services.deeds import History, read_history
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.services.free_space import bytes_freed, bytes_staying
from ckpt_tui.services.gc_choice import Choice, Wanted, choose, is_aside, only_copy_words
from ckpt_tui.services.gc_incoming import incoming_items
from ckpt_tui.services.gc_items import GcItem, deed_item, other_items
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.lasting import Lasting
from ckpt_tui.services.only_copies import BAD, Copies
from ckpt_tui.services.owner import owner_of, run_state
from ckpt_tui.services.validity import ACT_AGE_S
from ckpt_tui.text import plural, run_word, safe_text, size

_MAX_NAMES = 6


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What gc would free, for a person to read before it is done.

    freed_bytes: of all that is chosen together. refusals: why it is not done at all without `--force`.
    no_undo: numbers of deeds that `undo` cannot take back, or do again, afterwards, and can now; less_undo: by number
    of those of which it brings back only a part, the names that it leaves out; afterwards: both in words.
    trusts_run: something goes because the run directory, in which nothing trained, has a copy of it.
    """

    directory: str
    items: tuple[GcItem, ...]
    freed_bytes: int
    sentences: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    no_undo: tuple[int, ...] = ()
    less_undo: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    afterwards: tuple[str, ...] = ()
    found: tuple[tuple[str, Content], ...] = field(default=(), repr=False)
    trusts_run: bool = False

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
    picked: Collection[str] | None = None,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> GcPlan:
    """Plan to free what lies aside.

    picked: these and nothing else, one by one, whatever they are: places of files that were set aside
    (`set_aside/2/latest.pt`), and names of the other items of a plan.

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
    check = partial(check_entry, max_age_s=ACT_AGE_S, on_bytes=on_bytes, is_cancelled=is_cancelled)

    def advance(num_bytes: int) -> None:
        if is_cancelled is not None and is_cancelled():
            raise Cancelled
        if on_bytes is not None:
            on_bytes(num_bytes)

    lasting = Lasting(directory, state, is_owned=is_owned)
    held = {deed.number: deed.held for deed in history.deeds}
    copies = Copies(read_catalog(directory), held, check, advance, lasting.why_not)
    chosen = frozenset(picked) if picked is not None else None
    choices = choose(directory, history, copies, Wanted(tuple(numbers), older_than_s, keep, every, chosen))
    items = [_item_of(directory, choice) for choice in choices]
    kept = {file.place for choice in choices for file in choice.files if not file.is_chosen}
    for deed in history.deeds:
        if deed.conflicts and (not numbers or deed.number in numbers):
            items += incoming_items(
                directory, deed, copies, kept, takes_only_copies=every or bool(numbers) or chosen is not None
            )
    if not numbers:
        items += other_items(
            directory,
            history,
            state,
            quarantine=quarantine or chosen is not None,
            older_than_s=older_than_s,
            is_owned=is_owned,
        )
    if chosen is not None:
        items = [
            item if item.files else replace(item, is_chosen=item.is_chosen and item.name in chosen) for item in items
        ]
        _require_there(directory, items, chosen)
    going = [file for item in items for file in item.files if file.is_chosen]
    refusals = []
    takes_good = any(file.is_good for file in going) or any(item.is_chosen and item.is_good for item in items)
    if takes_good and copies.newest_valid() is None:
        refusals.append("No valid checkpoint would be left in this directory: it frees the last one.")
    places = [path for item in items if item.is_chosen for path in item.paths]
    no_undo, less_undo = _without(history, set(places))
    afterwards = tuple(_undo_words(history, no_undo, less_undo))
    paths = [os.path.join(directory, path) for path in places]
    freed, staying = bytes_freed(paths), bytes_staying(paths)
    found_copies = [file.copy for file in going] + [item.copy for item in items if item.is_chosen]
    found_copies = [copy for copy in found_copies if copy]
    watched = [*places, *dict.fromkeys(found_copies)]
    warnings = (*notices, *_warnings(directory, choices))
    contents = [(path, content_of(os.path.join(directory, path))) for path in watched]
    return GcPlan(
        directory, tuple(items), freed, tuple(_sentences(items, freed, staying, afterwards)),
        warnings, tuple(refusals), tuple(no_undo), less_undo, afterwards,
        tuple((path, content) for path, content in contents if content is not None),
        trusts_run=not is_owned and not all(map(is_aside, found_copies)),
    )  # fmt: skip


def _require_there(directory: str, items: Sequence[GcItem], picked: frozenset[str]) -> None:
    there = {place for item in items for place in (item.name, *(file.place for file in item.files))}
    if unknown := sorted(picked - there):
        raise CkptError(
            "Nothing of that name lies aside",
            f"{safe_text(unknown[0], 200)} in {directory}",
            f"`ckpt-tui gc {run_word(directory)} --all --quarantine --dry-run` shows all that does.",
        )


def _item_of(directory: str, choice: Choice) -> GcItem:
    deed, why = choice.deed, choice.why
    if not why:
        only = [file for file in choice.files if file.is_only and not file.is_chosen]
        stays = " that stays" if any(file.passing for file in only) else ""
        why = f"nothing else here{stays} has {only_copy_words(only, 3)}" if only else ""
        why = why or next((file.why for file in choice.files if not file.is_chosen), "")
    return deed_item(
        directory, deed.number, deed.act, deed.at, choice.files, why, is_rest=deed.state == "collected"
    )  # fmt: skip


def _warnings(directory: str, choices: Sequence[Choice]) -> list[str]:
    """What a person has to know of what goes, and would not look for."""
    said = []
    for choice in choices:
        number = f"set_aside/{choice.deed.number}/"
        lost = [file for file in choice.files if file.is_chosen and file.is_only and file.validity not in BAD]
        if lost:
            stays = " that stays" if any(file.passing for file in lost) else ""
            said.append(
                f"Nothing else here{stays} has what is freed with {number}: {only_copy_words(lost, _MAX_NAMES)}."
            )
        if any(file.is_chosen for file in choice.files):
            said += [f"{safe_text(name)} is not of ckpt-tui, and stays." for name in choice.deed.strangers]
    broken = [
        file for choice in choices for file in choice.files
        if file.is_chosen and file.is_only and file.validity == "damaged" and file.step is not None
    ]  # fmt: skip
    if broken:
        file, rest = broken[0], len(broken) - 1
        what = f"{safe_text(file.place, 120)}{f' and {rest} more' if rest else ''}"
        salvage = f"`ckpt-tui salvage {run_word(os.path.join(directory, file.place))} -o OUT`"
        step = f"step {file.step:,}" if not rest else "their steps"
        said.append(
            f"Nothing valid here has {step} of {what}, damaged: {salvage} could still get out what is whole of it."
        )
    return said


def _without(history: History, freed: set[str]) -> tuple[list[int], dict[int, tuple[str, ...]]]:
    """Which deeds could be taken back, or done again, and cannot when the places `freed` are gone; and which then
    only in part: without these names."""
    no_undo: list[int] = []
    less_undo: dict[int, tuple[str, ...]] = {}
    for deed in history.deeds:
        gone = [place for place in deed.needs if place in freed]
        if not gone or not (deed.can_undo or deed.can_redo):
            continue
        there = [place for place in deed.needs if os.path.lexists(os.path.join(history.directory, place))]
        if set(there) <= freed:
            no_undo.append(deed.number)
        else:
            less_undo[deed.number] = tuple(place.split("/", 2)[2] for place in gone)
    return no_undo, less_undo


def _undo_words(history: History, no_undo: Sequence[int], less_undo: Mapping[int, tuple[str, ...]]) -> list[str]:
    by_number = {deed.number: deed for deed in history.deeds}
    undone = [str(number) for number in no_undo if by_number[number].can_undo]
    redone = [str(n) for number in no_undo if by_number[number].can_redo for n in by_number[number].takes_back]
    said = []
    if undone:
        said.append(f"Then `undo` cannot bring back what {_numbered(undone)} changed.")
    if redone:
        said.append(f"Then `undo --redo` cannot do {_numbered(sorted(redone))} again.")
    for number, names in less_undo.items():
        deed = by_number[number]
        listed = ", ".join(safe_text(name, 120) for name in names[:_MAX_NAMES])
        listed += f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        if deed.can_undo:
            said.append(f"Then `undo` takes {_numbered([str(number)])} back without {listed}.")
        else:
            again = _numbered(sorted(map(str, deed.takes_back)))
            said.append(f"Then `undo --redo` does {again} again without {listed}.")
    return said


def _numbered(numbers: Sequence[str]) -> str:
    if len(numbers) == 1:
        return f"deed {numbers[0]}"
    return f"deeds {', '.join(numbers[:-1])} and {numbers[-1]}"


_PARTS = {
    "deed": ("{} that was set aside", "{} that were set aside", "file"),
    "quarantine": ("{} in quarantine", "{} in quarantine", "checkpoint"),
    "leftover": ("{} of a crash", "{} of crashes", "leftover"),
    "temporary": ("{} of a process that is gone", "{} of processes that are gone", "temporary file"),
}


def _sentences(items: Sequence[GcItem], freed: int, staying: int, afterwards: Sequence[str]) -> list[str]:
    if not items:
        return ["There is nothing to free: nothing lies aside, and no crash left anything."]
    stays = _stays_words(items)
    if not any(item.is_chosen for item in items):
        return [f"Nothing is freed. {stays}"]
    parts = []
    for kind, (one, several, noun) in _PARTS.items():
        chosen = [item for item in items if item.kind == kind and item.is_chosen]
        number = sum(len(item.paths) if item.files else 1 for item in chosen)
        if number:
            parts.append((one if number == 1 else several).format(plural(number, noun)))
    said = [f"Removes {', '.join(parts)}: {size(freed)} become free.{' ' if stays else ''}{stays}"]
    if staying:
        said.append(f"{size(staying)} stay on the disk: the same bytes have other names, too (hard links).")
    return [*said, *afterwards, "This deletes, and cannot be undone."]


def _stays_words(items: Sequence[GcItem]) -> str:
    sizes = [file.size_bytes for item in items for file in item.files if not file.is_chosen]
    sizes += [item.size_bytes for item in items if not item.files and not item.is_chosen]
    return (
        f"{plural(len(sizes), 'file')} of {size(sum(sizes))} {'stays' if len(sizes) == 1 else 'stay'}." if sizes else ""
    )
