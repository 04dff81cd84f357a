"""Which checkpoint a resume starts from: the newest one that proves to be whole."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ckpt_tui.events.schema import CheckpointRestored
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import names
from trainer.checkpoint.publish import PublishError, digest_of_file, publish
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.state import NEEDED, BadCheckpointError, load
from trainer.errors import UsageError

_BEFORE_BACKUPS = {
    "latest": (names.LATEST, names.LATEST_BACKUP),
    "best": (names.BEST, names.BEST_BACKUP, names.BEST_PREVIOUS),
}


@dataclass(frozen=True)
class Source:
    """What a session starts from. rejected: (name, why) of newer candidates that were passed over, newest first."""

    name: str
    path: str
    digest: str
    state: dict[str, Any]
    rejected: list[tuple[str, str]] = field(default_factory=list)


def candidates(registry: Registry) -> list[str]:
    """The names in the directory as `--resume auto` tries them.

    Highest step first; among equal steps primary files before backups, then by kind and name. Files whose step
    nobody knows come first of all: whether they are bad has to be found out and said.
    """

    def order(entry: dict[str, Any]) -> tuple[bool, int, bool, int, str]:
        step = entry["step"]
        kind = names.KINDS.index(entry["kind"])
        return step is not None, -(step or 0), entry["is_backup"], kind, entry["path"]

    return [entry["path"] for entry in sorted(registry.entries.values(), key=order)]


def find(directory: str, wanted: str, registry: Registry, needed: Collection[str] = NEEDED) -> Source | None:
    """The checkpoint that `--resume wanted` means, verified and loaded; None when there is nothing yet (auto).

    Raises UsageError when what was asked for is not there or cannot be used.
    """
    if wanted == "auto":
        tried = [(name, os.path.join(directory, name)) for name in candidates(registry)]
    elif wanted in _BEFORE_BACKUPS:
        tried = [(name, os.path.join(directory, name)) for name in _BEFORE_BACKUPS[wanted]]
    else:
        inside = os.path.join(directory, wanted)
        path = inside if os.path.basename(wanted) == wanted and os.path.exists(inside) else wanted
        if not os.path.isfile(path):
            raise UsageError(f"--resume {wanted}: there is no such checkpoint in {directory}, and no such file")
        tried = [(os.path.relpath(path, directory), path)]
    rejected: list[tuple[str, str]] = []
    for name, path in tried:
        try:
            return Source(name, path, _proven_digest(path, registry.entries.get(name)), load(path, needed), rejected)
        except (BadCheckpointError, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            rejected.append((name, reason))
    if wanted == "auto" and not rejected:
        return None
    told = "".join(f"\n  {name}: {why}" for name, why in rejected)
    raise UsageError(f"--resume {wanted}: no checkpoint can be used{told}")


def _proven_digest(path: str, entry: dict[str, Any] | None) -> str:
    """The digest of the file, held against the one that it was saved with where that is known."""
    digest = digest_of_file(path)
    if entry is not None and entry["digest"] and entry["digest"] != digest:
        raise BadCheckpointError(f"its content is not what was saved ({digest}, saved as {entry['digest']})")
    return digest


def put_latest_back(directory: str, registry: Registry, log: EventWriter | None) -> bool:
    """Give a missing `latest.pt` back from its backup, as bytes of its own, if the backup is whole."""
    backup = os.path.join(directory, names.LATEST_BACKUP)
    if os.path.exists(os.path.join(directory, names.LATEST)) or not os.path.exists(backup):
        return False
    try:
        step = int(load(backup)["step"])
        with open(backup, "rb") as file:
            publish(directory, [names.LATEST], file.read())
    except (BadCheckpointError, PublishError, OSError) as error:
        print(f"{names.LATEST} is missing and cannot be put back from {names.LATEST_BACKUP}: {error}", flush=True)
        return False
    registry.sync()
    if log is not None:
        log.emit(
            CheckpointRestored(
                step=step, path=names.LATEST, source=names.LATEST_BACKUP, by="trainer",
                why=f"{names.LATEST} was missing",
            )
        )  # fmt: skip
    print(f"{names.LATEST} was missing: put back from {names.LATEST_BACKUP} (step {step})", flush=True)
    return True
