"""The checkpoints of a run directory together: their order and branches, what a resume takes, what goes next.

What each of them says of itself is read in `catalog_entries.py`. Reads and never writes in the run directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Literal

from ckpt_tui.errors import CkptError
from ckpt_tui.events.lineage import Lineage, is_on
from ckpt_tui.records import dataclass
from ckpt_tui.services import names
from ckpt_tui.services.branches import run_lineage
from ckpt_tui.services.catalog_entries import (
    CatalogEntry,
    check_entry,
    describe,
    integer_or_none,
    manifest_status,
    scan,
)
from ckpt_tui.services.names import KINDS
from ckpt_tui.services.registry import read_registry, stored_lineage

Check = Literal["remembered", "structure", "full"]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every checkpoint of a directory: by kind in the order of SPEC section 3, newest first within a kind.

    total_bytes: what they take on disk, content that has several names counted once.
    resume_would_take: the name that `--resume auto` starts from, None when nothing here is good.
    missing: names that should be there and are not, each with the backups that are (best first).
    num_quarantined: checkpoints that the trainer found bad and moved out of the way, still in quarantine/.
    """

    directory: str
    entries: tuple[CatalogEntry, ...]
    total_bytes: int
    resume_would_take: str | None = None
    missing: Mapping[str, tuple[str, ...]] | None = None
    num_quarantined: int = 0

    def entry(self, name: str) -> CatalogEntry | None:
        """The entry of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def backups_of(self, name: str) -> tuple[CatalogEntry, ...]:
        """What may stand in for `name`, the best first."""
        order = {backup: rank for rank, backup in enumerate(names.BACKUPS.get(name, ()))}
        backups = [entry for entry in self.entries if entry.backup_of == name]
        return tuple(sorted(backups, key=lambda entry: order.get(entry.name, len(order))))


def read_catalog(
    directory: str,
    *,
    check: Check = "remembered",
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Catalog:
    """List the checkpoints of `directory`.

    check: `remembered` uses what was validated before and opens only what the registry does not describe;
    `structure` validates that level of what is not remembered; `full` validates every level.
    Raises CkptError when the directory cannot be read, Cancelled (checkpoints/validate.py) when cancelled.
    """
    registry = {entry.name: entry for entry in read_registry(directory)}
    entries = []
    inodes: dict[tuple[int, int], list[str]] = {}
    settings: Mapping[str, object] = {}
    untold: list[Lineage] = []  # of sessions that the registry knows nothing of; as in trainer/checkpoint/registry.py
    told = {entry.session_id for entry in registry.values()}
    for name, facts, status in scan(directory):
        entry, hyperparameters, lineage = describe(directory, name, facts, status, registry.get(name))
        if entry is None:
            continue
        settings = hyperparameters or settings
        untold += [lineage] if lineage is not None and lineage[-1].id not in told else []
        if check != "remembered":
            entry = check_entry(entry, full=check == "full", on_bytes=on_bytes, is_cancelled=is_cancelled)
        entries.append(entry)
        content = manifest_status(entry.path) or status
        inodes.setdefault((content.st_dev, content.st_ino), []).append(name)
    entries = _relate(entries, list(inodes.values()))
    entries = _branched(directory, entries, untold)
    taken = first_candidate(entries)
    takes = taken.name if taken is not None else None
    removed = set(_removed_next(entries, settings or _settings(entries)))
    entries = [replace(e, resume_takes=e.name == takes, removed_next=e.name in removed) for e in entries]
    rank = {kind: position for position, kind in enumerate(KINDS)}
    entries.sort(key=lambda e: (rank[e.kind], e.is_backup, -(e.step if e.step is not None else -1), e.name))
    by_name = {entry.name: entry for entry in entries}
    total = sum(by_name[group[0]].size_bytes for group in inodes.values())
    quarantined = _num_quarantined(directory)
    return Catalog(os.path.abspath(directory), tuple(entries), total, takes, _missing(entries), quarantined)


def resume_order(entries: Iterable[CatalogEntry]) -> list[CatalogEntry]:
    """The entries as `--resume auto` tries them, the first first: those of an unknown step last.

    The order of trainer/checkpoint/resume.py: highest step, then primary files before backups, then kind. Those on
    branches that were left, which it does not try, come after all others.
    """
    rank = {kind: position for position, kind in enumerate(KINDS)}
    return sorted(
        entries,
        key=lambda e: (e.is_abandoned, -(e.step if e.step is not None else -1), e.is_backup, rank[e.kind], e.name),
    )


def first_candidate(entries: Iterable[CatalogEntry]) -> CatalogEntry | None:
    """What `--resume auto` takes, as far as is known: one that lacks something only where all others do."""
    candidates = [entry for entry in resume_order(entries) if entry.is_candidate]
    return next((entry for entry in candidates if not entry.lacks), next(iter(candidates), None))


def _branched(directory: str, entries: list[CatalogEntry], untold: list[Lineage]) -> list[CatalogEntry]:
    """The entries with what is known of the branch of each."""
    made = [(e.session, e.step, e.path) for e in entries if e.session_id and e.step is not None]
    stored = stored_lineage(directory)
    if stored is None and not made:
        return entries  # not of our trainer: nothing is known of branches
    lineage = run_lineage(directory, stored, untold, made)
    return [
        # Of a damaged one nobody may know who made it: it is tried, and found damaged.
        e if e.is_bad and not e.session_id else replace(e, is_abandoned=not is_on(lineage, e.session_id, e.step))
        for e in entries
    ]


def _num_quarantined(directory: str) -> int:
    try:
        inside = os.listdir(os.path.join(directory, names.QUARANTINE_NAME))
    except OSError:
        return 0
    return sum(not name.endswith(".json") and not name.startswith(".") for name in inside)


def _relate(entries: list[CatalogEntry], groups: list[list[str]]) -> list[CatalogEntry]:
    """Fill in what follows from the entries together: same content, backup of what, which is the best."""
    same = {name: tuple(other for other in group if other != name) for group in groups for name in group}
    best = next((e for e in entries if e.kind == "best" and not e.is_backup and not e.is_bad), None)
    best_name = best.name if best is not None else None
    best_step = best.step if best is not None else None
    related = []
    for entry in entries:
        backup_of = entry.backup_of
        suffix = ".pt" if entry.name.endswith(".pt") else ""  # none: of a run whose checkpoints are directories
        if entry.name + (".pt" if not suffix else "") == names.ROLLING_BACKUP_NAME and entry.step is not None:
            backup_of = next(
                (e.name for e in entries if e.kind == "rolling" and not e.is_backup and e.step == entry.step),
                f"rolling_step_{entry.step:06d}{suffix}",
            )
        is_best = entry.is_best or entry.name == best_name
        if not is_best and best_step is not None and not entry.is_backup:
            is_best = entry.kind == "rolling" and entry.step == best_step
        related.append(replace(entry, same_as=same.get(entry.name, ()), backup_of=backup_of, is_best=is_best))
    return related


def _removed_next(entries: list[CatalogEntry], settings: Mapping[str, object]) -> list[str]:
    """Which names the next save removes, by the settings that the trainer recorded in its checkpoints."""
    doomed = []
    for kind, key in (("rolling", "keep_checkpoints"), ("emergency", "keep_emergency_checkpoints")):
        keep = integer_or_none(settings.get(key))
        if keep is None or keep < 1:
            continue
        pool = sorted(
            (e for e in entries if e.kind == kind and not e.is_backup and e.step is not None and not e.is_abandoned),
            key=lambda e: (e.step or 0, e.name),
        )
        beyond = pool[: max(len(pool) + 1 - keep, 0)]
        kept = _kept_besides(pool, settings) if kind == "rolling" else set()
        doomed += [e.name for e in beyond if e.name not in kept and not os.path.exists(f"{e.path}.keep")]
    return doomed


def _kept_besides(pool: list[CatalogEntry], settings: Mapping[str, object]) -> set[str]:
    """Rolling checkpoints that stay beyond the last ones: every Nth step, and the best by val_loss."""
    every, num_best = integer_or_none(settings.get("keep_every")) or 0, integer_or_none(settings.get("keep_best")) or 0
    kept = {entry.name for entry in pool if every > 0 and (entry.step or 0) % every == 0}
    if num_best > 0 and settings.get("monitor", "val_loss") == "val_loss":
        sign = -1.0 if settings.get("monitor_mode") == "max" else 1.0
        scored = [(sign * e.val_loss, -(e.step or 0), e.name) for e in pool if e.val_loss is not None]
        kept |= {name for _, _, name in sorted(scored)[:num_best]}
    return kept


def _settings(entries: list[CatalogEntry]) -> Mapping[str, object]:
    """The hyperparameters in the newest file that opens."""
    from ckpt_tui.checkpoints.registry import open_checkpoint

    for entry in resume_order(entry for entry in entries if not entry.is_bad and not os.path.isdir(entry.path))[:3]:
        try:
            return open_checkpoint(entry.path).hyperparameters
        except CkptError:
            continue
    return {}


def _missing(entries: list[CatalogEntry]) -> dict[str, tuple[str, ...]]:
    there = {entry.name for entry in entries}
    missing: dict[str, list[str]] = {}
    for entry in entries:
        if entry.backup_of is not None and entry.backup_of not in there:
            missing.setdefault(entry.backup_of, []).append(entry.name)
    return {name: tuple(backups) for name, backups in missing.items()}
