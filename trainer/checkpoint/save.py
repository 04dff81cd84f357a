"""One save: one copy of the state, one file written for all the names that share it, one more for the backups.

`take` copies the state and is all that training waits for; `write` does the rest, in whichever thread.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ckpt_tui.events.schema import CheckpointFailed, CheckpointSaved, Event
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import names
from trainer.checkpoint.forms import form_of
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish import Published, PublishError
from trainer.checkpoint.registry import Registry, facts_of, number_in
from trainer.checkpoint.room import Room
from trainer.checkpoint.state import FINITE, stamped
from trainer.checkpoint.weights_file import NAME as WEIGHTS_NAME
from trainer.checkpoint.weights_file import weights_of, write_weights

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Save:
    """What is to be written.

    primary: names that share the new file, the one that is told first. backups: names of the independent copy.
    stall_seconds: that training stood still, None when it does until all is done. weights: for a file of their own.
    """

    step: int
    kind: str
    primary: list[str]
    backups: list[str]
    facts: dict[str, Any]
    best: dict[str, Any]
    val_loss: float | None
    started: float
    snapshot_seconds: float
    stall_seconds: float | None
    weights: dict[str, torch.Tensor] | None


class Saver:
    """Saves into one run directory.

    last_step: of the newest checkpoint of this session, -1 for none. is_urgent: an emergency waits for the save
    in flight, perhaps with seconds to live: its backups stay as they are.
    """

    def __init__(
        self,
        directory: str,
        policy: Policy,
        log: EventWriter | None,
        registry: Registry,
        say: Callable[[str], None],
    ) -> None:
        self._directory, self._policy, self._log, self._registry, self._say = directory, policy, log, registry, say
        self._form = form_of(policy.checkpoint_format, directory)
        self._room = Room(directory, policy, registry, self._emit, say)
        registry.policy = asdict(policy)
        self._unproven: set[str] = set()
        self._is_failing = False
        self.is_urgent = False
        self.last_step = -1

    def resumed_from(self, name: str, rejected: Collection[str], step: int) -> None:
        """`name` stays whatever retention says; what was `rejected` does not become a backup of anything."""
        entries = self._registry.entries
        inode = entries[name]["inode"] if name in entries else None
        # By its other names, too: `latest.pt` is replaced by the next save.
        same = {path for path, entry in entries.items() if entry["inode"] == inode}
        self._room.protected, self._unproven = frozenset({name, *same}), set(rejected)
        # One from elsewhere is not here: a session that ends at once still has to save.
        self.last_step = step if name in entries else -1

    def take(
        self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str, *, started: float, is_async: bool
    ) -> Save | None:
        """Copy `state`, to be saved as the latest checkpoint and one of each of `kinds`. None when it cannot be; the
        log says so. started: when training came to stand still (time.monotonic)."""
        step = int(state["step"])
        primary, backups = self._names(state, kinds)
        begun = time.monotonic()
        try:
            full = stamped(state, checkpoint_type, self._registry.lineage)
            self._form.take(full)
            weights = self._weights(state) if "best" in kinds and self._policy.best_safetensors else None
        except Exception as error:  # noqa: BLE001  what cannot be pickled raises nearly anything; training goes on
            self._failed(step, primary[0], "snapshot", f"{type(error).__name__}: {error}")
            return None
        now = time.monotonic()
        kind = next((kind for kind in ("emergency", "rolling", "epoch", "best") if kind in kinds), "latest")
        return Save(
            step=step, kind=kind, primary=primary, backups=backups, facts={**facts_of(full, ""), "time": time.time()},
            best={
                "metric": self._policy.monitor, "mode": self._policy.monitor_mode,
                "value": number_in(state, "best_metric"),
            },
            val_loss=number_in(state, "val_loss"), started=started, snapshot_seconds=now - begun,
            stall_seconds=now - started if is_async else None, weights=weights,
        )  # fmt: skip

    def write(self, save: Save) -> str | None:
        """Make it durable, and all that follows from that. Gives the name that was written, None when it failed: then
        the old files are as they were, and the log says so. Never raises."""
        try:
            return self._write(save)
        except PublishError as error:
            self._failed(save.step, save.primary[0], error.stage, error.reason)
        except Exception as error:  # noqa: BLE001  whatever it is: training goes on, and somebody is told
            self._failed(save.step, save.primary[0], "write", f"{type(error).__name__}: {error}")
        return None

    def _write(self, save: Save) -> str:
        begun = time.monotonic()
        self._form.is_waited = save.stall_seconds is None
        has_room: list[bool] = []  # for the backups, too

        def make_room(size_bytes: int) -> None:
            num_copies = 2 if save.backups else 1
            has_room.append(self._room.make(save.step, save.primary, size_bytes, num_copies=num_copies))

        self._form.finish(make_room)
        bad = self._form.first_nonfinite(FINITE)
        if bad is not None:
            raise PublishError("snapshot", f"{bad} is not finite: such a state is not saved")
        seconds = {"snapshot": save.snapshot_seconds, "serialize": time.monotonic() - begun}
        if not has_room:
            make_room(self._form.size_bytes)
        backups = save.backups if has_room[0] else []
        published = self._publish(save)
        seconds |= published.seconds
        self._unproven.difference_update(save.primary)
        self.last_step = save.step
        written = [*save.primary]
        if backups and not self.is_urgent:
            begun = time.monotonic()
            try:
                self._form.publish(self._directory, backups, {})
                written += backups
            except PublishError as error:
                self._failed(save.step, backups[0], error.stage, error.reason)
            seconds["backup"] = time.monotonic() - begun
        if save.weights is not None:
            self._write_weights(save, save.weights)
        if self._is_failing:
            self._is_failing = False
            self._say(f"saving works again: {save.primary[0]}")
        self._finish(save, published, written, seconds)
        return save.primary[0]

    def _publish(self, save: Save) -> Published:
        """All primary names. On a full disk once more, when there is something that may go."""
        previous = {
            self._named(backup): self._named(source)
            for backup, source in ((names.LATEST_BACKUP, names.LATEST), (names.BEST_PREVIOUS, names.BEST))
            if self._named(source) in save.primary and self._named(source) not in self._unproven
        }
        previous |= self._left(save.primary)
        before = {source: self._inode_of(source) for source in previous.values()}
        try:
            published = self._form.publish(self._directory, save.primary, previous)
        except PublishError as error:
            if error.errno not in _FULL or not self._room.prune(save.step, save.primary, self._form.size_bytes):
                raise
            # Where the first attempt failed among its renames, a name may hold the new file already: what it held
            # before has its second name, and the new file must not take that.
            still = {name: source for name, source in previous.items() if self._inode_of(source) == before[source]}
            published = self._form.publish(self._directory, save.primary, still)
        if published.retried:
            self._failed(save.step, save.primary[0], published.retried.partition(":")[0],
                         f"{published.retried}; saved at the second attempt, in a new file")  # fmt: skip
        return published

    def _left(self, coming: list[str]) -> dict[str, str]:
        """{new name: name} of what a branch that was left has under names that are coming: it is kept."""
        entries, kept = self._registry.entries, {}
        for name in self._registry.abandoned() & set(coming):
            if entries[name]["kind"] in ("rolling", "epoch"):
                kept[names.left_name(self._directory, name, entries[name]["session"])] = name
        return kept

    def _weights(self, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        copy_of = getattr(self._form, "copy_of", None) or (lambda tensor: tensor.detach().clone())
        return {name: copy_of(tensor) for name, tensor in weights_of(state).items()}

    def _write_weights(self, save: Save, weights: dict[str, torch.Tensor]) -> None:
        about = {"step": save.step, "epoch": save.facts.get("epoch"), save.best["metric"]: save.best["value"]}
        try:
            write_weights(self._directory, weights, about)
        except PublishError as error:
            self._failed(save.step, WEIGHTS_NAME, error.stage, error.reason)
        except (OSError, RuntimeError, MemoryError) as error:
            self._failed(save.step, WEIGHTS_NAME, "write", f"{type(error).__name__}: {error}")

    def _names(self, state: Mapping[str, Any], kinds: Collection[str]) -> tuple[list[str], list[str]]:
        """The names that share the new file, the one that is told first, and those of the independent copy."""
        step = int(state["step"])
        primary, backups = [], []
        if "emergency" in kinds:
            primary.append(names.emergency_name(self._directory, step, self._form.suffix))
        if "rolling" in kinds:
            primary.append(names.rolling_name(step))
            backups.append(names.ROLLING_BACKUP)
        if "epoch" in kinds:
            primary.append(names.epoch_name(round(number_in(state, "epoch") or 0)))
        if "best" in kinds:
            primary.append(names.BEST)
            backups.append(names.BEST_BACKUP)
        return [self._named(name) for name in (*primary, names.LATEST)], [self._named(name) for name in backups]

    def _inode_of(self, name: str) -> int | None:
        try:
            return os.stat(os.path.join(self._directory, name)).st_ino
        except OSError:
            return None

    def _named(self, name: str) -> str:
        return name.removesuffix(".pt") + self._form.suffix

    def _failed(self, step: int, path: str, stage: str, error: str) -> None:
        latest = self._named(names.LATEST)
        kept = latest if os.path.exists(os.path.join(self._directory, latest)) else ""
        self._is_failing = True
        self._emit(CheckpointFailed(step=step, path=path, stage=stage, error=error, kept=kept))
        self._say(f"save of {path} failed ({stage}): {error}")

    def _finish(self, save: Save, published: Published, written: list[str], seconds: dict[str, float]) -> None:
        """The new one is proven: what retention lets go goes, and registry and log tell."""
        durable = time.monotonic() - save.started
        gone = self._room.retire(save.step, written)
        facts = {**save.facts, "digest": published.digest}
        try:
            self._registry.sync(dict.fromkeys(written, facts))
            self._registry.write(save.best)
        except PublishError as error:
            self._failed(save.step, "registry.json", error.stage, error.reason)
        except OSError as error:
            self._failed(save.step, "registry.json", "write", error.strerror or str(error))
        self._emit(
            CheckpointSaved(
                step=save.step, path=save.primary[0], kind=save.kind, bytes=published.size_bytes,
                digest=published.digest, save_seconds=durable,
                stall_seconds=time.monotonic() - save.started if save.stall_seconds is None else save.stall_seconds,
                val_loss=save.val_loss, names=written,
                stages={name: round(value, 6) for name, value in seconds.items()},
            )
        )  # fmt: skip
        self._room.told_gone(save.step, gone)

    def _emit(self, event: Event) -> None:
        if self._log is not None:
            self._log.emit(event)
