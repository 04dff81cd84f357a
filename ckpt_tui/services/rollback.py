"""Roll back: the plan that makes an earlier checkpoint the one that a resume starts from.

What is newer is set aside; `latest` becomes the target where our trainer writes, and where other people's loops look
for a name or a pointer (`newest_rules.py`), that is what changes. A checkpoint from outside is copied in first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ckpt_tui.errors import CkptError
from ckpt_tui.events.lineage import UNTOLD, Lineage, is_on
from ckpt_tui.services import names
from ckpt_tui.services.branches import lineage_of_path, run_lineage
from ckpt_tui.services.catalog import Catalog, read_catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry, check_entry
from ckpt_tui.services.files import content_of
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import Move
from ckpt_tui.services.newest_rules import called_last, numbered_after, place_of, pointer_moves, require_room_beside
from ckpt_tui.services.plans import SPARE_BYTES, Plan, assemble, copy_move, safe_name, set_aside_move
from ckpt_tui.services.registry import stored_lineage
from ckpt_tui.services.sources import checked_words, step_words
from ckpt_tui.services.targets import Check, find_targets, first_good, is_outside
from ckpt_tui.services.validity import ACT_AGE_S
from ckpt_tui.text import plural, run_word, safe_text, size

_MAX_LISTED = 6


def plan_rollback(
    directory: str,
    to: str,
    *,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Plan:
    """Plan to make `to` (a step, an epoch, a name, or a path from anywhere) what `--resume auto` starts from.

    Raises CkptError when there is no such checkpoint, when its step is not known, or when it fails validation;
    Cancelled.
    """
    check = partial(check_entry, on_bytes=on_bytes, is_cancelled=is_cancelled)
    directory, notices = begin(directory)
    require_room_beside(directory)
    catalog = read_catalog(directory)
    target = first_good(find_targets(directory, catalog, to), partial(check, max_age_s=ACT_AGE_S))
    _require_good(target, catalog)
    sentences, warnings = [checked_words(target)], list(notices)
    is_own = _has_own_layout(catalog) or (not catalog.entries and _is_own_form(target))
    moves: list[Move] = []
    held: dict[str, CatalogEntry] = {}
    lineage = None
    source = target
    if is_outside(target):
        lineage = _lineage_of_outside(directory, target) if is_own else None
        inside = _name_inside(directory, catalog, target, is_own=is_own)
        held[target.path] = target
        moves.append(copy_move(directory, target, inside))
        sentences.append(
            f"{safe_name(target.path)} ({step_words(target)}, {target.validity}) is copied to {safe_name(inside)}."
        )
        target = replace(target, name=inside, is_abandoned=False)
    elif target.is_abandoned:
        # On a branch that was left: the run goes over to it, and what is on the present one is left behind instead.
        lineage = lineage_of_path(target.path)
    newer = _newer(catalog, target, lineage)
    if not is_own and target.step is not None:
        # accelerate numbers its saves; where steps are told at all, they may be the same.
        newer += [e for e in numbered_after(catalog, target) if e.step in (None, target.step) and e not in newer]
    latest_name = names.LATEST_NAME if not os.path.isdir(target.path) else names.LATEST_NAME.removesuffix(".pt")
    replaced: set[str] = set()  # set aside by what takes its place
    if is_own:
        latest = catalog.entry(latest_name)
        is_latest_good = (
            latest is not None and latest.step == target.step and (lineage is None or latest.name in target.same_as)
            and not check(latest).is_bad
        )  # fmt: skip
        if not is_latest_good and target.name != latest_name:
            if source is not target:  # the original outside is the second set of bytes
                moves.append(_one_more_name(directory, target.name, latest_name))
                sentences.append(f"{safe_name(latest_name)} becomes one more name of it.")
            else:
                moves.append(_as_latest(directory, catalog, target, newer, latest_name, check, sentences, warnings))
            replaced.add(latest_name)
    else:
        for last in (called := called_last(catalog, target))[:1]:
            moves.append(copy_move(directory, source, last.name))
            sentences.append(
                f"{safe_name(source.name)} ({step_words(source)}, {source.validity}) is copied to "
                f"{safe_name(last.name)}, which is taken for the newest."
            )
            replaced.add(last.name)
        newer += [entry for entry in called[1:] if entry not in newer]
        moves += pointer_moves(directory, target, sentences)
    moves += [set_aside_move(directory, entry) for entry in newer if entry.name not in replaced]
    if target.step is not None:
        moves += _keep_a_best(directory, catalog, {entry.name for entry in newer}, target.step, sentences, check)
    if newer:
        sentences.insert(0, f"{plural(len(newer), 'newer checkpoint')} set aside, not deleted: {_listed(newer)}.")
    unknown = [entry for entry in catalog.entries if entry.step is None and not entry.is_bad and entry not in newer]
    unknown = [entry for entry in unknown if entry.name not in (target.name, *replaced)]
    if unknown:
        warnings.append(f"Of unknown step, left where they are: {', '.join(safe_name(e.name) for e in unknown[:6])}.")
    if not moves:
        at = f"step {target.step:,}" if target.step is not None else safe_name(target.name)
        sentences = [f"Nothing to do: a resume starts from {at} already."]
    return assemble(
        "rollback", directory, catalog, moves, sentences, warnings, why="rolled back", target=target, lineage=lineage,
        held=held, sources=[target],
    )  # fmt: skip


def _require_good(target: CatalogEntry, catalog: Catalog) -> None:
    if target.step is None and not numbered_after(catalog, target) and not os.path.isdir(target.path):
        raise CkptError(
            "Step not known", f"{safe_name(target.name)} does not say which step it is of", "Choose another one."
        )
    if not target.is_good:
        is_weights, where = target.validity == "valid", run_word(catalog.directory)
        why = "holds weights only: nothing to go on training with" if is_weights else f"is {target.validity}"
        raise CkptError(
            "Not good to resume from",
            f"{safe_name(target.name)} {why}" + (f": {safe_text(target.note, 300)}" if target.note else ""),
            f"Choose another one (`ckpt-tui list {where}`), or mend damaged files first (`ckpt-tui restore {where}`).",
        )


def _newer(catalog: Catalog, target: CatalogEntry, lineage: Lineage | None) -> list[CatalogEntry]:
    """What a resume would take rather than the target, by its step or, where none is told, by the number in its name.

    lineage: the branch that the run goes over to; then only what is on that one.
    """
    if target.step is None:
        return numbered_after(catalog, target)
    return [
        e
        for e in resume_order(catalog.entries)
        if e.step is not None and e.step > target.step and e.name != target.name
        and (is_on(lineage, e.session_id, e.step) if lineage is not None else not e.is_abandoned)
    ]  # fmt: skip


def _has_own_layout(catalog: Catalog) -> bool:
    facts = (names.read_name(e.name, is_directory=os.path.isdir(e.path)) for e in catalog.entries)
    return any(found is not None and found.is_own for found in facts)


def _is_own_form(target: CatalogEntry) -> bool:
    """Whether our trainer could have written what comes from outside: by its name, or by what it says of its branch."""
    is_directory = os.path.isdir(target.path)
    facts = names.read_name(os.path.basename(target.path), is_directory=is_directory)
    return bool(target.session_id) or (facts is not None and facts.is_own)


def _lineage_of_outside(directory: str, target: CatalogEntry) -> Lineage | None:
    """The branch that the run goes over to with a checkpoint from outside; None when it is on it already.

    Our trainer takes nothing that is not on the run's branch, which the registry tells.
    """
    now = run_lineage(directory, stored_lineage(directory), [], [])
    told = lineage_of_path(target.path) or UNTOLD
    return None if now is None or is_on(now, told[-1].id, target.step) else told


def _name_inside(directory: str, catalog: Catalog, target: CatalogEntry, *, is_own: bool) -> str:
    """The free name under which a checkpoint from outside is kept here. Raises CkptError when there is none."""
    base = os.path.basename(target.path)
    suffix = "" if os.path.isdir(target.path) else ".pt"
    if is_own and target.step is not None:
        first = f"rolling_step_{target.step:06d}{suffix}"
        # As the trainer names what a branch that was left had under the same name.
        others = (f"rolling_step_{target.step:06d}_session_{number}{suffix}" for number in range(1, 1000))
        wanted: Sequence[str] = (first, *others)
    else:
        hugging = [e for e in catalog.entries if os.path.basename(e.name).startswith("checkpoint-")]
        place = place_of(catalog.entries[0].name) if catalog.entries else ""
        wanted = [f"{place}checkpoint-{target.step}"] if hugging and target.step is not None else [place + base]
    for name in wanted:
        if not os.path.lexists(os.path.join(directory, name)):
            return name
    raise CkptError(
        "Name taken", f"{safe_name(wanted[0])} is in {directory} already; nothing was changed",
        "Roll back to that one, or give the other a name of its own first.",
    )  # fmt: skip


def _as_latest(
    directory: str,
    catalog: Catalog,
    target: CatalogEntry,
    newer: Sequence[CatalogEntry],
    latest_name: str,
    check: Check,
    sentences: list[str],
    warnings: list[str],
) -> Move:
    """The move that makes `latest` the target.

    An independent copy where the target would be the only set of bytes of its step: everything newer is set aside, and
    one bad sector must not take the rest. Where another one stays (rolling_last_backup, a best that was saved apart),
    one more name for the same bytes, as the trainer's own saves have it: it replaces names and never writes into a
    file. A reflink would be no better than the name: it shares the sectors, too. Without room for a copy: one name
    more, and a warning.
    """
    name, words = safe_name(target.name), step_words(target)
    gone = {entry.name for entry in newer}
    another = next(
        (
            e for e in catalog.entries
            if e.step == target.step and e.session_id == target.session_id and e.name not in gone
            and e.name not in (target.name, latest_name, *target.same_as) and e.can_resume
            and not check(e).is_bad
        ),
        None,
    )  # fmt: skip
    if another is None and shutil.disk_usage(directory).free >= target.size_bytes + SPARE_BYTES:
        sentences.append(f"{name} ({words}, {target.validity}) is copied to {latest_name}.")
        return copy_move(directory, target, latest_name)
    if another is None:
        warnings.append(
            f"No room for a copy of {size(target.size_bytes)}: {latest_name} and {name} share their bytes, and a bad "
            "sector would take both."
        )
    sentences.append(f"{latest_name} becomes one more name of {name} ({words}, {target.validity}).")
    if another is not None:
        sentences.append(f"No copy of it is needed: {safe_name(another.name)} is one.")
    return _one_more_name(directory, target.name, latest_name)


def _one_more_name(directory: str, name: str, other: str) -> Move:
    return Move(other, "link", before=content_of(os.path.join(directory, other)), source=name)


def _keep_a_best(
    directory: str, catalog: Catalog, gone: set[str], step: int, sentences: list[str], check: Check
) -> list[Move]:
    """When the best is newer than the target: the previous best becomes the best again, if it is valid."""
    moves = []
    for best in (names.BEST_NAME, names.BEST_NAME.removesuffix(".pt")):
        for backup in catalog.backups_of(best) if best in gone else ():
            if backup.name not in gone and backup.step is not None and backup.step <= step:
                checked = check(backup)
                if not checked.is_bad:
                    sentences.append(
                        f"{safe_name(backup.name)} (step {backup.step:,}, {checked.validity}) is copied to "
                        f"{safe_name(best)}."
                    )
                    moves.append(copy_move(directory, checked, best))
                    break
    return moves


def _listed(entries: Sequence[CatalogEntry]) -> str:
    listed = ", ".join(safe_name(entry.name) for entry in entries[:_MAX_LISTED])
    return listed + (f" and {len(entries) - _MAX_LISTED} more" if len(entries) > _MAX_LISTED else "")
