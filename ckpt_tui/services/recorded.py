"""What a run's own records say of a checkpoint file: its digest and step, from `registry.json` or the event log.

A record counts only while it can be about this very file: same name, same size, nothing put in its place since.
`expected_of` is the one rule for what a validation holds a checkpoint against: the command, the screens, `restore`,
`resume` and `list --check` all ask it, so that they agree.
"""

from __future__ import annotations

import os

from ckpt_tui.checkpoints.archive import records_checksums
from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
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


@dataclass(frozen=True, slots=True)
class Expected:
    """What a validation is to hold a checkpoint against; None for what is not to be held against anything."""

    digest: str | None = None
    step: int | None = None


def expected_of(path: str) -> Expected:
    """What the checkpoint at `path` has to be, by the run's records. Never raises."""
    recorded = recorded_facts(path)
    if recorded is NOTHING:
        return Expected()
    step = recorded.step if recorded.is_certain else None
    digest = recorded.digest_for(has_own_checksums=True) or recorded.digest_for(records_checksums(path))
    return Expected(digest, step)


def recorded_facts(path: str) -> RecordedFacts:
    """What the records in the directory of `path` say of that file. Never raises; `NOTHING` when they say nothing."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return NOTHING
    directory, name = os.path.split(os.path.realpath(path))
    for entry in read_registry(directory):
        if entry.name == name and entry.size_bytes == status.st_size and entry.digest:
            return RecordedFacts(entry.digest, entry.step, entry.describes(status) and entry.mtime is not None)
    return _from_log(os.path.join(directory, LOG_NAME), name, status)


def _from_log(log: str, name: str, status: os.stat_result) -> RecordedFacts:
    saved = _saves_in(log).get(name)
    if saved is None or saved.size_bytes != status.st_size or not saved.digest:
        return NOTHING
    return RecordedFacts(saved.digest, saved.step, status.st_mtime <= saved.ts + _CLOCK_SLACK_S)


@dataclass(frozen=True, slots=True)
class _Save:
    """The last save under a name; without a digest when another file's content was put there since."""

    digest: str
    step: int
    size_bytes: int
    ts: float


_remembered: tuple[tuple[str, int, int, int], dict[str, _Save]] | None = None


def _saves_in(log: str) -> dict[str, _Save]:
    """The last save under each name, from the end of the log; read again only when the log has changed."""
    global _remembered
    try:
        with open_regular(log) as file:
            status = os.fstat(file.fileno())
            key = (log, status.st_ino, status.st_size, status.st_mtime_ns)
            known = _remembered  # one look: another thread may replace it
            if known is not None and known[0] == key:
                return known[1]
            file.seek(max(status.st_size - _MAX_LOG_BYTES, 0))
            tail = file.read(_MAX_LOG_BYTES)
    except OSError:
        return {}
    from ckpt_tui.events.codec import decode
    from ckpt_tui.events.schema import CheckpointRestored, CheckpointSaved

    saves: dict[str, _Save] = {}
    position = tail.find(b'"checkpoint_')
    while position >= 0:  # nearly every line is a step: they are jumped over
        start, end = tail.rfind(b"\n", 0, position) + 1, tail.find(b"\n", position)
        end = len(tail) if end < 0 else end
        event = decode(tail[start:end])
        if isinstance(event, CheckpointRestored):
            saves[event.path] = _Save("", event.step, 0, event.ts)
        elif isinstance(event, CheckpointSaved):
            save = _Save(event.digest, event.step, event.bytes, event.ts)
            saves.update(dict.fromkeys((event.path, *event.names), save))
        position = tail.find(b'"checkpoint_', end)
    _remembered = (key, saves)
    return saves
