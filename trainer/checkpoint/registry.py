"""`registry.json`: the list of the checkpoints in a run directory. Derived from the files, rebuilt when it is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from ckpt_tui.events import checksum
from ckpt_tui.events.lineage import Lineage, as_plain, is_on, read_lineage
from trainer.checkpoint.formats import read_facts
from trainer.checkpoint.names import BEST, Name, checkpoints_in
from trainer.checkpoint.publish import publish
from trainer.checkpoint.publish_directory import ContentStatus, content_status

REGISTRY_NAME = "registry.json"
SCHEMA = "ckpt-tui/registry/1"
PUT_BACK = "best_put_back"


class Registry:
    """Entries by name: path, kind, is_backup, step, epoch, metrics, bytes, digest, time, mtime, inode, is_best, and
    the session (number and id) that made it.

    step, epoch and metrics are None or empty for a file that could not be read.
    lineage: that of this session, set by who begins it. stored_lineage: that of the run as the file tells it, None when
    it does not: this session's from its first save on, or from when a person chose what it goes on from. Until then,
    what could not be read this time may be the newest again at the next resume.
    policy: what is kept, for whoever reads the file (`retention_report`).
    untold: the lineages of checkpoints of sessions that the file did not know when it was read.
    is_stale: whether the file tells something else than `entries`.
    put_back: what the viewer wrote when a person put another best in place of one, oldest first: from then on `value`
    is the best score where a checkpoint from before says `instead_of`.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.entries: dict[str, dict[str, Any]] = {}
        self.lineage: Lineage | None = None
        self.untold: list[Lineage] = []
        self.is_stale = False
        self.policy: Mapping[str, Any] = {}
        content = _content(os.path.join(directory, REGISTRY_NAME))
        self._stored, self.stored_lineage, self._best = _stored(content)
        self.put_back = _put_back(content)
        self._told = {row.get("session_id") for row in self._stored}

    def sync(self, written: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Take the entries from the files as they are now.

        written: the facts of names that were just written. Other files are those of the entry with the same inode,
        size and time; a file that no entry knows is read.
        """
        if written:
            self.stored_lineage = self.lineage or self.stored_lineage
        known = {_identity_of(entry): entry for entry in self._stored}
        known.update({_identity_of(entry): entry for entry in self.entries.values()})
        entries: dict[str, dict[str, Any]] = {}
        for name in checkpoints_in(self.directory):
            path = os.path.join(self.directory, name.name)
            try:
                status = content_status(path)
            except FileNotFoundError:
                continue
            identity = (status.inode, status.size_bytes, status.mtime_ns)
            if written is not None and name.name in written:
                facts = {**self._this_session(), **written[name.name]}
            elif identity in known:
                facts = known[identity]
            else:
                facts = read_facts(path)
                lineage = read_lineage(facts.get("lineage"))
                # After a copy that keeps no times no file is known, but the sessions are: one that the run was rolled
                # back from is none that went on since.
                if lineage and lineage[-1].id not in self._told:
                    self.untold.append(lineage)
            entry = _entry(name, status, facts)
            entries[name.name] = known[identity] = entry
        best = entries.get(BEST)
        for entry in entries.values():
            entry["is_best"] = best is not None and (entry is best or entry["inode"] == best["inode"])
        self.entries = entries
        self.is_stale = self._stored != list(entries.values())

    def abandoned(self) -> set[str]:
        """Names on a branch that a resume from an earlier step left behind."""
        lineage = self.lineage or self.stored_lineage
        return {name for name, entry in self.entries.items() if not is_on(lineage, entry["session_id"], entry["step"])}

    def scores(self, monitor: str) -> dict[str, float | None]:
        """The monitored metric of each checkpoint that tells it."""
        return {name: entry["metrics"].get(monitor) for name, entry in self.entries.items()}

    def best_score(self, metric: str, mode: str, claimed: float | None) -> float | None:
        """The best score of a run that goes on from a checkpoint which says `claimed`: another one where a person put
        another best in its place since. A lucky one that was taken back would never be beaten."""
        score = claimed
        for row in self.put_back:
            if (row["metric"], row["mode"], row["instead_of"]) == (metric, mode, score):
                score = row["value"]
        return score

    def _this_session(self) -> dict[str, Any]:
        if self.lineage is None:
            return {}
        return {"session": self.lineage[-1].session, "session_id": self.lineage[-1].id}

    def write(self, best: Mapping[str, Any] | None = None) -> None:
        """Publish it. best: metric, mode and value of the best score, None: as before. Raises PublishError."""
        if best is not None:
            self._best = dict(best)
            # Come to once more, in earnest: it holds again.
            told = (best.get("metric"), best.get("mode"), best.get("value"))
            self.put_back = [row for row in self.put_back if (row["metric"], row["mode"], row["instead_of"]) != told]
        content: dict[str, Any] = {"schema": SCHEMA, "best": self._best}
        if self.put_back:
            content[PUT_BACK] = self.put_back
        if self.stored_lineage is not None:
            content["lineage"] = as_plain(self.stored_lineage)
        if self.policy:
            content["policy"] = dict(self.policy)
        content["checkpoints"] = list(self.entries.values())
        content[checksum.KEY] = checksum.checksum_of(content)
        publish(self.directory, [REGISTRY_NAME], json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")
        self._stored, self.is_stale = list(self.entries.values()), False


def facts_of(state: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """What the registry tells of a checkpoint's content."""
    facts = {
        "step": state["step"], "epoch": number_in(state, "epoch"),
        "metrics": _metrics_in(state),
        "digest": digest, "time": number_in(state, "timestamp"),
    }  # fmt: skip
    lineage = read_lineage(state.get("lineage"))
    if lineage is not None:
        facts |= {"session": lineage[-1].session, "session_id": lineage[-1].id, "lineage": as_plain(lineage)}
    return facts


def _metrics_in(state: Mapping[str, Any]) -> dict[str, float | None]:
    """The losses, and what else an evaluation gave: `Policy.monitor` may be any of it."""
    others = state.get("val_metrics")
    told = {str(name): number_in(others, name) for name in others} if isinstance(others, Mapping) else {}
    losses = {name: number_in(state, name) for name in ("train_loss", "val_loss")}
    return {name: value for name, value in told.items() if value is not None} | losses


def number_in(state: Mapping[str, Any], key: str) -> float | None:
    """What a state of any loop has there, as JSON can tell it: a loss may be a tensor still. None for no number."""
    value = state.get(key)
    if value is not None and getattr(value, "ndim", None) == 0:
        value = value.item()
    return value if type(value) in (int, float) else None


def _entry(name: Name, status: ContentStatus, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": name.name, "kind": name.kind, "is_backup": name.is_backup,
        "step": facts.get("step"), "epoch": facts.get("epoch"), "metrics": facts.get("metrics") or {},
        "bytes": status.size_bytes, "digest": facts.get("digest") or "", "time": facts.get("time"),
        "session": facts.get("session") or 0, "session_id": facts.get("session_id") or "",
        "mtime": status.mtime, "mtime_ns": status.mtime_ns, "inode": status.inode, "is_best": False,
    }  # fmt: skip


def _identity_of(entry: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return entry.get("inode"), entry.get("bytes"), entry.get("mtime_ns")


def _makes_sense(row: object) -> bool:
    """Whether an entry is one that this trainer could have written; the file of another one is read anew.

    A registry without a checksum is somebody's own or by an older trainer: any JSON may be in it.
    """
    if not isinstance(row, dict) or not row.get("path") or type(row.get("step")) is not int or row["step"] < 0:
        return False
    metrics = row.get("metrics", {})
    return (
        all(isinstance(row.get(key, ""), str) for key in ("path", "digest", "session_id"))
        and all(type(row.get(key, 0)) is int for key in ("bytes", "inode", "mtime_ns", "session"))
        and all(type(row.get(key)) in (int, float, type(None)) for key in ("epoch", "time"))
        and isinstance(metrics, dict)
        and all(type(value) in (int, float, type(None)) for value in metrics.values())
    )


def _put_back(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = content.get(PUT_BACK)
    return [
        row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict)
        and all(isinstance(row.get(key), str) for key in ("metric", "mode"))
        and all(type(row.get(key)) in (int, float) for key in ("value", "instead_of"))
    ]


def _content(path: str) -> dict[str, Any]:
    """What the file holds, empty when it is missing or wrong."""
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read())
        return content if isinstance(content, dict) and checksum.is_as_written(content) else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return {}


def _stored(content: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Lineage | None, dict[str, Any]]:
    """The entries that make sense, the lineage, the best; nothing where one of them cannot be made out."""
    try:
        entries = [row for row in content["checkpoints"] if _makes_sense(row)]
        return entries, read_lineage(content.get("lineage")), dict(content.get("best") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return [], None, {}


def file_facts(path: str) -> dict[str, Any]:
    """The facts of a file, its tensors left on the disk. Empty when it cannot be read; that is no judgement of it."""
    from trainer.checkpoint.publish import digest_of_file

    try:
        state = _mapped(path)
        if type(state["step"]) is not int:
            return {}
        return facts_of(state, digest_of_file(path))
    except Exception:  # noqa: BLE001  a damaged file makes torch raise nearly anything; the resume says what is wrong
        return {}


def lineage_of_file(path: str) -> Lineage | None:
    """The lineage in a checkpoint file, None when it cannot be read or does not tell."""
    try:
        return read_lineage(_mapped(path).get("lineage"))
    except Exception:  # noqa: BLE001  as above
        return None


def _mapped(path: str) -> Mapping[str, Any]:
    """The state in a file, tensors mapped and not read."""
    import torch

    # By its descriptor: torch cannot open a name that is not UTF-8.
    with open(path, "rb") as file:
        by_descriptor = f"/proc/self/fd/{file.fileno()}"
        if not os.path.exists(by_descriptor):
            return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(by_descriptor, map_location="cpu", weights_only=True, mmap=True)
