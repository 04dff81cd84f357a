"""Put back, roll back, undo: first a plan in plain words, then the deed.

The plan names every file that changes and what is given up, and writes nothing but what an interrupted deed left
unfinished. The deed goes through the journal (`journal.py`), so that nothing is ever deleted and a crash at any point
leaves every file whole. What was replaced lies in `set_aside/<n>/` under its own name; `undo` brings it back.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ckpt_tui.errors import CkptError
from ckpt_tui.services import names
from ckpt_tui.services.carrying_out import carry_out as carry_out
from ckpt_tui.services.catalog import Catalog, read_catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry, check_entry
from ckpt_tui.services.files import content_of, tree_entries
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import Move
from ckpt_tui.services.newest_rules import require_room_beside
from ckpt_tui.services.plans import Outcome as Outcome
from ckpt_tui.services.plans import Plan as Plan
from ckpt_tui.services.plans import PlannedMove as PlannedMove
from ckpt_tui.services.plans import assemble, copy_move, safe_name
from ckpt_tui.services.put_back import place_in_quarantine, plan_put_back
from ckpt_tui.services.registry import read_registry
from ckpt_tui.services.rollback import plan_rollback as plan_rollback
from ckpt_tui.services.sources import checked_words, step_words
from ckpt_tui.services.targets import first_valid, not_here, plain_name
from ckpt_tui.services.undo import plan_undo as plan_undo
from ckpt_tui.services.validity import ACT_AGE_S, recall, validated_at
from ckpt_tui.text import run_word, safe_text

Progress = Callable[[int], None]
IsCancelled = Callable[[], bool]
_MAX_NAMES = 6


def plan_restore(
    directory: str,
    names_wanted: Sequence[str] = (),
    *,
    force: bool = False,
    recheck: bool = False,
    on_bytes: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Plan:
    """Plan to put a valid backup in place of every damaged or missing file, or of those in `names_wanted` only.

    Without names, what is damaged is told by what validation found before where nobody has written since, and the plan
    says of which time that is; `recheck` reads every file that has a backup. What is put in place is read in any case.

    A name may be that of a backup: then it is put in place of what it stands in for, damaged or not; or one in
    `quarantine/`: then it gets its name back, with `force` even if it is still bad.
    Raises CkptError when a name is not there, or when what is damaged has no valid backup; Cancelled.
    """
    places = [place for name in names_wanted if (place := place_in_quarantine(directory, name)) is not None]
    if places:
        if len(places) < len(names_wanted):
            raise CkptError(
                "Usage",
                f"what lies in quarantine is put back by itself, in {directory}",
                "Restore the others after it.",
            )
        return plan_put_back(
            directory, places, force=force, recheck=recheck, on_bytes=on_bytes, is_cancelled=is_cancelled
        )
    check = partial(check_entry, on_bytes=on_bytes, is_cancelled=is_cancelled)
    started = time.time()
    looked_at: dict[str, CatalogEntry] = {}

    def check_now(entry: CatalogEntry) -> CatalogEntry:
        """A disk forgets, and size and time stay as they were."""
        found = looked_at[entry.name] = check(entry, max_age_s=time.time() - started if recheck else ACT_AGE_S)
        return found

    directory, notices = begin(directory)
    require_room_beside(directory)
    catalog = read_catalog(directory)
    registry = {entry.name: entry.step for entry in read_registry(directory)}
    targets = _with_backups(catalog)
    chosen: list[tuple[str, CatalogEntry | None]] = []  # a name, and the backup that was asked for by its name
    for name in names_wanted:
        name = plain_name(directory, name)
        entry = catalog.entry(name)
        if entry is not None and entry.backup_of is not None:
            chosen.append((entry.backup_of, entry))
        elif entry is None and name not in targets:
            raise not_here(catalog, name)
        else:
            chosen.append((name, None))
    moves: list[Move] = []
    sources: list[CatalogEntry] = []
    sentences: list[str] = []
    warnings = list(notices)
    told: set[str] = set()
    passed_over: dict[str, None] = {}
    remembered: dict[str, float] = {}
    is_left = False  # whether something damaged has nothing that could take its place
    for name, asked in chosen or [(name, None) for name in targets]:
        entry = catalog.entry(name)
        if entry is not None:
            if not names_wanted and not recheck:
                remembered.update(_remembered(entry))
            looked_at[name] = entry = check_now(entry) if names_wanted or recheck else check(entry)
        if asked is None and entry is not None and not entry.is_bad:
            if names_wanted:
                sentences.append(f"{safe_name(name)} is {entry.validity}: nothing to restore.")
                backups = ", ".join(safe_name(backup.name) for backup in catalog.backups_of(name))
                if backups:
                    sentences.append(f"To replace it all the same, name the backup: {backups}.")
            continue
        if asked is None and entry is not None and _is_not_ours_to_read(entry):
            if names_wanted:
                raise CkptError(
                    "No permission",
                    f"may not read {entry.path}: whether it is damaged cannot be told; nothing was changed",
                    "Run as the user who owns it.",
                )
            warnings.append(f"{safe_name(name)} is not for you to read: whether it is damaged is not known. It stays.")
            continue
        step = registry.get(name) if entry is None or entry.step is None else entry.step
        candidates = [asked] if asked is not None else _stand_ins(catalog, name, step)
        source, rejected = first_valid(candidates, check_now)
        state = "missing" if entry is None else entry.validity if entry.is_bad else "to be replaced"
        if source is None:
            why = "; ".join(rejected) or "it has no backup"
            if names_wanted:
                raise CkptError(
                    "No valid backup",
                    f"{safe_name(name)} is {state}, and {why}",
                    f"Look: `ckpt-tui list {run_word(directory)}`.",
                )
            is_left = True
            warnings.append(f"{safe_name(name)} is {state} and stays so: {why}.")
            continue
        passed_over.update(dict.fromkeys(rejected))
        was = f" (step {step:,})" if step is not None else ""
        note = entry.note if entry is not None and entry.is_bad else ""
        # Names that share their bytes share what is wrong with them.
        because = "" if not note else ", too" if note in told else f": {safe_text(note, 300)}"
        told.add(note)
        sentences.append(f"{safe_name(name)}{was} is {state}{because}.")
        if (why := _why_not_replaced(directory, name)) and names_wanted:
            raise CkptError("Not a file", f"{why}; nothing was changed", "Put it out of the way, and restore again.")
        if why:
            is_left = True
            warnings.append(f"{safe_name(name)} is {state} and stays so: {why}.")
            continue
        made = _made_already(moves, entry, source)
        if made is not None:
            sentences.append(f"{safe_name(name)} becomes one more name of the new {safe_name(made.target)}, as it was.")
            moves.append(Move(name, "link", before=content_of(os.path.join(directory, name)), source=made.target))
            continue
        sentences.append(
            f"{safe_name(source.name)} ({step_words(source)}, {source.validity}) is copied to {safe_name(name)}."
        )
        if checked_words(source) not in sentences:
            sentences.append(checked_words(source))
        moves.append(copy_move(directory, source, name))
        sources.append(source)
    replaced = [safe_name(move.target) for move in moves if move.before is not None]
    if replaced:
        sentences.append(f"Set aside, not deleted: the present {', '.join(replaced)}.")
    copied = {move.target for move in moves}
    warnings += [f"Passed over: {reason}." for reason in passed_over if reason.partition(" ")[0] not in copied]
    passed_names = {reason.partition(" ")[0] for reason in passed_over}
    # What a resume takes now goes by what was found just now, and not by what was known before.
    catalog = replace(catalog, entries=tuple(looked_at.get(entry.name, entry) for entry in catalog.entries))
    alone = [
        entry
        for entry in catalog.entries
        if entry.is_bad and not entry.is_backup and entry.name not in targets and entry.name not in passed_names
    ]
    if alone and not names_wanted:
        is_left = True
        warnings += [
            f"{safe_name(entry.name)} is {entry.validity} and stays so: it has no backup."
            for entry in alone[:_MAX_NAMES]
        ]
    if not moves and not sentences:
        sentences.append(
            "Nothing can be put back; a resume passes over what is damaged."
            if is_left
            else "Nothing to restore: no file with a backup is damaged or missing."
        )
    if remembered:
        sentences.append(_remembered_words(directory, remembered))
    plan = assemble(
        "restore", directory, catalog, moves, sentences, warnings, why="damaged or missing", sources=sources
    )
    return replace(plan, unread=tuple(remembered))


def _remembered(entry: CatalogEntry) -> dict[str, float]:
    """When `entry` was validated, by its name, if what was found then is all that is known of it now."""
    at = validated_at(entry.path)
    return {entry.name: at} if at is not None and recall(entry.path, ACT_AGE_S) is None else {}


def _remembered_words(directory: str, at: Mapping[str, float]) -> str:
    names = ", ".join(safe_name(name) for name in list(at)[:_MAX_NAMES])
    more = f" and {len(at) - _MAX_NAMES} more" if len(at) > _MAX_NAMES else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(at.values())))
    way = f"`ckpt-tui restore {run_word(directory)} --recheck`"
    later = " or later" if len(at) > 1 else ""
    return f"Not read now, but as last validated at {when}{later}: {names}{more}. {way} reads again."


def _with_backups(catalog: Catalog) -> list[str]:
    """Names that have a backup here, whether they are there themselves or not."""
    found = dict.fromkeys(entry.backup_of for entry in catalog.entries if entry.backup_of is not None)
    return sorted(found, key=lambda name: (names.KINDS.index(_kind(name)), name))


def _kind(name: str) -> str:
    facts = names.read_name(name) or names.read_name(name, is_directory=True)
    return facts.kind if facts is not None else "other"


def _made_already(moves: Sequence[Move], entry: CatalogEntry | None, source: CatalogEntry) -> Move | None:
    """The copy of `source` that takes the place of another name of the same damaged bytes. Names that the trainer
    saved as one share their bytes again: the second copy against damage is the backup, which stays."""
    shared = entry.same_as if entry is not None else ()
    return next((m for m in moves if m.how == "copy" and m.source == source.name and m.target in shared), None)


def _is_not_ours_to_read(entry: CatalogEntry) -> bool:
    """Whether it could not be judged for want of permission, which says nothing against it."""
    if entry.validity != "unreadable":
        return False
    is_directory = os.path.isdir(entry.path)
    if not os.access(entry.path, os.R_OK | (os.X_OK if is_directory else 0)):
        return True
    inside = (os.path.join(entry.path, one.path) for one in tree_entries(entry.path)) if is_directory else ()
    return any(not os.access(path, os.R_OK) for path in inside)


def _why_not_replaced(directory: str, name: str) -> str:
    """A name that leads somewhere else, or that is no file, is a person's own and is not replaced; "" where it may."""
    path = os.path.join(directory, name)
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    what = f"a link to {safe_text(os.readlink(path), 1000)}" if stat.S_ISLNK(mode) else "neither file nor directory"
    return f"{safe_text(path, 1000)} is {what}"


def _stand_ins(catalog: Catalog, name: str, step: int | None) -> list[CatalogEntry]:
    """What could take the place of `name`, the best first: another file of the same step, then its backups."""
    # Not the copy of a best that was taken back since, where one of the present best is there.
    backups = sorted(catalog.backups_of(name), key=lambda entry: step is not None and entry.step != step)
    if step is None or name not in (names.LATEST_NAME, names.LATEST_NAME.removesuffix(".pt")):
        return backups
    same_step = [
        e
        for e in resume_order(catalog.entries)
        if e.step == step and e.kind in ("rolling", "emergency", "epoch") and not e.is_abandoned
        and os.path.isdir(e.path) == (name != names.LATEST_NAME)
    ]  # fmt: skip
    return same_step + [backup for backup in backups if backup not in same_step]
