"""What a run's own records say of a checkpoint file: its digest and step, from `registry.json` or the event log.

A record counts only while it can be about this very file: same name, same size, nothing put in its place since.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ckpt_tui.services.registry import read_registry

LOG_NAME = "events.jsonl"
_MAX_LOG_BYTES = 8 * 1024 * 1024  # of the log's end: the saves of the files that are still there
_CLOCK_SLACK_S = 2.0


@dataclass(frozen=True, slots=True)
class RecordedFacts:
    """digest: `algorithm:hex` or "". step: None when not told. is_certain: the record's time is the file's, too, so
    that a digest which differs means that the content changed under the file system, not that it was replaced."""

    digest: str
    step: int | None
    is_certain: bool

    def digest_for(self, has_own_checksums: bool) -> str | None:
        """The digest that is worth checking. Where the format has checksums of its own, only a cheap and certain one:
        a valid file that somebody put there meanwhile is not damage."""
        if has_own_checksums and not (self.is_certain and self.digest.startswith("crc32:")):
            return None
        return self.digest or None


NOTHING = RecordedFacts("", None, False)


def recorded_facts(path: str) -> RecordedFacts:
    """What the records in the directory of `path` say of that file. Never raises; `NOTHING` when they say nothing."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return NOTHING
    directory, name = os.path.split(os.path.realpath(path))
    for entry in read_registry(directory):
        if entry.name == name and entry.size_bytes == status.st_size and entry.digest:
            return RecordedFacts(entry.digest, entry.step, entry.describes(status) and entry.mtime is not None)
    return _from_log(Path(directory) / LOG_NAME, name, status)


def _from_log(log: Path, name: str, status: os.stat_result) -> RecordedFacts:
    from ckpt_tui.events.codec import decode
    from ckpt_tui.events.schema import CheckpointRestored, CheckpointSaved

    try:
        with open(log, "rb") as file:
            file.seek(max(log.stat().st_size - _MAX_LOG_BYTES, 0))
            tail = file.read(_MAX_LOG_BYTES)
    except OSError:
        return NOTHING
    needle = name.encode("utf-8", "replace")
    for line in reversed(tail.split(b"\n")):
        if b'"checkpoint_' not in line or needle not in line:
            continue
        event = decode(line)
        if isinstance(event, CheckpointRestored) and event.path == name:
            return NOTHING  # another file's content was put there
        if isinstance(event, CheckpointSaved) and name in (event.path, *event.names):
            if event.bytes != status.st_size or not event.digest:
                return NOTHING
            return RecordedFacts(event.digest, event.step, status.st_mtime <= event.ts + _CLOCK_SLACK_S)
    return NOTHING
