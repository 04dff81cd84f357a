"""`registry.json`: the list of the checkpoints in a run directory. Derived from the files, rebuilt when it is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from trainer.checkpoint.names import BEST, Name, checkpoints_in
from trainer.checkpoint.publish import publish

REGISTRY_NAME = "registry.json"
SCHEMA = "ckpt-tui/registry/1"


class Registry:
    """Entries by name: path, kind, is_backup, step, epoch, metrics, bytes, digest, time, mtime, inode, is_best.

    step, epoch and metrics are None or empty for a file that could not be read.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.entries: dict[str, dict[str, Any]] = {}
        self._stored = _stored_entries(os.path.join(directory, REGISTRY_NAME))

    def sync(self, written: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Take the entries from the files as they are now.

        written: the facts of names that were just written. Other files are those of the entry with the same inode,
        size and time; a file that no entry knows is read.
        """
        known = {_identity_of(entry): entry for entry in self._stored}
        known.update({_identity_of(entry): entry for entry in self.entries.values()})
        entries: dict[str, dict[str, Any]] = {}
        for name in checkpoints_in(self.directory):
            path = os.path.join(self.directory, name.name)
            try:
                status = os.stat(path)
            except FileNotFoundError:
                continue
            identity = (status.st_ino, status.st_size, status.st_mtime_ns)
            if written is not None and name.name in written:
                facts = written[name.name]
            else:
                facts = known.get(identity) or _read_facts(path)
            entry = _entry(name, status, facts)
            entries[name.name] = known[identity] = entry
        best = entries.get(BEST)
        for entry in entries.values():
            entry["is_best"] = best is not None and (entry is best or entry["inode"] == best["inode"])
        self.entries = entries

    def write(self, best: Mapping[str, Any] | None = None) -> None:
        """Publish it. best: metric, mode and value of the best score. Raises PublishError."""
        content = {"schema": SCHEMA, "best": dict(best or {}), "checkpoints": list(self.entries.values())}
        publish(self.directory, [REGISTRY_NAME], json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def facts_of(state: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """What the registry tells of a checkpoint's content."""
    return {
        "step": state["step"], "epoch": state.get("epoch"),
        "metrics": {"train_loss": state.get("train_loss"), "val_loss": state.get("val_loss")},
        "digest": digest, "time": state.get("timestamp"),
    }  # fmt: skip


def _entry(name: Name, status: os.stat_result, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": name.name, "kind": name.kind, "is_backup": name.is_backup,
        "step": facts.get("step"), "epoch": facts.get("epoch"), "metrics": facts.get("metrics") or {},
        "bytes": status.st_size, "digest": facts.get("digest") or "", "time": facts.get("time"),
        "mtime": status.st_mtime, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino, "is_best": False,
    }  # fmt: skip


def _identity_of(entry: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return entry.get("inode"), entry.get("bytes"), entry.get("mtime_ns")


def _stored_entries(path: str) -> list[dict[str, Any]]:
    """The entries of the file that make sense; none when it is missing or wrong."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
        rows = content["checkpoints"]
        return [row for row in rows if isinstance(row, dict) and type(row.get("step")) is int and row.get("path")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _read_facts(path: str) -> dict[str, Any]:
    """The facts of a file, its tensors left on the disk. Empty when it cannot be read; that is no judgement of it."""
    import torch

    from trainer.checkpoint.publish import digest_of_file

    try:
        with open(path, "rb") as file:  # not by name and mapped: torch cannot open a name that is not UTF-8
            state = torch.load(file, map_location="cpu", weights_only=True)
        step, epoch = state["step"], state.get("epoch")
        if type(step) is not int or type(epoch) not in (int, type(None)):
            return {}
        return facts_of(state, digest_of_file(path))
    except Exception:  # noqa: BLE001  a damaged file makes torch raise nearly anything; the resume says what is wrong
        return {}
