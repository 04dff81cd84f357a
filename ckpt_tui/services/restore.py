"""Put back, roll back, undo: first a plan in plain words, then the deed.

The plan names every file that changes and what is given up, and writes nothing but what an interrupted deed left
unfinished. The deed goes through the journal (`journal.py`), so that nothing is ever deleted and a crash at any point
leaves every file whole. What was replaced lies in `set_aside/<n>/` under its own name; `undo` brings it back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.lineage import is_on
from ckpt_tui.services import journal, names
from ckpt_tui.services.branches import lineage_of_path
from ckpt_tui.services.catalog import Catalog, CatalogEntry, check_entry, read_catalog, resume_order
from ckpt_tui.services.files import content_of
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import FOLDER_NAME, Deed, Move
from ckpt_tui.services.owner import owner_of, run_state
from ckpt_tui.services.plans import Outcome as Outcome
from ckpt_tui.services.plans import Plan as Plan
from ckpt_tui.services.plans import PlannedMove as PlannedMove
from ckpt_tui.services.plans import assemble, safe_name, space_words
from ckpt_tui.services.registry import REGISTRY_NAME, read_registry, stored_lineage
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.services.undo import plan_undo as plan_undo
from ckpt_tui.text import plural, safe_text, size

Progress = Callable[[int], None]
IsCancelled = Callable[[], bool]
_Check = Callable[[CatalogEntry], CatalogEntry]
# Left free on the device besides the copies: journals, and the log that a trainer goes on writing.
_SPARE_BYTES = 16 * 1024 * 1024


def plan_restore(
    directory: str,
    names_wanted: Sequence[str] = (),
    *,
    on_bytes: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Plan:
    """Plan to put a valid backup in place of every damaged or missing file, or of those in `names_wanted` only.

    A name may be that of a backup: then it is put in place of what it stands in for, damaged or not.
    Raises CkptError when a name is not there, or when what is damaged has no valid backup; Cancelled.
    """
    check = partial(check_entry, on_bytes=on_bytes, is_cancelled=is_cancelled)
    directory, notices = begin(directory)
    catalog = read_catalog(directory)
    registry = {entry.name: entry.step for entry in read_registry(directory)}
    targets = _with_backups(catalog)
    chosen: list[tuple[str, CatalogEntry | None]] = []  # a name, and the backup that was asked for by its name
    for name in names_wanted:
        name = _plain_name(directory, name)
        entry = catalog.entry(name)
        if entry is not None and entry.backup_of is not None:
            chosen.append((entry.backup_of, entry))
        elif entry is None and name not in targets:
            raise _not_here(catalog, name)
        else:
            chosen.append((name, None))
    moves, sentences, warnings = [], [], list(notices)
    told: set[str] = set()
    looked_at: dict[str, CatalogEntry] = {}
    passed_over: dict[str, None] = {}
    is_left = False  # whether something damaged has nothing that could take its place
    for name, asked in chosen or [(name, None) for name in targets]:
        entry = catalog.entry(name)
        if entry is not None:
            looked_at[name] = entry = check(entry)
        if asked is None and entry is not None and not entry.is_bad:
            if names_wanted:
                sentences.append(f"{safe_name(name)} is {entry.validity}: nothing to restore.")
                backups = ", ".join(safe_name(backup.name) for backup in catalog.backups_of(name))
                if backups:
                    sentences.append(f"To replace it all the same, name the backup: {backups}.")
            continue
        step = registry.get(name) if entry is None or entry.step is None else entry.step
        candidates = [asked] if asked is not None else _stand_ins(catalog, name, step)
        source, rejected = _first_valid(candidates, check)
        state = "missing" if entry is None else entry.validity if entry.is_bad else "to be replaced"
        if source is None:
            why = "; ".join(rejected) or "it has no backup"
            if names_wanted:
                raise CkptError(
                    "No valid backup", f"{safe_name(name)} is {state}, and {why}", "Look: `ckpt-tui list DIR`."
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
        sentences.append(f"{safe_name(source.name)} ({_step_words(source)}, valid) is copied to {safe_name(name)}.")
        moves.append(_copy(directory, source, name))
    replaced = [safe_name(move.target) for move in moves if move.before is not None]
    if replaced:
        sentences.append(f"Set aside, not deleted: the present {', '.join(replaced)}.")
    copied = {move.target for move in moves}
    warnings += [f"Passed over: {reason}." for reason in passed_over if reason.partition(" ")[0] not in copied]
    if not moves and not sentences:
        sentences.append(
            "Nothing can be put back; a resume passes over what is damaged."
            if is_left
            else "Nothing to restore: no file with a backup is damaged or missing."
        )
    # What a resume takes now goes by what was found just now, and not by what was known before.
    catalog = replace(catalog, entries=tuple(looked_at.get(entry.name, entry) for entry in catalog.entries))
    return assemble("restore", directory, catalog, moves, sentences, warnings, why="damaged or missing")


def plan_rollback(
    directory: str, to: str, *, on_bytes: Progress | None = None, is_cancelled: IsCancelled | None = None
) -> Plan:
    """Plan to make `to` (a step or a name) the checkpoint that `--resume auto` starts from.

    Raises CkptError when there is no such checkpoint, when its step is not known, or when it fails validation;
    Cancelled.
    """
    check = partial(check_entry, on_bytes=on_bytes, is_cancelled=is_cancelled)
    directory, notices = begin(directory)
    catalog = read_catalog(directory)
    target = _first_good(_find(directory, catalog, to), check)
    if target.step is None:
        raise CkptError(
            "Step not known", f"{safe_name(target.name)} does not say which step it is of", "Choose another one."
        )
    if not target.can_resume or target.validity != "valid":
        raise CkptError(
            "Not good to resume from",
            f"{safe_name(target.name)} is {target.validity}"
            + (f": {safe_text(target.note, 300)}" if target.note else ""),
            "Choose another one (`ckpt-tui list DIR`), or mend damaged files first (`ckpt-tui restore DIR`).",
        )
    # On a branch that was left: the run goes over to it, and what is on the present one is left behind instead.
    lineage = lineage_of_path(target.path) if target.is_abandoned else None
    if target.is_abandoned and stored_lineage(directory) is None:
        raise CkptError(
            "No registry",
            f"{safe_name(target.name)} is on a branch that was left, and {REGISTRY_NAME}, which says on which one the "
            "run is, is gone",
            f"Resume from it by its name, once: `ckpt-tui resume DIR --from {safe_name(target.name)}`.",
        )
    newer = [
        e
        for e in resume_order(catalog.entries)
        if e.step is not None and e.step > target.step
        and (is_on(lineage, e.session_id, e.step) if lineage is not None else not e.is_abandoned)
    ]  # fmt: skip
    newer_names = {entry.name for entry in newer}
    latest = catalog.entry(names.LATEST_NAME)
    # latest.pt is replaced by a copy, in one rename; everything else that is newer only leaves.
    moves = [_set_aside(directory, entry) for entry in newer if entry.name != names.LATEST_NAME]
    sentences = []
    has_own_layout = any((facts := names.read_name(e.name)) is not None and facts.is_own for e in catalog.entries)
    is_latest_good = latest is not None and latest.step == target.step and not check(latest).is_bad
    if has_own_layout and not is_latest_good and target.name != names.LATEST_NAME:
        moves.append(_copy(directory, target, names.LATEST_NAME))
        sentences.append(f"{safe_name(target.name)} (step {target.step:,}, valid) is copied to {names.LATEST_NAME}.")
    moves += _keep_a_best(directory, catalog, newer_names, target.step, sentences, check)
    if newer:
        listed = ", ".join(safe_name(entry.name) for entry in newer[:6])
        listed += f" and {len(newer) - 6} more" if len(newer) > 6 else ""
        sentences.insert(0, f"{plural(len(newer), 'newer checkpoint')} set aside, not deleted: {listed}.")
    warnings = list(notices)
    unknown = [entry.name for entry in catalog.entries if entry.step is None and not entry.is_bad]
    if unknown:
        warnings.append(f"Of unknown step, left where they are: {', '.join(map(safe_name, unknown[:6]))}.")
    if not moves:
        sentences.append(f"Nothing to do: a resume starts from step {target.step:,} already.")
    return assemble(
        "rollback", directory, catalog, moves, sentences, warnings, why="rolled back", target=target, lineage=lineage
    )


def carry_out(
    plan: Plan, *, force: bool = False, on_bytes: Progress | None = None, is_cancelled: IsCancelled | None = None
) -> Outcome:
    """Do what `plan` says, or raise CkptError with nothing changed.

    force: even while a live trainer owns the directory. on_bytes is told of bytes copied and read back as they go by.
    is_cancelled: asked between them; from the first rename on, the deed goes through. Raises Cancelled with everything
    as it was.
    """
    if plan.is_empty:
        raise CkptError("Nothing to do", " ".join(plan.sentences))
    _require_place(plan)
    owner = owner_of(plan.directory, run_state(plan.directory))
    if owner is not None and not force:
        raise CkptError(
            "A training is running here",
            f"process {owner.pid} is training in {plan.directory} ({owner.told_by} says so)",
            "Stop it first (`ckpt-tui stop DIR`), or say --force if you know better.",
        )
    deed = Deed(
        number=0, act=plan.act, state=journal.INTENT, moves=list(plan.moves), log=list(plan.log),
        sentences=list(plan.sentences), undoes=plan.undoes, takes_back=list(plan.takes_back),
    )  # fmt: skip
    deed = journal.perform(
        plan.directory, deed, force=force, on_bytes=on_bytes, is_cancelled=is_cancelled,
        finish=lambda done: log_restored(plan.directory, done),
    )  # fmt: skip
    aside = tuple(
        f"{FOLDER_NAME}/{deed.number}/{move.target}"
        for move in deed.moves
        if move.before is not None and move.target != REGISTRY_NAME
    )
    sentences = [sentence for sentence in plan.sentences if sentence != space_words(plan.bytes_needed)]
    if aside:
        sentences.append(f"Set aside in {FOLDER_NAME}/{deed.number}/: {plural(len(aside), 'file')}.")
    back = "undo --redo` does it again" if plan.act == "undo" else "undo` takes it back"
    sentences.append(f"`ckpt-tui {back}.")
    return Outcome(plan.act, plan.directory, deed.number, tuple(sentences), aside, plan.resume_takes)


def _with_backups(catalog: Catalog) -> list[str]:
    """Names that have a backup here, whether they are there themselves or not."""
    found = dict.fromkeys(entry.backup_of for entry in catalog.entries if entry.backup_of is not None)
    return sorted(found, key=lambda name: (names.KINDS.index(_kind(name)), name))


def _kind(name: str) -> str:
    facts = names.read_name(name)
    return facts.kind if facts is not None else "other"


def _stand_ins(catalog: Catalog, name: str, step: int | None) -> list[CatalogEntry]:
    """What could take the place of `name`, the best first: another file of the same step, then its backups."""
    # Not the copy of a best that was taken back since, where one of the present best is there.
    backups = sorted(catalog.backups_of(name), key=lambda entry: step is not None and entry.step != step)
    if step is None or name != names.LATEST_NAME:
        return backups
    same_step = [
        e for e in resume_order(catalog.entries) if e.step == step and e.kind in ("rolling", "emergency", "epoch")
    ]
    return same_step + backups


def _first_valid(candidates: Sequence[CatalogEntry], check: _Check) -> tuple[CatalogEntry | None, list[str]]:
    rejected: list[str] = []
    for candidate in candidates:
        checked = check(candidate)
        is_directory = os.path.isdir(checked.path)
        if not checked.is_bad and not is_directory:
            return checked, rejected
        only_files = ", but a directory, and only files are put back" if is_directory and not checked.is_bad else ""
        rejected.append(f"{safe_name(checked.name)} is {checked.validity}{only_files}")
    return None, rejected


def _first_good(entries: Sequence[CatalogEntry], check: _Check) -> CatalogEntry:
    """The first that a training can resume from; the first of all, with what is wrong with it, when none can be."""
    first = None
    for entry in entries:
        checked = check(entry)
        if checked.validity == "valid" and checked.can_resume:
            return checked
        first = first or checked
    assert first is not None, "somebody asked for none"
    return first


def _find(directory: str, catalog: Catalog, to: str) -> list[CatalogEntry]:
    """The entries that a person may mean by a step, a name, a path, `latest` or `best`; at least one."""
    digits = to.replace(",", "").replace("_", "")
    if digits.isdecimal() and len(digits) <= 18:
        there = [entry for entry in resume_order(catalog.entries) if entry.step == int(digits)]
        if there:
            return there
        raise _not_here(catalog, f"step {int(digits):,}")
    name = {"latest": names.LATEST_NAME, "best": names.BEST_NAME}.get(to) or _plain_name(directory, to)
    entry = catalog.entry(name)
    if entry is None:
        raise _not_here(catalog, name)
    return [entry]


def _plain_name(directory: str, name: str) -> str:
    """A name in the directory, also when it was given as a path to it."""
    if os.sep in name and os.path.realpath(os.path.dirname(name)) == os.path.realpath(directory):
        return os.path.basename(name)
    return name


def _not_here(catalog: Catalog, wanted: str) -> CkptError:
    there = [f"{safe_name(e.name)}" + (f" (step {e.step:,})" if e.step is not None else "") for e in catalog.entries]
    listed = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
    return CkptError(
        "No such checkpoint",
        f"{safe_name(wanted)} is not in {catalog.directory}",
        f"There are: {listed}." if there else "There is no checkpoint in it.",
    )


def _keep_a_best(
    directory: str,
    catalog: Catalog,
    gone: set[str],
    step: int,
    sentences: list[str],
    check: _Check,
) -> list[Move]:
    """When the best is newer than the target: the previous best becomes the best again, if it is valid."""
    if names.BEST_NAME not in gone:
        return []
    for backup in catalog.backups_of(names.BEST_NAME):
        if backup.name not in gone and backup.step is not None and backup.step <= step:
            checked = check(backup)
            if not checked.is_bad:
                sentences.append(f"{safe_name(backup.name)} (step {backup.step:,}) is copied to {names.BEST_NAME}.")
                return [_copy(directory, checked, names.BEST_NAME)]
    return []


def _copy(directory: str, source: CatalogEntry, target: str) -> Move:
    return Move(target, "copy", before=content_of(os.path.join(directory, target)), source=source.name)


def _set_aside(directory: str, entry: CatalogEntry) -> Move:
    return Move(entry.name, "remove", before=content_of(os.path.join(directory, entry.name)))


def _require_place(plan: Plan) -> None:
    """Permission and space for the copies, found out before anything is written."""
    directory = plan.directory
    if not os.access(directory, os.W_OK | os.X_OK):
        raise CkptError(
            "Read-only directory", f"may not write to {directory}; nothing was changed", "Run as the user who owns it."
        )
    folder = os.path.join(directory, FOLDER_NAME)
    if os.path.islink(folder):
        raise CkptError("Not a directory", f"{folder} is a link; files are set aside inside the run directory only")
    try:
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        raise from_os_error(error, directory, "look at the free space of") from error
    if plan.bytes_needed and plan.bytes_needed + _SPARE_BYTES > free_bytes:
        raise CkptError(
            "Not enough space",
            f"the copies need {size(plan.bytes_needed)}, {size(free_bytes)} are free in {directory}; nothing changed",
            "Free some space first.",
        )


def _step_words(entry: CatalogEntry) -> str:
    return f"step {entry.step:,}" if entry.step is not None else "step not known"
