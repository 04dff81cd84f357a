"""`registry.json`: what every checkpoint of the directory is. Derived from the files, and rebuilt when it is wrong."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint.publish import publish

REGISTRY_NAME = "registry.json"
VERSION = 1

KINDS = ("latest", "rolling", "emergency", "best", "epoch")
_NAMES: tuple[tuple[re.Pattern[str], str, bool], ...] = (
    (re.compile(r"latest\.pt"), "latest", False),
    (re.compile(r"latest_backup\.pt"), "latest", True),
    (re.compile(r"rolling_step_(\d+)\.pt"), "rolling", False),
    (re.compile(r"rolling_last_backup\.pt"), "rolling", True),
    (re.compile(r"emergency_step_(\d+)_\d{8}_\d{6}\.pt"), "emergency", False),
    (re.compile(r"best_model\.pt"), "best", False),
    (re.compile(r"best_model_(?:backup|previous)\.pt"), "best", True),
    (re.compile(r"epoch_(\d+)\.pt"), "epoch", False),
)


def kind_of(name: str) -> tuple[str, bool] | None:
    """(kind, whether it is a backup) of a file name; None when it is not a checkpoint of ours."""
    for pattern, kind, is_backup in _NAMES:
        if pattern.fullmatch(name):
            return kind, is_backup
    return None


@dataclass(slots=True)
class Entry:
    """One checkpoint. path: its name in the run directory. digest: of the whole file. mtime, time: Unix seconds."""

    path: str
    kind: str
    step: int
    epoch: float
    bytes: int
    digest: str
    time: float
    mtime: float
    metrics: dict[str, float | None] = field(default_factory=dict)
    is_best: bool = False
    best_score: float | None = None


class Registry:
    """The entries by name, read once, changed with the files and written after every save."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.entries: dict[str, Entry] = {}

    def load(self, read: Callable[[Path], Mapping[str, Any]]) -> None:
        """Take what registry.json says of files that are still as they were; learn the others from `read(path)`.

        A file that cannot be read is left out: it is not a checkpoint that anybody could use.
        """
        told = self._told()
        self.entries = {}
        for path in self.checkpoint_files():
            status = path.stat()
            known = told.get(path.name)
            if known and known.bytes == status.st_size and abs(known.mtime - status.st_mtime) < 1e-3:
                self.entries[path.name] = known
                continue
            try:
                facts = read(path)
            except Exception:  # noqa: BLE001 - whatever torch raises for a damaged file
                continue
            self.add(path, facts, digest="")

    def checkpoint_files(self) -> Iterator[Path]:
        """The checkpoints that are there, by their names."""
        for name in sorted(os.listdir(self.directory)):
            path = self.directory / name
            if kind_of(name) and path.is_file() and not path.is_symlink():
                yield path

    def add(self, path: Path, facts: Mapping[str, Any], digest: str) -> None:
        """Enter a published file. facts: the checkpoint's own content, or as much of it."""
        found = kind_of(path.name)
        assert found, path
        status = path.stat()
        self.entries[path.name] = Entry(
            path=path.name, kind=found[0], step=int(facts["step"]), epoch=float(facts["epoch"]), bytes=status.st_size,
            digest=digest, time=float(facts["timestamp"]), mtime=status.st_mtime,
            metrics={"train_loss": facts.get("train_loss"), "val_loss": facts.get("val_loss")},
            is_best=path.name == "best_model.pt", best_score=facts.get("best_metric"),
        )  # fmt: skip

    def copy(self, source: str, target: str) -> None:
        """`target` got the content of `source`."""
        if source in self.entries:
            entry = Entry(**asdict(self.entries[source]))
            found = kind_of(target)
            assert found, target
            entry.path, entry.kind, entry.is_best = target, found[0], target == "best_model.pt"
            entry.mtime = (self.directory / target).stat().st_mtime
            self.entries[target] = entry

    def remove(self, name: str) -> None:
        self.entries.pop(name, None)

    def save(self) -> None:
        """Publish registry.json. Raises PublishError."""
        rows = [asdict(entry) for _, entry in sorted(self.entries.items())]
        text = json.dumps({"version": VERSION, "checkpoints": rows}, indent=1, default=str)
        publish(text.replace("NaN", "null").encode() + b"\n", self.directory / REGISTRY_NAME)

    def _told(self) -> dict[str, Entry]:
        try:
            raw = json.loads((self.directory / REGISTRY_NAME).read_bytes())
            rows = [Entry(**row) for row in raw["checkpoints"]]
        except (OSError, ValueError, TypeError, KeyError):
            return {}
        return {entry.path: entry for entry in rows}
