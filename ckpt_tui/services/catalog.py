"""The checkpoints of a run directory: by kind, with step and losses, which are good, and which one a resume takes.

Reads and never writes in the run directory. What the registry says of a file counts while size and time agree with
the file; otherwise the file itself is opened, which does not read its tensors.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.lineage import Lineage, is_on
from ckpt_tui.records import dataclass
from ckpt_tui.services import names, validity
from ckpt_tui.services.branches import lineage_in, run_lineage
from ckpt_tui.services.checkpoint_places import checkpoint_places
from ckpt_tui.services.names import KINDS, NameFacts, read_name
from ckpt_tui.services.registry import RegistryEntry, read_registry, stored_lineage

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.model import Checkpoint
    from ckpt_tui.checkpoints.validate import Validation

Check = Literal["remembered", "structure", "full"]
UNCHECKED = "unchecked"

# Files with these endings are often something else (data, tokenizers): listed only if their content is a checkpoint.
_AMBIGUOUS_SUFFIXES = (".bin", ".tar", ".pkl", ".npz")
_PLAIN_SUFFIXES = (".pkl", ".npz")  # any program's: what is in them has to say that it is a training's
# What a file in a directory of any name has to end with, for the directory to be looked into.
_PART_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".distcp", ".index.json", ".pkl")
_MAX_PART_NAMES = 500
# Verdicts of files that nothing resumes from. `incomplete` still loads: what is missing was not there to restore.
_BAD = frozenset({"damaged", "nonfinite", "unsafe", "not-a-checkpoint", "unreadable"})
MAX_ENTRIES = 20_000


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One checkpoint of a run directory.

    name: relative to the directory. kind: latest, rolling, emergency, best, epoch, other.
    step, epoch, val_loss: None when neither registry nor file tells. saved_at: Unix seconds.
    validity: the verdict of validation (valid, damaged, nonfinite, incomplete, unsafe, not-a-checkpoint, unreadable),
    or `unchecked` when nobody looked yet. level: the highest level that it passed (structure, integrity, numbers,
    resume), None when unchecked or when not even the first held. note: what is wrong, in a few words, or "".
    backup_of: the name that this file stands in for. same_as: other names with the same bytes (hard links).
    resume_takes: `--resume auto` would start from it. removed_next: retention removes it at the next save of its kind.
    lacks: what is missing for an exact resume in one that is `incomplete` and can be resumed from all the same.
    is_weights_only: it was opened, and holds nothing but a model. is_abandoned: a resume from an earlier step left it
    behind on another branch: it is kept, and `--resume auto` does not take it. session_id: of the one that made it, "".
    """

    name: str
    path: str
    kind: str
    step: int | None
    epoch: float | None
    val_loss: float | None
    size_bytes: int
    saved_at: float | None
    validity: str = UNCHECKED
    level: str | None = None
    note: str = ""
    backup_of: str | None = None
    is_backup: bool = False
    is_best: bool = False
    resume_takes: bool = False
    removed_next: bool = False
    same_as: tuple[str, ...] = ()
    is_weights_only: bool = False
    is_abandoned: bool = False
    session: int = 0
    session_id: str = ""
    lacks: tuple[str, ...] = ()

    @property
    def validity_words(self) -> str:
        """`valid` only where every level held; else the level that did, so that nobody trusts more than is known."""
        if self.validity == UNCHECKED:
            return "not checked"
        is_whole = self.validity != "valid" or self.level in (None, "numbers", "resume")
        return self.validity if is_whole else f"only {self.level} checked"

    @property
    def is_bad(self) -> bool:
        """Known to be of no use: damaged, not finite, unsafe, not a checkpoint."""
        return self.validity in _BAD

    @property
    def can_resume(self) -> bool:
        """Nothing is known that would keep a training from resuming from it."""
        is_weights = self.is_weights_only or self.name.endswith(".safetensors")
        return not self.is_bad and (self.validity != "incomplete" or bool(self.lacks)) and not is_weights

    @property
    def is_good(self) -> bool:
        """It was validated, and a training can go on from it; not exactly where it `lacks` something."""
        return self.can_resume and (self.validity == "valid" or bool(self.lacks))

    @property
    def is_candidate(self) -> bool:
        """Whether `--resume auto` would try it."""
        return self.can_resume and not self.is_abandoned


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
    with validity.written_together():
        for name, facts, status in _scan(directory):
            entry, hyperparameters, lineage = _describe(directory, name, facts, status, registry.get(name))
            if entry is None:
                continue
            settings = hyperparameters or settings
            untold += [lineage] if lineage is not None and lineage[-1].id not in told else []
            if check != "remembered":
                entry = check_entry(entry, full=check == "full", on_bytes=on_bytes, is_cancelled=is_cancelled)
            entries.append(entry)
            content = _manifest_status(entry.path) or status
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


