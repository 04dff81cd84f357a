"""Room on the disk: foreseen before a save, made by what retention lets go, told in the log."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from ckpt_tui.events.schema import CheckpointRemoved, Disk, Event
from trainer.checkpoint import names
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish import PublishError
from trainer.checkpoint.publish_directory import remove_directory
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.retention import judged, removable

_TELL_EVERY = 10
# For the registry, the log, and whatever else writes a little.
_MARGIN_BYTES = 1 << 20
_UNKNOWN = 1 << 62


class Room:
    """The disk under one run directory. protected: names that never go."""

    def __init__(
        self,
        directory: str,
        policy: Policy,
        registry: Registry,
        emit: Callable[[Event], None],
        say: Callable[[str], None],
    ) -> None:
        self._directory, self._policy, self._registry, self._emit, self._say = directory, policy, registry, emit, say
        self._num_saves = 0
        self._is_tight = False
        self.protected: frozenset[str] = frozenset()

    def make(self, step: int, coming: list[str], copy_bytes: int, *, num_copies: int) -> bool:
        """See to it that so many copies of `copy_bytes` fit; False when only one does.

        coming: names that the save at `step` writes. Raises PublishError when not even one fits.
        """
        self._num_saves += 1
        needed = copy_bytes * num_copies + _MARGIN_BYTES
        is_tight = self._free() < needed
        if is_tight or self._num_saves % _TELL_EVERY == 0:
            self.tell(step, copy_bytes * num_copies)
        if is_tight:
            self._prune_until(step, coming, needed)
        free = self._free()
        if free >= needed:
            self._is_tight = False
            return True
        if not self._is_tight:
            self._is_tight = True
            self._say(f"the disk under {self._directory} is full: {free:,} bytes free, a save needs {needed:,}")
        if free < copy_bytes + _MARGIN_BYTES:
            needed = copy_bytes + _MARGIN_BYTES
            raise PublishError("write", f"{needed:,} bytes are needed and {free:,} are free on the disk")
        self._say(f"no room for an independent copy of {coming[0]}: the backups stay as they are")
        return False

    def prune(self, step: int, coming: list[str], copy_bytes: int) -> bool:
        """The disk was full after all: remove what may go; whether anything did."""
        self.tell(step, copy_bytes)
        return self._prune_until(step, coming, copy_bytes + _MARGIN_BYTES, at_least=1) > 0

    def retire(self, step: int, written: list[str]) -> list[tuple[str, str]]:
        """Remove what retention lets go now that `written` is proven; (name, rule) of each."""
        try:
            return [(name, rule) for name, rule in self._removable(step, written) if self._remove(name)]
        except OSError as error:
            self._say(f"nothing was removed from {self._directory}: {error.strerror}")
            return []

    def told_gone(self, step: int, gone: list[tuple[str, str]]) -> None:
        for name, rule in gone:
            self._emit(CheckpointRemoved(step=step, path=name, reason=rule))

    def tell(self, step: int, save_bytes: int) -> None:
        """The `disk` event. Bytes that several names share are counted once, for the kind that comes first."""
        bytes_by_kind = dict.fromkeys(names.KINDS, 0)
        count_by_kind = dict.fromkeys(names.KINDS, 0)
        seen = set()
        for entry in sorted(self._registry.entries.values(), key=lambda entry: names.KINDS.index(entry["kind"])):
            count_by_kind[entry["kind"]] += 1
            if entry["inode"] not in seen:
                seen.add(entry["inode"])
                bytes_by_kind[entry["kind"]] += entry["bytes"]
        free = self._free()
        self._emit(
            Disk(
                step=step, bytes_by_kind=bytes_by_kind, count_by_kind=count_by_kind, free_bytes=free,
                saves_that_fit=free // max(save_bytes, 1) if free != _UNKNOWN else None,
            )
        )  # fmt: skip

    def _free(self) -> int:
        """As far as one can tell: a filesystem that does not say may be asked by writing."""
        try:
            return shutil.disk_usage(self._directory).free
        except OSError:
            return _UNKNOWN

    def _prune_until(self, step: int, coming: list[str], needed: int, *, at_least: int = 0) -> int:
        """Remove what the save at `step` would let go, oldest first, until `needed` bytes are free.

        The newest of what is there stays, whatever is allowed: the new one is not proven yet.
        """
        gone: list[tuple[str, str]] = []
        try:
            candidates = self._removable(step, coming, is_full=True)
        except OSError:
            return 0
        for name, rule in candidates:
            if self._free() >= needed and len(gone) >= at_least:
                break
            if self._remove(name):
                gone.append((name, f"{rule}, before the save: the disk is full"))
        self.told_gone(step, gone)
        return len(gone)

    def _removable(self, step: int, coming: list[str], *, is_full: bool = False) -> list[tuple[str, str]]:
        """What goes when `coming` is there, oldest first."""
        there = {name.name: name for name in names.checkpoints_in(self._directory)}
        abandoned = self._registry.abandoned()
        # Of the run's own branch: one that was left is no help when the new save fails.
        own = [
            (name.step, name.name)
            for name in there.values()
            if name.step is not None and name.step <= step and name.name not in abandoned
        ]
        newest = max(own)[1] if own and is_full else ""
        for name in coming:
            read = names.read_name(name)
            if read is not None:
                there.setdefault(name, read)
        verdicts = judged(
            there.values(), self._policy, step=step, protected={*self.protected, *coming, newest},
            pinned=names.pinned_in(self._directory), abandoned=abandoned,
            scores=self._registry.scores(self._policy.monitor), is_full=is_full,
        )  # fmt: skip
        return removable(verdicts)

    def _remove(self, name: str) -> bool:
        path = os.path.join(self._directory, name)
        try:
            if os.path.isdir(path):
                remove_directory(path)
            else:
                os.unlink(path)
        except OSError as error:
            self._say(f"{name} could not be removed: {error.strerror}")
            return False
        return True
