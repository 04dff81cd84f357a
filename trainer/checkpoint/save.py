"""One save: one serialisation, two independent files on the disk however many names, then log, registry, retention.

    content A   rolling_step_N, latest, best_model, epoch_N, emergency_...   hard links of one proven file
    content B   rolling_last_backup, best_model_backup                       an independent copy, against damage
    before      latest_backup, best_model_previous                           what latest and best were until now

A failed save keeps what was there, tells the log, and the training goes on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_tui.events.schema import CheckpointFailed, CheckpointRemoved, CheckpointRestored, CheckpointSaved, Disk
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.publish import PublishError, crc32_of, keep_as, publish, remove_quietly
from trainer.checkpoint.registry import REGISTRY_NAME, Registry
from trainer.checkpoint.retention import superseded

DISK_EVERY_SAVES = 10


@dataclass(slots=True)
class Saver:
    """Writes the checkpoints of one session."""

    directory: Path
    log: EventWriter
    registry: Registry
    keep_rolling: int
    keep_emergency: int
    protected: set[str] = field(default_factory=set)
    num_saves: int = 0
    last_bytes: int = 0

    def save(
        self,
        state: Mapping[str, Any],
        *,
        rolling: bool = False,
        best: bool = False,
        epoch: int | None = None,
        emergency: bool = False,
    ) -> bool:
        """Publish `state` as latest and under the names that are asked for. Whether it is now durable.

        epoch: the number of the epoch that has just ended, for `epoch_NNNNN.pt`.
        """
        started = time.perf_counter()
        step = int(state["step"])
        names = self._names(step, rolling=rolling, best=best, epoch=epoch, emergency=emergency)
        kind = next(kind for kind in ("emergency", "rolling", "epoch", "best", "latest") if kind in names)
        path, others = names.pop(kind), list(names.values())
        stage = "snapshot"
        try:
            data = checkpoint_state.serialise(state)
            stage = "write"
            self._foresee_full_disk(len(data), step)
            if "latest" in names or kind == "latest":
                self._set_previous_aside("latest.pt", "latest_backup.pt")
            if best:
                self._set_previous_aside("best_model.pt", "best_model_previous.pt")
            publish(data, self.directory / path, links=[self.directory / name for name in others])
            copies = ["rolling_last_backup.pt"] * rolling + ["best_model_backup.pt"] * best
            if copies:
                publish(data, self.directory / copies[0], links=[self.directory / name for name in copies[1:]])
        except (PublishError, OSError, RuntimeError, MemoryError) as error:
            self._failed(path, step, getattr(error, "stage", stage), error)
            return False
        save_s = time.perf_counter() - started
        digest = crc32_of(data)
        self.last_bytes = len(data)
        published = [path, *others, *copies]
        for name in published:
            self.registry.add(self.directory / name, state, digest)
        self.log.emit(
            CheckpointSaved(
                step=step, path=path, kind=kind, bytes=len(data), digest=digest, save_seconds=round(save_s, 6),
                stall_seconds=round(time.perf_counter() - started, 6), val_loss=state.get("val_loss"), names=published,
            )
        )  # fmt: skip
        self._retire(step)
        self._write_registry(step)
        self.num_saves += 1
        if self.num_saves % DISK_EVERY_SAVES == 0:
            self.tell_disk(step)
        return True

    def _names(self, step: int, *, rolling: bool, best: bool, epoch: int | None, emergency: bool) -> dict[str, str]:
        names = {}
        if emergency:
            names["emergency"] = f"emergency_step_{step:06d}_{time.strftime('%Y%m%d_%H%M%S')}.pt"
        if rolling:
            names["rolling"] = f"rolling_step_{step:06d}.pt"
        if epoch is not None:
            names["epoch"] = f"epoch_{epoch:05d}.pt"
        if best:
            names["best"] = "best_model.pt"
        names["latest"] = "latest.pt"
        return names

    def _set_previous_aside(self, name: str, backup: str) -> None:
        if keep_as(self.directory / name, self.directory / backup):
            self.registry.copy(name, backup)

    def restore_latest(self, source: str, why: str, step: int) -> None:
        """Put `latest.pt` back as an independent copy of a file that has just been proven good."""
        data = (self.directory / source).read_bytes()
        try:
            publish(data, self.directory / "latest.pt")
        except PublishError as error:
            self._failed("latest.pt", step, error.stage, error)
            return
        self.registry.copy(source, "latest.pt")
        self.log.emit(CheckpointRestored(step=step, path="latest.pt", source=source, by="trainer", why=why))
        self._write_registry(step)

    def _retire(self, step: int) -> None:
        for name, rule in superseded(
            self.registry.entries.values(),
            keep_rolling=self.keep_rolling, keep_emergency=self.keep_emergency, protected=self.protected,
        ):  # fmt: skip
            remove_quietly(self.directory / name)
            self.registry.remove(name)
            self.log.emit(CheckpointRemoved(step=step, path=name, reason=rule))

    def _write_registry(self, step: int) -> None:
        try:
            self.registry.save()
        except PublishError as error:
            # It can be rebuilt from the files; what counts is that they are there.
            self._failed(REGISTRY_NAME, step, error.stage, error)

    def _foresee_full_disk(self, num_bytes: int, step: int) -> None:
        """Two files of this size at most are written; when they will not fit, say so before, and try all the same."""
        if shutil.disk_usage(self.directory).free < 2 * num_bytes:
            self.tell_disk(step)

    def _failed(self, path: str, step: int, stage: str, error: Exception) -> None:
        kept = "latest.pt" if (self.directory / "latest.pt").exists() else ""
        self.log.emit(CheckpointFailed(step=step, path=path, stage=stage, error=str(error), kept=kept))
        if not kept and (self.directory / "latest_backup.pt").exists():
            self.restore_latest("latest_backup.pt", "a failed save left no latest.pt", step)

    def tell_disk(self, step: int) -> None:
        """How much the checkpoints take, by kind, and how many saves still fit. Links of one file count once."""
        bytes_by_kind: dict[str, int] = {}
        count_by_kind: dict[str, int] = {}
        seen: set[int] = set()
        for entry in self.registry.entries.values():
            count_by_kind[entry.kind] = count_by_kind.get(entry.kind, 0) + 1
            try:
                inode = (self.directory / entry.path).stat().st_ino
            except OSError:
                continue
            bytes_by_kind[entry.kind] = bytes_by_kind.get(entry.kind, 0) + (0 if inode in seen else entry.bytes)
            seen.add(inode)
        free = shutil.disk_usage(self.directory).free
        fits = free // (2 * self.last_bytes) if self.last_bytes else None
        self.log.emit(
            Disk(
                step=step,
                bytes_by_kind=bytes_by_kind,
                count_by_kind=count_by_kind,
                free_bytes=free,
                saves_that_fit=fits,
            )
        )
