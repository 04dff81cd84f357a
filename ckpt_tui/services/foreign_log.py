"""What files tell of a run whose log is another program's, joined to what its log tells.

Such a log often tells no times and no checkpoints. The times come from the files: a checkpoint of step 500 that was
written at 12:00 says when step 500 was; a line that came between two looks at the log was written between them. Steps
between two such moments are taken to be even. The checkpoints come from their names, and what a name does not say
from the file. What neither tells stays unknown.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import BadLine, CheckpointSaved, Eval, Event, RunStart, Step
from ckpt_tui.services.checkpoint_places import FoundSave, checkpoint_places, found_saves
from ckpt_tui.sources.base import CHUNK_BYTES, Batch, EventSource
from ckpt_tui.sources.chosen import AroundSource

MAX_ANCHORS = 2000
_SETTINGS = ("hparams.yaml", "args.yaml", "params.yaml", "hyperparameters.yaml")
LOOK_EVERY_S = 2.0
MAX_STAMPED = 2000
SAVED_WITHIN_S = 5.0  # the row of an epoch may be written after its checkpoint
COPIED_AFTER_S = 3600.0  # a checkpoint this long after the last line was not written then
FASTEST_STEPS_PER_S = 10_000.0  # files whose times say more were copied


class ForeignLog(AroundSource):
    """A foreign source with its undated events dated, and the checkpoints of the directory among them."""

    def __init__(self, source: EventSource, directory: str, clock: Callable[[], float] | None = None) -> None:
        super().__init__(source)
        self._directory = directory
        self._clock = clock or time.time
        self._anchors: list[tuple[int, float]] = []  # a step, and when it was: both rise
        self._saves: list[FoundSave] = []  # not told yet
        self._told_saves: set[tuple[str, float]] = set()
        self._steps_of: dict[tuple[str, float], int | None] = {}  # read out of the files
        self._stamp: tuple[object, ...] = ()
        self._looked_at = float("-inf")
        self._num_polls = 0
        self._last_step = 0
        self._last_ts: float | None = None
        self._told_ts = 0.0  # of the last event that was told
        self._unit = "step"
        self._undated_saves: list[FoundSave] = []  # which only their times put in their place
        self._recent: deque[tuple[int, float]] = deque(maxlen=1024)  # step and time of what was told
        self._has_caught_up = False

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        batch = self._source.poll(max_bytes)
        starts = [event for event in batch.events if isinstance(event, RunStart)]
        if starts:
            self._unit = str(starts[-1].extra.get("step_unit", "step"))
        if not getattr(self._source, "is_foreign", False):
            return batch  # nothing has come yet, or ours
        if batch.restarted:
            self._tell_anew(is_another=bool(batch.notices))
        self._look_for_saves()
        self._num_polls += 1
        mtime = self._mtime()
        events = self._dated(batch, mtime)
        events = self._with_saves(events, is_end=batch.is_caught_up)
        if batch.is_caught_up and events:
            self._has_caught_up = True
        return replace(batch, events=events)

    def _tell_anew(self, *, is_another: bool) -> None:
        """The log is told from its start again: everything beside it, too."""
        if is_another:
            self._anchors = []
        self._told_saves.clear()
        self._saves.clear()
        self._undated_saves.clear()
        self._recent.clear()
        self._stamp, self._looked_at = (), float("-inf")
        self._last_step, self._last_ts, self._has_caught_up = 0, None, False

    # -- times ----------------------------------------------------------------------------------------------------

    def _mtime(self) -> float | None:
        try:
            path = self._source.path
            return os.stat(path).st_mtime if not os.path.isdir(path) else None
        except OSError:
            return None

    def _dated(self, batch: Batch, mtime: float | None) -> list[Event | BadLine]:
        undated = [event for event in batch.events if isinstance(event, Event) and not event.ts]
        if not undated:
            for event in batch.events:
                if isinstance(event, Event):
                    self._last_step, self._last_ts = max(self._last_step, event.step), event.ts
            return batch.events
        newest_step = max(event.step for event in undated)
        if mtime is not None and batch.is_caught_up:
            if self._has_caught_up and self._last_ts is not None:
                self._anchor(self._last_step, self._last_ts)  # since the last look
            self._anchor(newest_step, mtime)
        dated: list[Event | BadLine] = []
        for event in batch.events:
            if isinstance(event, Event) and not event.ts:
                event = msgspec.structs.replace(event, ts=self._when(event.step, mtime))
            if isinstance(event, Event):
                self._last_step, self._last_ts = max(self._last_step, event.step), event.ts
            dated.append(event)
        return dated

    def _anchor(self, step: int, ts: float) -> None:
        """Remember when a step was, where that agrees with what is known: time goes on with the steps."""
        at = bisect_right(self._anchors, (step, float("inf")))
        before = self._anchors[at - 1] if at else None
        after = self._anchors[at] if at < len(self._anchors) else None
        if before is not None and (before[0] >= step or before[1] >= ts):
            return
        if after is not None and after[1] <= ts:
            return
        if before is not None and (step - before[0]) > FASTEST_STEPS_PER_S * (ts - before[1]):
            return
        self._anchors.insert(at, (step, ts))
        if len(self._anchors) > MAX_ANCHORS:
            del self._anchors[1:-1:2]

    def _when(self, step: int, mtime: float | None) -> float:
        anchors = self._anchors
        if not anchors:
            return mtime if mtime is not None else self._clock()
        at = bisect_right(anchors, (step, float("inf")))
        if at == 0:
            return anchors[0][1]
        (low, low_ts) = anchors[at - 1]
        if at < len(anchors):
            (high, high_ts) = anchors[at]
            return low_ts + (high_ts - low_ts) * (step - low) / (high - low)
        if at < 2:
            return low_ts
        pace = (low_ts - anchors[at - 2][1]) / (low - anchors[at - 2][0])  # the log is still being read
        return min(low_ts + pace * (step - low), mtime) if mtime is not None else low_ts

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _look_for_saves(self) -> None:
        now = self._clock()
        if 0 <= now - self._looked_at < LOOK_EVERY_S and self._num_polls > 1:
            return
        self._looked_at = now
        stamp = self._places_stamp()
        # A file whose name does not tell its step is opened once the first picture is there.
        if stamp == self._stamp and self._num_polls != 1:
            return
        self._stamp = stamp
        if not self._anchors:
            self._anchor_start()
        waiting = {(save.name, save.ts) for save in self._saves}
        for save in found_saves(self._directory):
            key = (save.name, save.ts)
            if key in self._told_saves or key in waiting:
                continue
            if self._unit != "step":  # its steps are epochs: that of the file is another count
                self._undated_saves.append(save)
                self._told_saves.add(key)
                continue
            step = save.step if save.step is not None else self._step_inside(save)
            if step is None:
                continue
            save = replace(save, step=step)
            self._saves.append(save)
            if save.step:
                self._anchor(step, save.ts)
        self._saves.sort(key=lambda save: (save.step or 0, save.ts))

    def _places_stamp(self) -> tuple[object, ...]:
        stamps: list[object] = []
        for place in ("", *checkpoint_places(self._directory)):
            try:
                with os.scandir(os.path.join(self._directory, place)) as listing:
                    for _, entry in zip(range(MAX_STAMPED), listing, strict=False):
                        stamps.append((entry.name, entry.stat().st_mtime_ns))
            except OSError:
                continue
        return tuple(stamps)

    def _anchor_start(self) -> None:
        """The settings file beside the log is written when the training begins."""
        log = self._source.path
        beside = log if os.path.isdir(log) else os.path.dirname(os.path.abspath(log))
        for name in _SETTINGS:
            try:
                self._anchor(0, os.stat(os.path.join(beside, name)).st_mtime)
                return
            except OSError:
                continue

    def _step_inside(self, save: FoundSave) -> int | None:
        if self._num_polls < 1:
            return None
        key = (save.name, save.ts)
        if key not in self._steps_of:
            from ckpt_tui.checkpoints.registry import open_checkpoint

            try:
                step = open_checkpoint(save.path).progress.get("step")
            except (CkptError, OSError):
                step = None
            self._steps_of[key] = step if isinstance(step, int) and not isinstance(step, bool) else None
        return self._steps_of[key]

    def _with_saves(self, events: list[Event | BadLine], *, is_end: bool) -> list[Event | BadLine]:
        """The checkpoints that were found, each behind the steps that it holds."""
        if not self._saves and not any(isinstance(event, CheckpointSaved) for event in events):
            told_at = [(event.step, event.ts) for event in events if isinstance(event, Step | Eval)]
            if told_at:
                self._recent.extend(told_at)
                self._told_ts = told_at[-1][1]
            return [*events, *self._saves_by_time()] if is_end and self._recent else events
        steps_found = {save.step for save in self._saves} | set(self._steps_of.values())
        names_found = {os.path.basename(save.name) for save in self._saves}
        told: list[Event | BadLine] = []
        for event in events:
            if isinstance(event, Event):
                while self._saves and (self._saves[0].step or 0) < event.step:
                    told.append(self._event_of(self._saves.pop(0), before_ts=event.ts))
                self._told_ts = event.ts
                if isinstance(event, CheckpointSaved):
                    is_found = os.path.basename(event.path) in names_found or event.step in steps_found
                    if is_found or self._is_told(event):
                        continue  # the file tells more of itself than the log
                    event = msgspec.structs.replace(event, path=self._relative(event.path))
            told.append(event)
        self._recent.extend((event.step, event.ts) for event in events if isinstance(event, Step | Eval))
        if is_end and self._recent:
            told += self._saves_by_time()
        if is_end and (told or self._has_caught_up):
            told += [self._event_of(save, self._told_ts + COPIED_AFTER_S) for save in self._saves]
            self._saves.clear()
        return told

    def _saves_by_time(self) -> list[Event]:
        """Checkpoints behind the last row that was written before them, where rows tell their times."""
        placed: list[Event] = []
        for save in self._undated_saves:
            step = next((step for step, ts in reversed(self._recent) if ts <= save.ts + SAVED_WITHIN_S), None)
            if step is not None and self._recent[0][1] < self._recent[-1][1]:
                placed.append(self._event_of(replace(save, step=step), self._told_ts + COPIED_AFTER_S))
        self._undated_saves.clear()
        return placed

    def _is_told(self, event: CheckpointSaved) -> bool:
        name = os.path.basename(event.path)
        return bool(name) and any(os.path.basename(told) == name for told, _ in self._told_saves)

    def _event_of(self, save: FoundSave, before_ts: float) -> Event:
        """Of a file that was copied the time is that of its copy: it was written between the lines around it."""
        self._told_saves.add((save.name, save.ts))
        ts = save.ts if self._told_ts <= save.ts <= before_ts else self._told_ts
        return CheckpointSaved(ts=ts, session=1, step=save.step or 0, path=save.name, kind=save.kind,
                               bytes=save.size_bytes)  # fmt: skip

    def _relative(self, path: str) -> str:
        """The path that a log names, relative to the run directory; with `./` before it where nobody can tell whether
        it is still there, for it is relative to where the training was started."""
        if not path:
            return path
        if os.path.isabs(path):
            relative = os.path.relpath(path, os.path.abspath(self._directory))
            return path if relative.startswith("..") else relative
        place = os.path.dirname(path)
        is_here = bool(place) and os.path.isdir(os.path.join(self._directory, place))
        is_there = os.path.lexists(os.path.join(self._directory, path))
        return path if path.startswith(("./", "../")) or (is_here and not is_there) else f"./{path}"
