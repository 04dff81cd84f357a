"""One save: one serialisation, one file written for all the names that share it, one independent copy for backups.

Synchronous: `save` returns when everything is durable. The serialised bytes in `Buffer` are the snapshot; all that
follows works on them alone.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ckpt_tui.events.schema import CheckpointFailed, CheckpointRemoved, CheckpointSaved, Disk, Event
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import names
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish import Published, PublishError, publish
from trainer.checkpoint.registry import Registry, facts_of
from trainer.checkpoint.retention import removable
from trainer.checkpoint.state import Buffer, first_nonfinite, stamped

_DISK_EVERY = 10
# What must be finite for a state to be worth keeping.
_FINITE = ("model", "optimizer", "ema")


@dataclass(frozen=True)
class SaveFailure:
    """Why a save did not happen. stage: snapshot, write, sync, verify or publish."""

    path: str
    stage: str
    error: str


class Saver:
    """Saves into one run directory. last_step: of the newest checkpoint of this session, -1 for none."""

    def __init__(
        self,
        directory: str,
        policy: Policy,
        log: EventWriter | None,
        registry: Registry,
        say: Callable[[str], None],
    ) -> None:
        self._directory, self._policy, self._log, self._registry, self._say = directory, policy, log, registry, say
        self._protected: frozenset[str] = frozenset()
        self._unproven: set[str] = set()
        self._buffer = Buffer()
        self._num_saves = 0
        self.last_step = -1

    def resumed_from(self, name: str, rejected: Collection[str], step: int) -> None:
        """`name` stays whatever retention says; what was `rejected` does not become a backup of anything."""
        self._protected, self._unproven, self.last_step = frozenset({name}), set(rejected), step

    def save(self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str = "regular") -> str | None:
        """Save `state` as the latest checkpoint and as one of each of `kinds` (rolling, emergency, best, epoch).

        Gives the name that was written, None when it failed: then the old files are as they were, the log says so,
        and the caller goes on. Never raises for what files and disks do.
        """
        started = time.monotonic()
        step = state["step"]
        primary, backups = self._names(state, kinds)
        try:
            content = self._snapshot(state, checkpoint_type)
            self._check_space(step, len(content) * (2 if backups else 1))
            previous = {names.LATEST_BACKUP: names.LATEST, names.BEST_PREVIOUS: names.BEST}
            for backup, source in list(previous.items()):
                if source not in primary or source in self._unproven:
                    del previous[backup]
            published = publish(self._directory, primary, content, previous=previous)
        except PublishError as error:
            self._failed(step, SaveFailure(primary[0], error.stage, error.reason))
            return None
        except (RuntimeError, MemoryError, OSError) as error:
            self._failed(step, SaveFailure(primary[0], "snapshot", f"{type(error).__name__}: {error}"))
            return None
        self._unproven.difference_update(primary)
        self.last_step = step
        written = [*primary]
        if backups:
            try:
                publish(self._directory, backups, content)
                written += backups
            except PublishError as error:
                self._failed(step, SaveFailure(backups[0], error.stage, error.reason))
        self._finish(state, published, primary, written, kinds, started)
        return primary[0]

    def _names(self, state: Mapping[str, Any], kinds: Collection[str]) -> tuple[list[str], list[str]]:
        """The names that share the new file, the one that is told first, and those of the independent copy."""
        step = state["step"]
        primary, backups = [], []
        if "emergency" in kinds:
            primary.append(self._emergency_name(step))
        if "rolling" in kinds:
            primary.append(names.rolling_name(step))
            backups.append(names.ROLLING_BACKUP)
        if "epoch" in kinds:
            primary.append(names.epoch_name(round(state.get("epoch", 0))))
        if "best" in kinds:
            primary.append(names.BEST)
            backups.append(names.BEST_BACKUP)
        return [*primary, names.LATEST], backups

    def _emergency_name(self, step: int) -> str:
        stem = f"emergency_step_{step:06d}_{time.strftime('%Y%m%d_%H%M%S')}"
        name, number = f"{stem}.pt", 1
        while os.path.exists(os.path.join(self._directory, name)):
            number += 1
            name = f"{stem}_{number}.pt"
        return name

    def _snapshot(self, state: Mapping[str, Any], checkpoint_type: str) -> memoryview:
        bad = first_nonfinite({key: state[key] for key in _FINITE if key in state})
        if bad is not None:
            raise PublishError("snapshot", f"{bad} is not finite: such a state is not saved")
        self._buffer.clear()
        torch.save(stamped(state, checkpoint_type, self._registry.lineage), self._buffer)
        return self._buffer.view()

    def _check_space(self, step: int, needed_bytes: int) -> None:
        """Tell the log when the disk gets tight. The save is tried all the same: it fails without harm."""
        self._num_saves += 1
        free = shutil.disk_usage(self._directory).free
        if free < 2 * needed_bytes or self._num_saves % _DISK_EVERY == 0:
            self.log_disk(step, needed_bytes)

    def log_disk(self, step: int, needed_bytes: int) -> None:
        """The `disk` event. Bytes that several names share are counted once, for the kind that comes first."""
        bytes_by_kind = dict.fromkeys(names.KINDS, 0)
        count_by_kind = dict.fromkeys(names.KINDS, 0)
        seen = set()
        for entry in sorted(self._registry.entries.values(), key=lambda entry: names.KINDS.index(entry["kind"])):
            count_by_kind[entry["kind"]] += 1
            if entry["inode"] not in seen:
                seen.add(entry["inode"])
                bytes_by_kind[entry["kind"]] += entry["bytes"]
        free = shutil.disk_usage(self._directory).free
        self._emit(
            Disk(
                step=step, bytes_by_kind=bytes_by_kind, count_by_kind=count_by_kind, free_bytes=free,
                saves_that_fit=free // max(needed_bytes, 1),
            )
        )  # fmt: skip

    def _failed(self, step: int, failure: SaveFailure) -> None:
        kept = names.LATEST if os.path.exists(os.path.join(self._directory, names.LATEST)) else ""
        self._emit(CheckpointFailed(step=step, path=failure.path, stage=failure.stage, error=failure.error, kept=kept))
        self._say(f"save of {failure.path} failed ({failure.stage}): {failure.error}")

    def _finish(
        self,
        state: Mapping[str, Any],
        published: Published,
        primary: list[str],
        written: list[str],
        kinds: Collection[str],
        started: float,
    ) -> None:
        step = state["step"]
        facts = {**facts_of(state, published.digest), "time": time.time()}
        removed = removable(
            names.checkpoints_in(self._directory),
            keep_rolling=self._policy.keep_rolling,
            keep_emergency=self._policy.keep_emergency,
            step=step,
            protected=self._protected | set(written),
            abandoned=self._registry.abandoned(),
        )
        gone = []
        for name, rule in removed:
            try:
                os.unlink(os.path.join(self._directory, name))
                gone.append((name, rule))
            except OSError as error:
                self._say(f"{name} could not be removed: {error.strerror}")
        self._registry.sync(dict.fromkeys(written, facts))
        try:
            policy = self._policy
            best = {"metric": policy.monitor, "mode": policy.monitor_mode, "value": state.get("best_metric")}
            self._registry.write(best)
        except PublishError as error:
            self._failed(step, SaveFailure("registry.json", error.stage, error.reason))
        seconds = time.monotonic() - started
        kind = next((kind for kind in ("emergency", "rolling", "epoch", "best") if kind in kinds), "latest")
        self._emit(
            CheckpointSaved(
                step=step, path=primary[0], kind=kind, bytes=published.size_bytes, digest=published.digest,
                save_seconds=seconds, stall_seconds=seconds, val_loss=state.get("val_loss"), names=written,
            )
        )  # fmt: skip
        for name, rule in gone:
            self._emit(CheckpointRemoved(step=step, path=name, reason=rule))

    def _emit(self, event: Event) -> None:
        if self._log is not None:
            self._log.emit(event)
