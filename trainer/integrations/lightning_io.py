"""Lightning's checkpoint files as they should be written: copied in memory, made durable by a thread, proven, named at
once; read only after every checksum was found right.

Lightning's own goes through the system's temporary directory (a plain copy where that is another filesystem), flushes
nothing, and checks nothing when it loads. Its asynchronous one queues without bound, tells of an error at the next
save, and lets the old file go before the new one is there.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ckpt_tui.events.schema import CheckpointFailed, CheckpointRemoved, CheckpointSaved
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.background import Background
from trainer.checkpoint.checksums import digest_and_broken_record
from trainer.checkpoint.publish import PublishError, make_directory, publish
from trainer.checkpoint.quarantine import FOLDER_NAME as QUARANTINE
from trainer.checkpoint.quarantine import quarantine
from trainer.checkpoint.registry import REGISTRY_NAME, SCHEMA
from trainer.checkpoint.snapshot import Snapshot

SUFFIX = ".ckpt"
_MAX_DEPTH = 4  # lightning_logs/version_0/checkpoints/
_STEP = re.compile(r"(?:^|[^a-z])step[=_-]?(\d+)", re.IGNORECASE)


class BadFileError(Exception):
    """A checkpoint that is not to be loaded. damage: what is wrong, in a word."""

    def __init__(self, message: str, damage: str) -> None:
        super().__init__(message)
        self.damage = damage


@dataclass(frozen=True)
class Newest:
    """Where to go on from. path: None when there is nothing. rejected: (name, why, where it is now), newest first."""

    path: str | None
    step: int = 0
    digest: str = ""
    rejected: list[tuple[str, str, str]] = field(default_factory=list)


class DurableCheckpointIO(TorchCheckpointIO):
    """`lightning.Trainer(plugins=[...])`. One save is in flight at a time; the next one waits for it.

    directory: the run's; checkpoints lie in it or below. A save that fails is told (log, `say`), the training goes on,
    and what it was to replace stays. failed: paths of those that failed; whoever takes one off has dealt with it.
    """

    def __init__(self, directory: str, *, is_async: bool = True, say: Callable[[str], None] = print) -> None:
        self.directory = os.path.abspath(directory)
        self.log: EventWriter | None = None
        self.is_async = is_async
        self.failed: list[str] = []
        self._say = say
        self._snapshot = Snapshot()
        self._background = Background()
        self._doomed: list[str] = []
        self._has_failed = False
        self._index = _Index(self.directory)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if storage_options is not None:
            raise TypeError("storage_options are for remote filesystems; this writes local files")
        started = time.monotonic()
        self.wait()
        path = os.path.abspath(os.fspath(path))
        step = int(checkpoint.get("global_step", 0))
        self._has_failed = False
        try:
            make_directory(os.path.dirname(path))
            self._snapshot.take(checkpoint)
        except Exception as error:  # noqa: BLE001  whatever pickling raises: told, as any save that fails
            self._fail(path, step, "snapshot", f"{type(error).__name__}: {error}")
            return
        facts = {
            "step": step, "epoch": checkpoint.get("epoch"), "metrics": {"val_loss": _val_loss(checkpoint)},
            "time": time.time(),
        }  # fmt: skip
        stall_seconds = time.monotonic() - started
        if self.is_async:
            self._background.start(lambda: self._write(path, facts, started, stall_seconds))
        else:
            self._write(path, facts, started, None)

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As Lightning's, after every checksum was found right. Raises BadFileError."""
        self.wait()
        proven_digest(os.fspath(path), self._index.digest_of(os.fspath(path)))
        loaded: dict[str, Any] = super().load_checkpoint(path, *arguments, **options)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Once what replaces it is durable; not at all when that failed."""
        if self._background.is_busy:
            self._doomed.append(os.fspath(path))
            return
        self.wait()
        if not self._has_failed:
            self._remove(os.fspath(path))

    def wait(self) -> None:
        """Until nothing is in flight."""
        self._background.wait()
        # What was doomed when the thread had already looked.
        doomed, self._doomed = self._doomed, []
        if not self._has_failed:
            for path in doomed:
                self._remove(path)

    def teardown(self) -> None:
        self.wait()

    def newest(self, *, quarantines: bool = True) -> Newest:
        """The checkpoint with the highest step that proves to be whole. Damaged ones are moved to `quarantine/` beside
        them; only for the holder of the directory's lock."""
        rejected: list[tuple[str, str, str]] = []
        steps = {path: self._index.step_of(path) for path in _files_below(self.directory)}
        # Those whose step nobody knows first: whether they are bad has to be found out, and said.
        for path in sorted(steps, key=lambda path: (steps[path] is not None, -(steps[path] or 0), path)):
            name, step = os.path.relpath(path, self.directory), steps[path]
            try:
                digest = proven_digest(path, self._index.digest_of(path))
                if step is not None:
                    return Newest(path, step, digest, rejected)
                rejected.append((name, "its step is not known: let `filename` have {step} in it", name))
            except (BadFileError, OSError) as error:
                moved = name
                if quarantines and isinstance(error, BadFileError):
                    folder, base = os.path.split(path)
                    moved = os.path.relpath(
                        os.path.join(folder, quarantine(folder, base, str(error), error.damage)), self.directory
                    )
                rejected.append((name, str(error), moved))
        return Newest(None, rejected=rejected)

    def _write(self, path: str, facts: dict[str, Any], started: float, stall_seconds: float | None) -> None:
        folder, name = os.path.split(path)
        step = facts["step"]
        try:
            self._snapshot.finish()
            bad = self._first_nonfinite()
            if bad is not None:
                raise PublishError("snapshot", f"{bad} is not finite: such a state is not saved")
            published = publish(folder, [name], self._snapshot.content)
        except PublishError as error:
            return self._fail(path, step, error.stage, error.reason)
        except Exception as error:  # noqa: BLE001  whatever it is: training goes on, and somebody is told
            return self._fail(path, step, "write", f"{type(error).__name__}: {error}")
        doomed, self._doomed = self._doomed, []
        for old in doomed:
            if os.path.abspath(old) != path:
                self._remove(old)
        told = os.path.relpath(path, self.directory)
        try:
            self._index.add(path, {**facts, "digest": published.digest})
        except PublishError as error:
            self._say(f"{REGISTRY_NAME} could not be written: {error.reason}")
        if self.log is not None:
            seconds = time.monotonic() - started
            self.log.emit(
                CheckpointSaved(
                    step=step, path=told, kind=_kind_of(name), bytes=published.size_bytes, digest=published.digest,
                    save_seconds=round(seconds, 6), val_loss=facts["metrics"]["val_loss"], names=[told],
                    stall_seconds=round(seconds if stall_seconds is None else stall_seconds, 6),
                )
            )  # fmt: skip
        return None

    def _first_nonfinite(self) -> str | None:
        try:
            return self._snapshot.first_nonfinite(("state_dict", "optimizer_states"))
        except (pickle.UnpicklingError, RuntimeError):
            return None  # hyperparameters of a kind that is not to be loaded for a look at the weights

    def _fail(self, path: str, step: int, stage: str, reason: str) -> None:
        self._has_failed = True
        self.failed.append(path)
        name = os.path.relpath(path, self.directory)
        self._say(f"save of {name} failed ({stage}): {reason}")
        if self.log is not None:
            kept = name if os.path.exists(path) else next(iter(self._doomed), "")
            kept = os.path.relpath(kept, self.directory) if os.path.isabs(kept) else kept
            self.log.emit(CheckpointFailed(step=step, path=name, stage=stage, error=reason, kept=kept))
        self._doomed = []

    def _remove(self, path: str) -> None:
        try:
            super().remove_checkpoint(path)
        except OSError as error:
            self._say(f"{path} could not be removed: {error.strerror}")
            return
        self._index.forget(path)
        if self.log is not None:
            name = os.path.relpath(path, self.directory)
            self.log.emit(CheckpointRemoved(path=name, reason="ModelCheckpoint keeps others"))


