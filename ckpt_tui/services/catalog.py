"""The checkpoints of a run directory: by kind, with step and losses, which are good, and which one a resume takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Check = Literal["remembered", "structure", "full"]


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
    """

    name: str
    path: str
    kind: str
    step: int | None
    epoch: float | None
    val_loss: float | None
    size_bytes: int
    saved_at: float | None
    validity: str = "unchecked"
    level: str | None = None
    note: str = ""
    backup_of: str | None = None
    is_backup: bool = False
    is_best: bool = False
    resume_takes: bool = False
    removed_next: bool = False
    same_as: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every checkpoint of a directory: by kind in the order of SPEC section 3, newest first within a kind.

    total_bytes: what they take on disk, content that has several names counted once.
    resume_would_take: the name that `--resume auto` starts from, None when nothing here is good.
    """

    directory: str
    entries: tuple[CatalogEntry, ...]
    total_bytes: int
    resume_would_take: str | None = None

    def entry(self, name: str) -> CatalogEntry | None:
        """The entry of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)


def read_catalog(directory: str, *, check: Check = "remembered") -> Catalog:
    """List the checkpoints of `directory`.

    check: `remembered` uses what was validated before and opens only what the registry does not describe;
    `structure` validates that level of what is not remembered; `full` validates every level.
    Raises CkptError when the directory cannot be read.
    """
    raise NotImplementedError
