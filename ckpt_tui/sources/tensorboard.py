"""TensorBoard event files of a run: one file, or all in a directory and below it, as resumes leave them.

The files are read in the order in which they were begun. A later file goes on from its first step, and what an earlier
one told above that was trained again; a file that begins where the first one began is another training, and only that
is told.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import field
from pathlib import Path
from typing import ClassVar

from ckpt_tui.events.schema import BadLine, Event
from ckpt_tui.records import dataclass
from ckpt_tui.sources.base import CHUNK_BYTES, Batch
from ckpt_tui.sources.rows import Facts, Row, Teller
from ckpt_tui.sources.tfrecords import (
    FOOTER_BYTES,
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    TfEvent,
    decode_event,
    message_length,
    next_record,
)

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)?.*")
_MAX_FILES = 1000
_MAX_DEPTH = 3
_FIRST_BYTES = 64 * 1024
_FINGERPRINT_BYTES = 64
_MOST_BYTES = 64 * 1024  # in one poll: about 20 ms
_TAIL_BYTES = 64 * 1024
_RESYNC_BYTES = 1 << 20  # where a record is damaged: how far the next one is looked for at once
_EPOCH_TAGS = ("epoch", "train/epoch")
_END_TAGS = ("train/train_runtime", "train_runtime")  # transformers tells it when train() returns
_ARGS_TAG = "args/text_summary"  # transformers: the TrainingArguments as JSON
_NOT_METRICS = frozenset({"hp_metric"})  # Lightning's, a placeholder of -1


@dataclass(slots=True)
class _EventFile:
    """One file while it is followed. offset: up to which whole records were read."""

    path: str
    offset: int = 0
    head: bytes = b""
    identity: tuple[int, int] | None = None
    searched_to: int = 0  # no record begins between the offset and this
    rows: list[Row] = field(default_factory=list)


class TensorboardSource:
    """Follows the event files at `path`, and those that come."""

    kind: ClassVar[str] = "TensorBoard"
    is_foreign: ClassVar[bool] = True

    def __init__(self, path: str, facts: Facts | None = None) -> None:
        self._path = path
        self._given = facts
        self._was_there = False
        self._is_gone_said = False
        self._begin()

    @staticmethod
    def accepts(path: str, head: bytes) -> bool:
        """Whether a file that begins with `head` is one of ours: a whole record's length and its checksum."""
        if len(head) >= HEADER_BYTES:
            return bool(message_length(head[:HEADER_BYTES]))
        return not head and _NAME.fullmatch(os.path.basename(path)) is not None

    @property
    def path(self) -> str:
        return self._path

    @property
    def unfinished(self) -> BadLine | None:
        """A record that is not whole yet: TensorBoard writes in blocks, and the next completes it."""
        return None

    @property
    def position(self) -> int:
        """How many bytes of the files are read."""
        return sum(file.offset for file in self._files.values())

    def skip_to_last(self, num_lines: int) -> None:
        """Leave out all but the end of the file that was begun last, where records are found by their checksums."""
        paths = [path for path in event_files(self._path) if _first_step(path) is not None]
        if not paths or _size_of(paths[-1]) < 2 * _TAIL_BYTES:
            return
        try:
            with open(paths[-1], "rb") as file:
                self._take_head(file.read(_FIRST_BYTES))
                start = file.seek(max(_size_of(paths[-1]) - max(_TAIL_BYTES, 60 * num_lines), 0))
                begins = next_record(file.read(_RESYNC_BYTES), 0)
        except OSError:
            return
        if begins is not None:
            self._looked = True
            self._passed = frozenset(paths[:-1])
            self._files[paths[-1]] = _EventFile(paths[-1], start + begins)

    def _take_head(self, data: bytes) -> None:
        """The settings, which are told before all else."""
        at = 0
        while at + HEADER_BYTES <= len(data) and (length := message_length(data[at : at + HEADER_BYTES])):
            event = decode_event(data[at + HEADER_BYTES : at + HEADER_BYTES + length])
            if event is not None and _ARGS_TAG in event.texts:
                self._take_settings(event.texts[_ARGS_TAG])
            at += HEADER_BYTES + length + FOOTER_BYTES

    def _begin(self) -> None:
        self._files: dict[str, _EventFile] = {}
        self._passed = frozenset[str]()  # files of an earlier training in the same place
        facts = Facts(**{name: getattr(self._given, name) for name in Facts.__slots__}) if self._given else Facts()
        self._teller = Teller(self.kind, facts)
        self._looked = False

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        paths = event_files(self._path)
        notices: list[str] = []
        restarted = self._look_for_accidents(paths, notices)
        if not paths:
            return Batch([], tuple(notices))
        if not self._looked:
            self._looked = True
            self._passed = _of_earlier_trainings(paths)
            if self._passed:
                what = "training in the same place is" if len(self._passed) == 1 else "trainings in the same place are"
                notices.append(f"an earlier {what} not shown ({os.path.basename(sorted(self._passed)[0])})")
        events: list[Event | BadLine] = []
        left, total, done = min(max_bytes, _MOST_BYTES), 0, 0
        for path in paths:
            if path in self._passed:
                continue
            file = self._files.setdefault(path, _EventFile(path))
            size = _size_of(path)
            total += size
            while left > 0:
                num_read = self._read(file, min(left, CHUNK_BYTES), events)
                if not num_read:
                    break
                left -= num_read
            done += file.offset
            self._tell(file, events)
        return Batch(
            events,
            tuple(notices),
            restarted and bool(events),
            is_caught_up=left > 0,
            progress=min(done / total, 1.0) if total else 1.0,
        )

    def _look_for_accidents(self, paths: list[str], notices: list[str]) -> bool:
        """Whether what was read is not what is there: everything is told again then."""
        if not paths:
            if self._was_there and not self._is_gone_said:
                self._is_gone_said = True
                notices.append("the log is gone: it was deleted or moved")
            return False
        self._was_there, self._is_gone_said = True, False
        for path, file in self._files.items():
            if file.identity is None:
                continue
            try:
                facts = os.stat(path)
                with open(path, "rb") as opened:
                    head = opened.read(len(file.head))
            except OSError:
                continue  # gone: what it told stays told
            if facts.st_size < file.offset or head != file.head:
                notices.append(f"{os.path.basename(path)} was replaced or cut; read again from its start")
                self._begin()
                return True
        return False

    def _read(self, file: _EventFile, num_bytes: int, events: list[Event | BadLine]) -> int:
        """Read on in one file; how many bytes of whole records that were."""
        try:
            with open(file.path, "rb") as opened:
                facts = os.fstat(opened.fileno())
                if not file.head:
                    file.head = opened.read(_FINGERPRINT_BYTES)
                    file.head = file.head if len(file.head) == _FINGERPRINT_BYTES else b""
                file.identity = (facts.st_dev, facts.st_ino)
                opened.seek(file.offset)
                data = opened.read(num_bytes)
                if (length := message_length(data[:HEADER_BYTES]) if len(data) >= HEADER_BYTES else None) is None:
                    data += opened.read(max(_RESYNC_BYTES - len(data), 0))
                elif num_bytes < length + HEADER_BYTES + FOOTER_BYTES <= MAX_MESSAGE_BYTES:
                    data += opened.read(length + HEADER_BYTES + FOOTER_BYTES - len(data))
                size = facts.st_size
        except OSError:
            return 0
        at = 0
        while at + HEADER_BYTES <= len(data) and at < num_bytes:
            length = message_length(data[at : at + HEADER_BYTES])
            if not length:
                begins = next_record(data, max(at + 1, file.searched_to - file.offset))
                if begins is None:
                    file.searched_to = file.offset + max(len(data) - HEADER_BYTES, 0)
                    if at == 0 and len(data) >= _RESYNC_BYTES:  # no record in all of it: go on behind
                        begins = len(data) - HEADER_BYTES
                    else:
                        break
                events.append(_damaged(data, at, begins, file.offset))
                at = begins
                continue
            end = at + HEADER_BYTES + length + FOOTER_BYTES
            if file.offset + end > size:
                break  # being written
            if end > len(data):
                if length > MAX_MESSAGE_BYTES:
                    at = end  # passed over
                break
            event = decode_event(data[at + HEADER_BYTES : end - FOOTER_BYTES]) if length <= MAX_MESSAGE_BYTES else None
            if event is not None:
                self._take(file, event)
            elif length <= MAX_MESSAGE_BYTES:
                events.append(_damaged(data, at, end, file.offset))
            at = end
        file.offset += at
        return at

    def _take(self, file: _EventFile, event: TfEvent) -> None:
        """Scalars of one step are told one record each: gather them."""
        if _ARGS_TAG in event.texts:
            self._take_settings(event.texts[_ARGS_TAG])
        if not event.scalars:
            return
        step = event.step + (1 if self._counts_from_zero(file.path) else 0)
        if not file.rows or file.rows[-1].step != step:
            file.rows.append(Row(step=step))
        row = file.rows[-1]
        row.ts = event.wall_time or None
        for tag, value in event.scalars.items():
            if tag in _EPOCH_TAGS:
                row.epoch = value
            elif tag not in _NOT_METRICS:
                row.metrics[tag] = value
            if tag in _END_TAGS:
                row.end = "finished"

    def _tell(self, file: _EventFile, events: list[Event | BadLine]) -> None:
        for row in file.rows:
            if row.metrics or row.end:
                events += self._teller.events(row)
        file.rows.clear()

    def _take_settings(self, text: bytes) -> None:
        try:
            settings = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(settings, dict):
            self._teller.facts.config = {str(name): value for name, value in list(settings.items())[:500]}
            steps = settings.get("max_steps")
            if isinstance(steps, int) and steps > 0:
                self._teller.facts.total_steps = steps

    @staticmethod
    def _counts_from_zero(path: str) -> bool:
        """Lightning's step is the number of the batch that was trained last; its settings lie beside the file."""
        return os.path.exists(os.path.join(os.path.dirname(path), "hparams.yaml"))


