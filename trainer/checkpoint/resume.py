"""Which checkpoint a resume starts from: the newest that proves to be whole, never just the newest name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.publish import crc32_of_file
from trainer.checkpoint.registry import KINDS, Registry


class NothingToResumeError(Exception):
    """What was asked for is not there, or not good. The message says which were tried and why they were rejected."""


@dataclass(frozen=True, slots=True)
class Found:
    """The checkpoint to start from; rejected: (name, why) of better candidates that are damaged."""

    path: Path
    state: dict[str, Any]
    digest: str
    rejected: tuple[tuple[str, str], ...]


def find(directory: Path, which: str, registry: Registry) -> Found | None:
    """Find what `--resume WHICH` means: auto, latest, best, a name in the directory, or a path.

    auto gives None when there is no checkpoint at all: a fresh start. Raises NothingToResumeError when there are
    checkpoints but none is good, and for a named one that is missing or damaged.
    """
    if which == "auto":
        rejected: list[tuple[str, str]] = []
        for path in candidates(directory, registry):
            try:
                state, digest = load_proven(path, registry)
            except DamagedError as error:
                rejected.append((path.name, str(error)))
                continue
            return Found(path, state, digest, tuple(rejected))
        if rejected:
            raise NothingToResumeError(
                "every checkpoint is damaged:\n" + "\n".join(f"  {name}: {why}" for name, why in rejected)
            )
        return None
    name = {"latest": "latest.pt", "best": "best_model.pt"}.get(which, which)
    path = directory / name if (directory / name).exists() else Path(name)
    if not path.is_file():
        raise NothingToResumeError(f"there is no checkpoint {name} in {directory}")
    try:
        state, digest = load_proven(path, registry)
    except DamagedError as error:
        raise NothingToResumeError(f"{name} is damaged: {error}. --resume auto takes the newest good one") from error
    return Found(path, state, digest, ())


def candidates(directory: Path, registry: Registry) -> list[Path]:
    """Every checkpoint, the one to try first first: highest step, then primary files before backups, then by kind.

    Files that the registry could not read have no step; those that name one in their name are tried at that step,
    so that the log can say why they were rejected, and the others last.
    """

    def order(path: Path) -> tuple[int, bool, int, str]:
        from trainer.checkpoint.registry import kind_of

        entry = registry.entries.get(path.name)
        found = kind_of(path.name)
        assert found
        parts = path.stem.split("_")
        named = int(parts[2]) if len(parts) > 2 and parts[1] == "step" and parts[2].isdigit() else -1
        step = entry.step if entry else named
        return -step, found[1], KINDS.index(found[0]), path.name

    return sorted(registry.checkpoint_files(), key=order)


class DamagedError(Exception):
    """It cannot be used, and why."""


def load_proven(path: Path, registry: Registry) -> tuple[dict[str, Any], str]:
    """Load a checkpoint after its content was proven: the digest where it is known, else every record's checksum.

    torch.load alone takes flipped bits in silence (its zip reader does not check CRC-32).
    """
    try:
        digest = crc32_of_file(path)
        entry = registry.entries.get(path.name)
        if entry and entry.digest and entry.digest != digest:
            raise DamagedError(f"its content is not what was saved ({digest}, saved as {entry.digest})")
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged:
            raise DamagedError(f"record {damaged} fails its checksum")
        state = checkpoint_state.load(path)
    except DamagedError:
        raise
    except Exception as error:
        raise DamagedError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    bad = nonfinite_tensor(state["model"])
    if bad:
        raise DamagedError(f"{bad} holds NaN or Inf")
    return state, digest


def nonfinite_tensor(tensors: Mapping[str, Any]) -> str | None:
    """The first tensor with a value that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return name
    return None