def entry_at(path: str) -> CatalogEntry | None:
    """What lies at `path`, wherever that is, as an entry by itself; None when it is no checkpoint. Raises OSError."""
    status = os.stat(path)
    name = os.path.basename(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    facts = read_name(name, is_directory=is_directory)
    if facts is None and not (_may_be_checkpoint(path) if is_directory else stat.S_ISREG(status.st_mode)):
        return None
    return _describe(os.path.dirname(path), name, facts or NameFacts("other"), status, None)[0]


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


def check_entry(
    entry: CatalogEntry,
    *,
    full: bool = True,
    max_age_s: float | None = None,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> CatalogEntry:
    """The entry with its validity looked up or found out, at every level or at structure only. max_age_s: as
    `validity.check`."""
    from ckpt_tui.checkpoints.validate import LEVELS

    levels = tuple(LEVELS) if full else ("structure",)
    found = validity.check(entry.path, levels, max_age_s=max_age_s, on_bytes=on_bytes, is_cancelled=is_cancelled)
    return _judged(entry, found)


def _judged(entry: CatalogEntry, found: Validation) -> CatalogEntry:
    worst = next((f for f in found.findings if f.severity == "error"), None)
    note = f"{worst.where}: {worst.message}" if worst is not None and worst.where else worst.message if worst else ""
    step = entry.step if entry.step is not None else found.step
    return replace(
        entry, validity=str(found.verdict), level=validity.highest_level(found), step=step,
        note=note if found.verdict != "valid" else "", lacks=found.lacks,
    )  # fmt: skip


def _scan(directory: str) -> Iterable[tuple[str, NameFacts, os.stat_result]]:
    """Names of checkpoints with what they say and their status. Symbolic links that lead outside are not followed."""
    found = _scan_place(directory, "")
    for place in checkpoint_places(directory):
        with contextlib.suppress(CkptError):  # gone since it was found
            found += _scan_place(directory, place)
    return sorted(found, key=lambda row: row[0])


def _scan_place(directory: str, place: str) -> list[tuple[str, NameFacts, os.stat_result]]:
    """The same of one directory below it; `place` is its path relative to it, a part of the names."""
    found: list[tuple[str, NameFacts, os.stat_result]] = []
    before = f"{place}/" if place else ""
    try:
        inside = os.path.realpath(directory) + os.sep
        with os.scandir(os.path.join(directory, place)) as listing:
            for item in listing:
                if len(found) >= MAX_ENTRIES:
                    break
                try:
                    if item.is_symlink() and not os.path.realpath(item.path).startswith(inside):
                        continue
                    status = item.stat()
                except OSError:
                    continue  # gone between listing and looking, or a link to nowhere
                is_directory = stat.S_ISDIR(status.st_mode)
                if not is_directory and not stat.S_ISREG(status.st_mode):
                    continue
                facts = read_name(item.name, is_directory=is_directory)
                if facts is None and is_directory and _may_be_checkpoint(item.path):
                    facts = NameFacts("other")
                if facts is not None:
                    found.append((before + item.name, facts, status))
    except OSError as error:
        raise from_os_error(error, directory, "list") from error
    return found


def _may_be_checkpoint(directory: str) -> bool:
    """Whether a directory whose name says nothing holds a checkpoint: by its names first, for there may be many."""
    from ckpt_tui.checkpoints.registry import sniff

    if names.is_temporary(os.path.basename(directory)) or os.path.basename(directory) == names.QUARANTINE_NAME:
        return False
    try:
        with os.scandir(directory) as listing:
            inside = [item.name for _, item in zip(range(_MAX_PART_NAMES), listing, strict=False)]
    except OSError:
        return False
    speaks = any(
        name.endswith(_PART_SUFFIXES) or name == ".metadata" or name.startswith("global_step") for name in inside
    )
    return speaks and sniff(directory) is not None


def _describe(
    directory: str, name: str, facts: NameFacts, status: os.stat_result, known: RegistryEntry | None
) -> tuple[CatalogEntry | None, Mapping[str, object], Lineage | None]:
    """One entry, from registry or file; the hyperparameters and the lineage when the file was opened."""
    path = os.path.join(directory, name)
    is_directory = stat.S_ISDIR(status.st_mode)
    size_bytes = _directory_bytes(path) if is_directory else status.st_size
    entry = CatalogEntry(
        name=name, path=path, kind=facts.kind, step=facts.step, epoch=facts.epoch, val_loss=facts.val_loss,
        size_bytes=size_bytes, saved_at=status.st_mtime, is_backup=facts.is_backup, backup_of=facts.backup_of,
    )  # fmt: skip
    remembered = validity.recall(path)
    hyperparameters: Mapping[str, object] = {}
    lineage: Lineage | None = None
    manifest = _manifest_status(path) if is_directory else None
    if manifest is not None:
        is_known = known is not None and known.describes_content(size_bytes - manifest.st_size, manifest.st_mtime)
    else:
        is_known = known is not None and not is_directory and known.describes(status)
    if known is not None and is_known and known.step is not None:
        entry = replace(
            entry, step=known.step, epoch=known.epoch if known.epoch is not None else entry.epoch,
            val_loss=known.val_loss, saved_at=known.saved_at or entry.saved_at, is_best=known.is_best,
            session=known.session, session_id=known.session_id,
        )  # fmt: skip
    elif remembered is None or remembered.verdict != "damaged":
        opened = _open(entry, facts)
        if opened is None:
            return None, {}, None
        entry, hyperparameters, lineage = opened
        if entry.is_bad and entry.step is None and known is not None:
            entry = replace(entry, step=known.step)  # of the file that was there before it was damaged
    return (entry if remembered is None else _judged(entry, remembered)), hyperparameters, lineage


def _open(entry: CatalogEntry, facts: NameFacts) -> tuple[CatalogEntry, Mapping[str, object], Lineage | None] | None:
    """The entry with what the file itself says; None for a file that is no checkpoint, or gone by now."""
    from ckpt_tui.checkpoints.registry import open_checkpoint, sniff

    try:
        if entry.name.lower().endswith(_AMBIGUOUS_SUFFIXES) and sniff(entry.path) is None:
            return None
        checkpoint = open_checkpoint(entry.path)
    except CkptError as error:
        if not os.path.lexists(entry.path):
            return None  # retention of a live training removed it since the directory was listed
        if os.path.isdir(entry.path) and error.title != "Damaged checkpoint":
            return replace(entry, note=error.title), {}, None  # a layout that we cannot read says nothing about it
        return replace(entry, validity="damaged", note=error.message or error.title), {}, None
    progress = checkpoint.progress
    step = _integer(progress.get("step"))
    name = entry.name.lower()
    if name.endswith(_AMBIGUOUS_SUFFIXES) and not checkpoint.tensors:
        return None  # training_args.bin
    if name.endswith(_PLAIN_SUFFIXES) and not _is_of_training(checkpoint, step):
        return None
    if checkpoint.format == "accelerate":
        entry = replace(entry, step=None)  # it numbers its saves, not their steps
    epoch, val_loss = _number(progress.get("epoch")), _number(progress.get("val_loss"))
    saved_at = _number(progress.get("saved_at"))
    lineage = lineage_in(checkpoint)
    errors = [finding for finding in checkpoint.findings if finding.severity == "error"]
    opened = replace(
        entry,
        step=step if step is not None else entry.step,
        epoch=epoch if epoch is not None else entry.epoch,
        val_loss=val_loss if val_loss is not None else entry.val_loss,
        saved_at=saved_at if saved_at is not None else entry.saved_at,
        validity="damaged" if errors else entry.validity,
        note=errors[0].message if errors else entry.note,
        is_weights_only=bool(checkpoint.has) and set(checkpoint.has) <= {"model", "ema"},
        session=lineage[-1].session if lineage is not None else 0,
        session_id=lineage[-1].id if lineage is not None else "",
    )
    return opened, checkpoint.hyperparameters, lineage


def _is_of_training(checkpoint: Checkpoint, step: int | None) -> bool:
    """Whether a file of a plain format holds what a training saves, and not just anybody's arrays or objects."""
    return step is not None or bool(set(checkpoint.has) - {"model"})


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
        keep = _integer(settings.get(key))
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
    every, num_best = _integer(settings.get("keep_every")) or 0, _integer(settings.get("keep_best")) or 0
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


def _manifest_status(path: str) -> os.stat_result | None:
    """Of the manifest in a directory, which directories with the same files share; None where there is none."""
    from ckpt_tui.checkpoints.manifest import MANIFEST_NAME

    try:
        return os.stat(os.path.join(path, MANIFEST_NAME))
    except OSError:
        return None


def _directory_bytes(path: str) -> int:
    total, num_files = 0, 0
    for folder, _, file_names in os.walk(path):
        for name in file_names:
            num_files += 1
            if num_files > validity.MAX_FILES_OF_DIRECTORY:
                return total
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
