"""The checkpoints of a run directory one by one: which names are one, what the file says, what is known of it.

Reads and never writes in the run directory. What the registry says of a file counts while size and time agree with
the file; otherwise the file itself is opened, which does not read its tensors.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.lineage import Lineage
from ckpt_tui.records import dataclass
from ckpt_tui.services import names, validity
from ckpt_tui.services.branches import lineage_in
from ckpt_tui.services.checkpoint_places import checkpoint_places
from ckpt_tui.services.names import NameFacts, read_name
from ckpt_tui.services.registry import RegistryEntry

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.model import Checkpoint
    from ckpt_tui.checkpoints.validate import Validation

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


def entry_at(path: str) -> CatalogEntry | None:
    """What lies at `path`, wherever that is, as an entry by itself; None when it is no checkpoint. Raises OSError."""
    status = os.stat(path)
    name = os.path.basename(path)
    is_directory = stat.S_ISDIR(status.st_mode)
    facts = read_name(name, is_directory=is_directory)
    if facts is None and not (_may_be_checkpoint(path) if is_directory else stat.S_ISREG(status.st_mode)):
        return None
    return describe(os.path.dirname(path), name, facts or NameFacts("other"), status, None)[0]


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


def scan(directory: str) -> Iterable[tuple[str, NameFacts, os.stat_result]]:
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


def describe(
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
    manifest = manifest_status(path) if is_directory else None
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
    step = integer_or_none(progress.get("step"))
    name = entry.name.lower()
    if name.endswith(_AMBIGUOUS_SUFFIXES) and not checkpoint.tensors:
        return None  # training_args.bin
    if name.endswith(_PLAIN_SUFFIXES) and not _is_of_training(checkpoint, step):
        return None
    if checkpoint.format == "accelerate":
        entry = replace(entry, step=None)  # it numbers its saves, not their steps
    epoch, val_loss = _number_or_none(progress.get("epoch")), _number_or_none(progress.get("val_loss"))
    saved_at = _number_or_none(progress.get("saved_at"))
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


def manifest_status(path: str) -> os.stat_result | None:
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


def integer_or_none(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number_or_none(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
