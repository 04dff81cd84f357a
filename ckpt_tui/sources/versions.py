"""A directory of versions, as Lightning makes one for each start: the newest is read, also when it comes later."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from ckpt_tui.sources.base import CHUNK_BYTES, Batch, EventSource
from ckpt_tui.sources.chosen import AroundSource
from ckpt_tui.sources.places import newest_version
from ckpt_tui.text import safe_text

LOOK_EVERY_S = 2.0


class VersionsSource(AroundSource):
    """The log of the newest version below the run directory. find: the source that is to be read there now."""

    def __init__(
        self,
        source: EventSource,
        version: str,
        directory: str,
        find: Callable[[str], EventSource | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(source)
        self._version = version
        self._directory = directory
        self._find = find
        self._clock = clock
        self._looked_at = clock()
        self._has_changed = False

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        notices = self._look()
        batch = self._source.poll(max_bytes)
        if not self._has_changed:
            return batch
        if batch.events:  # until something is told there, what the version before told stays
            self._has_changed = False
        return replace(batch, notices=(*notices, *batch.notices), restarted=bool(batch.events))

    def _look(self) -> tuple[str, ...]:
        now = self._clock()
        if 0 <= now - self._looked_at < LOOK_EVERY_S:
            return ()
        self._looked_at = now
        newest = newest_version(os.path.dirname(self._version))
        if newest is None or newest == self._version:
            return ()
        found = self._find(self._directory)
        version = version_of(found.path, self._directory) if found is not None else None
        if found is None or version is None or version == self._version:
            return ()  # nothing is told there yet
        self._source, self._version, self._has_changed = found, version, True
        where = safe_text(os.path.relpath(version, self._directory), 60)
        return (f"another training began: {where} is read now",)


def version_of(log: str, directory: str) -> str | None:
    """Which of the versions below the run directory a log lies in, or is; None where it is in none."""
    log, directory = os.path.abspath(log), os.path.abspath(directory)
    for version in (log, os.path.dirname(log)):
        if version != directory and newest_version(os.path.dirname(version)) == version:
            return version
    return None
