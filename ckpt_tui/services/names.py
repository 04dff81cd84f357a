"""What a checkpoint's file name says: its kind, what it is a backup of, and the numbers in it.

The trainer's own names are those of SPEC section 3; other people's are recognised as far as they speak. Temporary
files are never taken for checkpoints, whatever else their name says.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ckpt_tui.records import dataclass

KINDS = ("latest", "rolling", "emergency", "best", "epoch", "other")
LATEST_NAME = "latest.pt"
ROLLING_BACKUP_NAME = "rolling_last_backup.pt"
BEST_NAME = "best_model.pt"
# Where the trainer moves what is proven to be bad; not a place of checkpoints.
QUARANTINE_NAME = "quarantine"

# For a name: the files that may stand in for it, the best one first.
BACKUPS = {
    "latest.pt": ("latest_backup.pt",),
    "best_model.pt": ("best_model_backup.pt", "best_model_previous.pt"),
}

_SUFFIXES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pt2", ".tar", ".pkl", ".npz"})
_TEMPORARY = re.compile(r"^[.~#]|(^|[._-])(tmp|partial|incomplete|writing)([._-]|\d|$)|[~#]$", re.IGNORECASE)
_OWN = re.compile(
    r"""(?P<latest>latest\.pt) | (?P<latest_backup>latest_backup\.pt)
    | rolling_step_(?P<rolling>\d+)(?:_session_\d+(?:_\d+)?)?\.pt | (?P<rolling_backup>rolling_last_backup\.pt)
    | emergency_step_(?P<emergency>\d+)(?:_\d{8}_\d{6})?(?:_\d+)?\.pt
    | (?P<best>best_model\.(?:pt|safetensors)) | (?P<best_backup>best_model_(?:backup|previous)\.pt)
    | epoch_(?P<epoch>\d+)(?:_session_\d+(?:_\d+)?)?\.pt""",
    re.VERBOSE,
)
_DIRECTORY = re.compile(
    r"(?:checkpoint|ckpt|step|global_?step|epoch|iter)[-_=]?\d+|recovery_checkpoint"
    r"|.*epoch=\d+.*\.ckpt|last(?:-v\d+)?\.ckpt",  # Lightning's, of strategies that shard
    re.IGNORECASE,
)
_STEP = re.compile(r"(?:^|[^a-z])(?:global_?)?(?:step|iter|checkpoint|ckpt)[s=_-]*(\d+)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:^|[^a-z])epoch[=_-]*(\d+)", re.IGNORECASE)
_LOSS = re.compile(r"(?:^|[^a-z])(val_?)?loss[=_-]*(\d+\.\d+)", re.IGNORECASE)
_BEST = re.compile(r"(^|[^a-z])best([^a-z]|$)", re.IGNORECASE)
_LAST = re.compile(r"(^|[^a-z])(last|latest)([^a-z]|$)", re.IGNORECASE)
_BACKUP = re.compile(r"(?P<stem>.+)[_.-](?:backup|bak|prev|previous)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class NameFacts:
    """What a name alone tells. `is_own`: it is one of the trainer's names; step and epoch None when not in it."""

    kind: str
    step: int | None = None
    epoch: int | None = None
    val_loss: float | None = None
    is_backup: bool = False
    backup_of: str | None = None
    is_own: bool = False


def is_temporary(name: str) -> bool:
    """Whether a name says that its file is not finished."""
    return _TEMPORARY.search(name) is not None


def read_name(name: str, *, is_directory: bool = False) -> NameFacts | None:
    """The facts in a checkpoint's name, None when it is no checkpoint's name. `name` has no directory part."""
    if len(name) > 255 or is_temporary(name):
        return None
    if not is_directory:
        own = _OWN.fullmatch(name)
        if own is not None:
            return _own_facts(own)
    if is_directory:
        # The trainer's names without `.pt` are its checkpoints in directories (`--checkpoint_format dir`, `dcp`).
        own = _OWN.fullmatch(f"{name}.pt")
        if own is not None:
            facts = _own_facts(own)
            return replace(facts, backup_of=facts.backup_of.removesuffix(".pt") if facts.backup_of else None)
        if _DIRECTORY.fullmatch(name) is None:
            return None
        stem, suffix = name, ""
    else:
        stem, dot, extension = name.rpartition(".")
        suffix = dot + extension
        if not stem or suffix.lower() not in _SUFFIXES:
            return None
    backup = _BACKUP.fullmatch(stem)
    plain = backup["stem"] if backup else stem
    step, epoch, loss = _STEP.search(plain), _EPOCH.search(plain), _LOSS.search(plain)
    kind = "best" if _BEST.search(plain) else "latest" if _LAST.search(plain) else "other"
    return NameFacts(
        kind=kind,
        step=_integer(step[1]) if step else None,
        epoch=_integer(epoch[1]) if epoch else None,
        val_loss=float(loss[2]) if loss and loss[1] else None,
        is_backup=backup is not None,
        backup_of=plain + suffix if backup else None,
    )


def _own_facts(match: re.Match[str]) -> NameFacts:
    groups = match.groupdict()
    if groups["latest"]:
        return NameFacts("latest", is_own=True)
    if groups["latest_backup"]:
        return NameFacts("latest", is_backup=True, backup_of=LATEST_NAME, is_own=True)
    if groups["rolling"]:
        return NameFacts("rolling", step=_integer(groups["rolling"]), is_own=True)
    if groups["rolling_backup"]:
        # Of which one is told by its content: the catalog fills it in.
        return NameFacts("rolling", is_backup=True, is_own=True)
    if groups["emergency"]:
        return NameFacts("emergency", step=_integer(groups["emergency"]), is_own=True)
    if groups["best"]:
        return NameFacts("best", is_own=True)
    if groups["best_backup"]:
        return NameFacts("best", is_backup=True, backup_of=BEST_NAME, is_own=True)
    return NameFacts("epoch", epoch=_integer(groups["epoch"]), is_own=True)


def _integer(digits: str) -> int | None:
    """Digits of a name as a number; None for those that no step has (and that Python would refuse to convert)."""
    return int(digits) if len(digits) <= 18 else None