class _Index:
    """`registry.json` of the run: step and digest of each file, without reading it. Derived: what it does not know, or
    knows of a file that is another one now, is found out from the file."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._rows: dict[str, dict[str, Any]] = {}
        try:
            with open(os.path.join(directory, REGISTRY_NAME), "rb") as file:
                rows = json.loads(file.read())["checkpoints"]
            self._rows = {row["path"]: row for row in rows if isinstance(row["path"], str) and row["step"] is not None}
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def step_of(self, path: str) -> int | None:
        row = self._row(path)
        if row is not None:
            return int(row["step"])
        match = _STEP.search(os.path.basename(path))
        return int(match[1]) if match else _step_in(path)

    def digest_of(self, path: str) -> str:
        row = self._row(path)
        return str(row["digest"]) if row is not None else ""

    def add(self, path: str, facts: dict[str, Any]) -> None:
        """Raises PublishError."""
        name = os.path.relpath(path, self._directory)
        status = os.stat(path)
        self._rows[name] = {
            "path": name, "kind": _kind_of(os.path.basename(name)), "is_backup": False, **facts,
            "bytes": status.st_size, "mtime": status.st_mtime, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino,
            "is_best": False,
        }  # fmt: skip
        content = {"schema": SCHEMA, "best": {}, "checkpoints": list(self._rows.values())}
        publish(self._directory, [REGISTRY_NAME], json.dumps(content, indent=1).encode() + b"\n")

    def forget(self, path: str) -> None:
        self._rows.pop(os.path.relpath(path, self._directory), None)

    def _row(self, path: str) -> dict[str, Any] | None:
        row = self._rows.get(os.path.relpath(path, self._directory))
        try:
            status = os.stat(path)
        except OSError:
            return None
        if row is None or row.get("bytes") != status.st_size or row.get("mtime_ns") != status.st_mtime_ns:
            return None
        return row


def proven_digest(path: str, expected: str = "") -> str:
    """The digest of a file of which every checksum is right. Raises BadFileError, OSError."""
    with open(path, "rb") as file:
        try:
            digest, broken = digest_and_broken_record(file)
        except zipfile.BadZipFile as error:
            raise BadFileError(f"it is not a whole zip file ({error})", "cut") from error
    if broken is not None:
        raise BadFileError(f"the checksum of its record {broken} is wrong", "checksum")
    if expected and digest != expected:
        raise BadFileError(f"its content is not what was saved ({digest}, saved as {expected})", "digest")
    return digest


def _step_in(path: str) -> int | None:
    """The step that a file says, if it can be said without running anything that is in it."""
    try:
        with open(path, "rb") as file:
            step = torch.load(file, map_location="meta", weights_only=True)["global_step"]
        return int(step)
    except Exception:  # noqa: BLE001  a damaged file makes torch raise nearly anything
        return None


def _files_below(directory: str) -> list[str]:
    """Checkpoint files, links left out: they lead to others of them, or to nothing."""
    found = []
    for folder, folders, files in os.walk(directory):
        depth = os.path.relpath(folder, directory).count(os.sep) + (folder != directory)
        folders[:] = [name for name in folders if name != QUARANTINE and depth < _MAX_DEPTH]
        paths = [os.path.join(folder, name) for name in files if name.endswith(SUFFIX) and not name.startswith(".")]
        found += [path for path in paths if not os.path.islink(path)]
    return found


def _kind_of(name: str) -> str:
    for word, kind in (("emergency", "emergency"), ("best", "best"), ("last", "latest")):
        if word in name:
            return kind
    return "rolling"


def _val_loss(checkpoint: dict[str, Any]) -> float | None:
    """What a ModelCheckpoint that watches val_loss has seen last."""
    for state in checkpoint.get("callbacks", {}).values():
        if isinstance(state, dict) and state.get("monitor") == "val_loss" and state.get("current_score") is not None:
            return float(state["current_score"])
    return None
