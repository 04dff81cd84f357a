"""Take deeds back, to any depth, and do them again: the plans of `undo` and `redo`, in plain words.

Neither is special to the journal: each is a deed that moves what lies aside to its old name, and sets aside what it
finds there. So nothing is lost by either, a crash in one is finished like any other, and what an undo displaced is
what a redo puts back. Where everything lies now follows from the journals (`whereabouts.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from ckpt_tui.errors import CkptError
from ckpt_tui.events.lineage import Lineage
from ckpt_tui.services import journal
from ckpt_tui.services.branches import run_lineage
from ckpt_tui.services.catalog import Catalog, read_catalog
from ckpt_tui.services.files import content_of
from ckpt_tui.services.held import look_at, read_now
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import FOLDER_NAME, Deed, Move
from ckpt_tui.services.plans import Act, Plan, assemble, safe_name
from ckpt_tui.services.reachable import folder_number, freed_by_gc, is_freed, lies_there, why_gone
from ckpt_tui.services.registry import REGISTRY_NAME, stored_lineage
from ckpt_tui.services.whereabouts import REDO, UNDO, Traced, Whereabouts, is_same, names_of, taken_back, trace
from ckpt_tui.text import plural, run_word

Progress = Callable[[int], None]
IsCancelled = Callable[[], bool]
_MAX_NAMES = 12


def plan_undo(
    directory: str,
    *,
    to: int | None = None,
    recheck: bool = False,
    on_bytes: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Plan:
    """Plan to take the newest deed back that still holds; with `to`, every deed down to that number, as one.

    Of what is put back only that is read from which a resume would start, and what somebody has touched since it was
    set aside; with `recheck` all of it.

    Raises CkptError when `to` is not a deed that holds, or when the newest one cannot be taken back; Cancelled.
    """
    directory, notices = begin(directory)
    found = trace(journal.read_deeds(directory))
    if not found.standing or (to is None and all(is_freed(directory, found, n) for n in found.standing)):
        said = "There is nothing to undo."
        if found.standing:
            said = "There is nothing left to undo: what the deeds here had set aside was freed by gc."
        return Plan("undo", directory, (), (said,), warnings=tuple(notices))
    if to is None:
        numbers = found.standing[-1:]
        _require(directory, found, numbers[0])
    else:
        numbers = _down_to(directory, found, to)
    warnings = [*notices, *_unread(directory)]
    sentences = [f"Takes back {_deed_words(found.deeds[number])}." for number in reversed(numbers)]
    wanted: dict[str, Traced | None] = {}
    for name in names_of(found, numbers):
        first = next(number for number in numbers if (number, name) in found.before)
        wanted[name] = found.to_take_back(first, name)
    return _plan(
        "undo", directory, found, wanted, sentences, warnings, _registry_of_undo(directory, found, numbers, wanted),
        takes_back=numbers[::-1], recheck=recheck, on_bytes=on_bytes, is_cancelled=is_cancelled,
    )  # fmt: skip


def plan_redo(
    directory: str,
    *,
    recheck: bool = False,
    on_bytes: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Plan:
    """Plan to take the last undo back, and again the one before it; after a new deed there is nothing to redo. recheck:
    as `plan_undo`.

    Raises CkptError when what it needs is gone; Cancelled.
    """
    directory, notices = begin(directory)
    found = trace(journal.read_deeds(directory))
    undo = found.undo_to_redo()
    if undo is None:
        return Plan("redo", directory, (), (why_no_redo(found),), warnings=tuple(notices))
    _require(directory, found, undo)
    wanted = {name: found.before[undo, name] for name in names_of(found, [undo])}
    sentences = [f"Does {_deed_words(found.deeds[number])} again." for number in taken_back(found.deeds[undo])[::-1]]
    registry = _registry_back(directory, found, wanted, is_unbroken=True)
    return _plan(
        "redo", directory, found, wanted, sentences, [*notices, *_unread(directory)], registry,
        takes_back=[undo], recheck=recheck, on_bytes=on_bytes, is_cancelled=is_cancelled,
    )  # fmt: skip


def why_no_redo(found: Whereabouts) -> str:
    """Why nothing can be done again."""
    is_lost = any(deed.act == UNDO and number not in found.undone_by for number, deed in found.deeds.items())
    return (
        "There is nothing to redo: since the last undo something else was done. What it displaced is still set aside."
        if is_lost
        else "There is nothing to redo: nothing was taken back."
    )


def _require(directory: str, found: Whereabouts, number: int) -> None:
    """Raise CkptError when a deed, or an undo, cannot be taken back any more."""
    why = why_gone(directory, found, number)
    if not why:
        return  # of what is still there, and what is not, the plan tells
    deed = found.deeds[number]
    older = [other for other in found.standing if other < number and not is_freed(directory, found, other)]
    hint = f"`ckpt-tui undo {run_word(directory)} --list` shows every deed."
    if older and deed.act not in (UNDO, REDO):
        hint = f"`ckpt-tui undo {run_word(directory)} --to {older[-1]}` goes back beyond it, as far as that can be."
    title = "Cannot be done again" if deed.act == UNDO else "Cannot be taken back"
    raise CkptError(title, f"{_deed_words(deed)} in {directory}: {why}", hint)


def _down_to(directory: str, found: Whereabouts, to: int) -> list[int]:
    if to in found.standing:
        return [number for number in found.standing if number >= to]
    holds = ", ".join(str(number) for number in found.standing[-_MAX_NAMES:])
    deed = found.deeds.get(to)
    why = "there is no deed of that number"
    if deed is not None and to in found.undone_by:
        why = f"{_deed_words(deed)} was taken back already, by number {found.undone_by[to]}"
    elif deed is not None:
        why = f"it is {'an' if deed.act == UNDO else 'a'} {deed.act}: name the deed itself"
    raise CkptError(
        "Not to be taken back", f"number {to} in {directory}: {why}", f"These hold: {holds}; `--list` shows them."
    )


def _unread(directory: str) -> list[str]:
    """A warning for every folder of a deed whose journal cannot be read: what it moved is not known."""
    read = {deed.number for deed in journal.read_deeds(directory)}
    return [
        f"The journal in {FOLDER_NAME}/{number}/ cannot be read: what that deed moved is not known, and it is left out."
        for number in journal.deed_numbers(directory)
        if number not in read
    ]


def _plan(
    act: Act,
    directory: str,
    found: Whereabouts,
    wanted: dict[str, Traced | None],
    sentences: list[str],
    warnings: list[str],
    registry: Move | None,
    *,
    takes_back: Sequence[int],
    recheck: bool,
    on_bytes: Progress | None,
    is_cancelled: IsCancelled | None,
) -> Plan:
    catalog = read_catalog(directory)
    moves: list[Move] = []
    put_back: list[str] = []
    leave: list[str] = []
    written_since: list[str] = []
    missing: dict[str, Traced] = {}
    sources: dict[str, Traced] = {}
    for name, traced in reversed(wanted.items()):
        if name == REGISTRY_NAME:
            continue
        now = content_of(os.path.join(directory, name))
        left = found.now.get(name)
        is_ours = left is not None and is_same(left.content, now)
        if traced is None:
            if now is None:
                continue
            if not is_ours:
                none_before = "" if act == REDO else ", though there was none before"
                warnings.append(f"{safe_name(name)} was written since; it stays{none_before}.")
                continue
            moves.append(Move(name, "remove", before=now))
            leave.append(safe_name(name))
        elif traced.place == name and is_ours:
            continue  # an undo that met somebody else's file put it back already
        elif not lies_there(directory, traced):
            missing[name] = traced
        else:
            assert traced.place is not None
            kept = content_of(os.path.join(directory, traced.place))
            moves.append(Move(name, "rename", before=now, source=traced.place, after=kept))
            sources[traced.place] = traced
            put_back.append(safe_name(name))
            if now is not None and not is_ours:
                written_since.append(safe_name(name))
    if written_since:
        what = "was written since; that file is" if len(written_since) == 1 else "were written since; those files are"
        warnings.append(f"{_listed(written_since)} {what} set aside, not deleted.")
    if leave and act == REDO:
        sentences.append(f"{_listed(leave)} {'is' if len(leave) == 1 else 'are'} set aside again.")
    elif leave:
        what = "was not there before: it is set aside" if len(leave) == 1 else "were not there before: set aside"
        sentences.append(f"{_listed(leave)} {what}.")
    if put_back:
        sentences.append(f"Put back as {'it was' if len(put_back) == 1 else 'they were'}: {_listed(put_back)}.")
    looked = look_at(
        directory, [(place, traced.content, traced.was) for place, traced in sources.items()],
        recheck=recheck, on_bytes=on_bytes, is_cancelled=is_cancelled,
    )  # fmt: skip
    missing_words = _missing_words(directory, found, missing) if missing else []
    if missing:
        # The old registry would tell of what does not come back, and of its score. It is made of what does instead.
        registry = None
    lineage = _branch_back(directory, found, wanted, takes_back) if registry is None else None
    by_name = {move.target: move.source for move in moves if move.how == "rename"}
    while True:
        doubts = [held.doubt for held in looked.values() if held.doubt]
        unread = [name for name, place in by_name.items() if not looked[place].is_read]
        said = [*sentences, _unread_words(directory, act, unread)] if unread else sentences
        plan = assemble(
            act, directory, catalog, list(moves), list(said), [*warnings, *doubts, *missing_words],
            why=_why(act, found, takes_back), takes_back=takes_back, registry=registry if moves else None,
            lineage=lineage, held={place: held.entry for place, held in looked.items() if held.entry is not None},
        )  # fmt: skip
        taken = by_name.get(plan.resume_takes or "", "")
        entry = looked[taken].entry if taken else None
        if entry is None or looked[taken].is_read:
            break
        # What a resume is going to start from has to be good, and not only as it was.
        traced = sources[taken]
        looked[taken] = read_now(
            directory, taken, traced.content, traced.was, entry, on_bytes=on_bytes, is_cancelled=is_cancelled
        )
    plan = replace(plan, unread=tuple(unread))
    return _with_cost(plan, catalog)


def _unread_words(directory: str, act: str, names: Sequence[str]) -> str:
    which = safe_name(names[0]) if len(names) == 1 else f"{len(names):,} files"
    redo = " --redo" if act == REDO else ""
    way = f"`ckpt-tui undo {run_word(directory)}{redo} --recheck`"
    return (
        f"Not read, because untouched since it was set aside: {which}. {way} reads it."
        if len(names) == 1
        else (f"Not read, because untouched since they were set aside: {which}. {way} reads them.")
    )


def _missing_words(directory: str, found: Whereabouts, missing: dict[str, Traced]) -> list[str]:
    """What became of that which cannot be put back, and what that means for its names."""
    freed = {name: told for name, traced in missing.items() if (told := freed_by_gc(found, traced)) is not None}
    said = []
    for name, traced in missing.items():
        if name not in freed:
            is_aside = folder_number(traced.place) is not None
            where = f"{safe_name(traced.place or '')} is no longer there" if is_aside else "What was there is gone"
            said.append(f"{where}: {safe_name(name)} {_ends(directory, [name])}.")
    by_end: dict[tuple[str, bool], list[str]] = {}
    for name, told in freed.items():
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(told.at)) if told.at else "some time"
        by_end.setdefault((at, os.path.lexists(os.path.join(directory, name))), []).append(name)
    for (at, _), names in by_end.items():
        copies = sorted({safe_name(freed[name].copy) for name in names if freed[name].copy})
        had = f"; {_listed(copies)} had a copy then" if copies else ""
        said.append(
            f"Freed by gc at {at}: {_listed([safe_name(name) for name in names])} {_ends(directory, names)}{had}."
        )
    return said


def _ends(directory: str, names: Sequence[str]) -> str:
    is_one = len(names) == 1
    if os.path.lexists(os.path.join(directory, names[0])):
        return "stays as it is" if is_one else "stay as they are"
    return "does not come back" if is_one else "do not come back"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else "")


def _branch_back(
    directory: str, found: Whereabouts, wanted: dict[str, Traced | None], numbers: Sequence[int]
) -> Lineage | None:
    """The branch that the run was on before a rollback that is taken back, where the registry's own bytes cannot come
    back: a session since has written it. Without it, what is put back would be of a branch that was left."""
    deeds = [deed for number in numbers for deed in (found.deeds[number], *_taken_back_by(found, number))]
    traced = wanted.get(REGISTRY_NAME)
    if not any(deed.act == "rollback" for deed in deeds):
        return None
    if traced is None:
        return run_lineage(directory, None, [], []) if REGISTRY_NAME in wanted else None
    if traced.place is None or not lies_there(directory, traced):
        return None
    return stored_lineage(os.path.join(directory, os.path.dirname(traced.place)))


def _taken_back_by(found: Whereabouts, number: int) -> list[Deed]:
    return [found.deeds[other] for other in taken_back(found.deeds[number]) if other in found.deeds]


def _with_cost(plan: Plan, catalog: Catalog) -> Plan:
    """The plan with a warning when a resume then starts from an earlier step than now."""
    now = catalog.entry(catalog.resume_would_take) if catalog.resume_would_take else None
    if plan.is_empty or now is None or now.step is None:
        return plan
    behind = now.step - (plan.resume_step or 0) if plan.resume_takes is not None else 0
    if plan.resume_takes is None:
        said = f"Then there is nothing a resume could start from; now it takes {safe_name(now.name)}."
    elif behind > 0:
        said = f"That is {plural(behind, 'step')} before {safe_name(now.name)} (step {now.step:,}), which it takes now."
    else:
        return plan
    return replace(plan, warnings=(*plan.warnings, said))


def _why(act: str, found: Whereabouts, numbers: Sequence[int]) -> str:
    deeds = [found.deeds[number] for number in numbers]
    if act == REDO:
        deeds = [found.deeds[number] for number in taken_back(deeds[0]) if number in found.deeds]
    acts = list(dict.fromkeys(deed.act for deed in deeds))
    return f"{act} of a {acts[0]}" if len(deeds) == 1 else f"{act} of {plural(len(deeds), 'deed')}"


def _deed_words(deed: Deed) -> str:
    return f"the {deed.act} of {journal.when(deed)} ({FOLDER_NAME}/{deed.number}/)"


def _registry_of_undo(
    directory: str, found: Whereabouts, numbers: Sequence[int], wanted: dict[str, Traced | None]
) -> Move | None:
    """The registry's own bytes, where nobody but these deeds wrote it since the first of them."""
    touching = [number for number in numbers if (number, REGISTRY_NAME) in found.before]
    is_unbroken = all(
        found.to_take_back(later, REGISTRY_NAME) is _left_by(found, earlier) for earlier, later in pairwise(touching)
    )
    # What is there now may be a registry that the trainer wrote after these deeds, and that a later undo gave back.
    is_unbroken = is_unbroken and bool(touching) and _left_by(found, touching[-1]) is found.now.get(REGISTRY_NAME)
    return _registry_back(directory, found, wanted, is_unbroken=is_unbroken)


def _left_by(found: Whereabouts, number: int) -> Traced | None:
    return found.after.get((number, REGISTRY_NAME))


def _registry_back(
    directory: str, found: Whereabouts, wanted: dict[str, Traced | None], *, is_unbroken: bool
) -> Move | None:
    traced = wanted.get(REGISTRY_NAME)
    now = content_of(os.path.join(directory, REGISTRY_NAME))
    left = found.now.get(REGISTRY_NAME)
    if now is None or left is None or not is_unbroken or not is_same(left.content, now):
        return None
    if traced is None:
        # There was none: the deed wrote one to say on which branch the run is.
        return Move(REGISTRY_NAME, "remove", before=now) if REGISTRY_NAME in wanted else None
    if traced.place is None or traced.place == REGISTRY_NAME or not lies_there(directory, traced):
        return None
    kept = content_of(os.path.join(directory, traced.place))
    return Move(REGISTRY_NAME, "rename", before=now, source=traced.place, after=kept)
