"""Where below a run directory of another trainer its checkpoints lie, and which of them tell their step by name.

Ours lie in the run directory itself. Lightning's lie in `lightning_logs/version_N/checkpoints`, Ultralytics' in
`weights`, torchtitan's in `checkpoint`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass
from ckpt_tui.services.names import read_name
from ckpt_tui.sources.places import newest_version

MAX_ENTRIES = 20_000
MAX_FILES = 1000
SETTLED_S = 30.0  # a directory that is written tells by its last file that it is whole, or by its age

_PLACES = (
    "checkpoints", "checkpoint", "ckpts", "ckpt", "weights", "snapshots", "models", "out", "output", "outputs",
    os.path.join("outputs", "checkpoint"),
)  # fmt: skip
_VERSIONS = ("lightning_logs", "csv_logs", "tb_logs", "logs")
# The file that is written last into a checkpoint of several.
_LAST_FILES = ("trainer_state.json", ".metadata", "lit_model.pth", "model.safetensors.index.json", "training_args.bin")


def checkpoint_places(directory: str) -> tuple[str, ...]:
    """Directories below `directory` that hold checkpoints, too, as paths relative to it; none of a run of ours."""
    if os.path.lexists(os.path.join(directory, LOG_NAME)):
        return ()
    found = [
        name
        for name in _PLACES
        if os.path.isdir(place := os.path.join(directory, name))
        and not os.path.lexists(os.path.join(place, LOG_NAME))  # another run, and ours
    ]
    for name in _VERSIONS:
        # One that was just begun has no log yet: what is told is still the version before it, with its checkpoints.
        version = newest_version(os.path.join(directory, name), has_log=True)
        if version is not None and os.path.isdir(inside := os.path.join(version, "checkpoints")):
            found.append(os.path.relpath(inside, directory))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class FoundSave:
    """A checkpoint as its name and its times tell of it. step: None where the name does not say it."""

    name: str
    path: str
    kind: str
    step: int | None
    ts: float
    size_bytes: int


def found_saves(directory: str) -> list[FoundSave]:
    """The whole checkpoints in `directory` and its places, by time. Opens none of them; never raises."""
    found: list[FoundSave] = []
    for place in ("", *checkpoint_places(directory)):
        try:
            with os.scandir(os.path.join(directory, place)) as listing:
                entries = [entry for _, entry in zip(range(MAX_ENTRIES), listing, strict=False)]
        except OSError:
            continue
        for entry in entries:
            found += _save_at(entry, f"{place}/{entry.name}" if place else entry.name)
    return sorted(found, key=lambda save: (save.ts, save.step or 0, save.name))


def _save_at(entry: os.DirEntry[str], name: str) -> Iterator[FoundSave]:
    try:
        facts = entry.stat()
        is_directory = stat.S_ISDIR(facts.st_mode)
        told = read_name(entry.name, is_directory=is_directory)
        if told is None or told.is_backup:
            return
        ts, size_bytes = facts.st_mtime, facts.st_size
        if is_directory:
            last = _last_file(entry.path)
            if last is None:
                return
            ts, size_bytes = last, _bytes_in(entry.path)
    except OSError:
        return
    yield FoundSave(name, entry.path, told.kind if told.kind != "other" else "", told.step, ts, size_bytes)


def _bytes_in(directory: str) -> int:
    """Of the files in it, not below: where checkpoints of several files keep them. Raises OSError."""
    with os.scandir(directory) as listing:
        return sum(
            entry.stat().st_size for _, entry in zip(range(MAX_FILES), listing, strict=False) if not entry.is_dir()
        )


def _last_file(directory: str) -> float | None:
    """When the checkpoint in a directory was done; None while it may still be written. Raises OSError."""
    for name in _LAST_FILES:
        try:
            return os.stat(os.path.join(directory, name)).st_mtime
        except OSError:
            continue
    with os.scandir(directory) as listing:
        times = [entry.stat().st_mtime for _, entry in zip(range(MAX_FILES), listing, strict=False)]
    newest = max(times, default=0.0)
    return newest if times and time.time() - newest > SETTLED_S else None