def _damaged(data: bytes, begins: int, ends: int, data_offset: int) -> BadLine:
    """What stands between two places of `data`, which was read from that offset on."""
    return BadLine(
        reason="a damaged record", start=data[begins : begins + 200], num_bytes=ends - begins,
        offset=data_offset + begins,
    )  # fmt: skip


def event_files(path: str) -> list[str]:
    """The event files at `path` and below, in the order in which they were begun."""
    if os.path.isfile(path):
        return [path]
    found: list[tuple[int, str]] = []
    root = os.path.abspath(path)
    for folder, inside, names in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        inside[:] = sorted(name for name in inside if not name.startswith(".")) if depth < _MAX_DEPTH else []
        for name in names:
            match = _NAME.fullmatch(name)
            if match is not None and len(found) < _MAX_FILES:
                found.append((int(match[1] or 0), os.path.join(folder, name)))
    return [path for _, path in sorted(found)]


def _of_earlier_trainings(paths: list[str]) -> frozenset[str]:
    """The files before the last one that begins where the first began, or before that."""
    begins = [(path, step) for path in paths if (step := _first_step(path)) is not None]
    passed: list[str] = []
    lowest: int | None = None
    for at, (_, step) in enumerate(begins):
        if lowest is not None and step <= lowest:
            passed = [path for path, _ in begins[:at]]
        lowest = step if lowest is None else min(lowest, step)
    # Of files that were begun together (one for each part of what is logged) none is earlier.
    newest = {_begun(path) for path in paths if path not in passed}
    return frozenset(path for path in passed if _begun(path) + 60 < min(newest, default=0))


def _begun(path: str) -> int:
    match = _NAME.fullmatch(os.path.basename(path))
    return int(match[1] or 0) if match is not None else 0


def _first_step(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            data = file.read(_FIRST_BYTES)
    except OSError:
        return None
    at = 0
    while at + HEADER_BYTES <= len(data):
        length = message_length(data[at : at + HEADER_BYTES])
        if not length:
            return None
        event = decode_event(data[at + HEADER_BYTES : at + HEADER_BYTES + length])
        if event is not None and set(event.scalars) - _NOT_METRICS:
            return event.step
        at += HEADER_BYTES + length + FOOTER_BYTES
    return None


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
