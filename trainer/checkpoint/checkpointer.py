"""Saves, keeps and finds the checkpoints of one run directory, from any training loop:

    checkpoints = Checkpointer("runs/mine", log=log)
    if source := checkpoints.find("auto"):
        model.load_state_dict(source.state["model"])
    ...
        checkpoints.poll()
        checkpoints.save({"step": step, "model": model.state_dict(), "optimizer": ...}, {"rolling"})
    checkpoints.close()

Two calls never raise for what files and disks do: a save that failed is told (log, terminal) and training goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ckpt_tui.events.lineage import Lineage, resumed
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.background import Background, Lines
from trainer.checkpoint.lineage import new_segment
from trainer.checkpoint.lock import DirectoryLock
from trainer.checkpoint.plain import refuse_objects
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish import make_directory, remove_leftovers
from trainer.checkpoint.registry import Registry, number_in
from trainer.checkpoint.resume import Source, find
from trainer.checkpoint.save import Saver
from trainer.checkpoint.settle import settle
from trainer.errors import UsageError
from trainer.signals import Signals

KINDS = frozenset({"rolling", "emergency", "best", "epoch"})


def _print(line: str) -> None:
    print(line, flush=True)


class Checkpointer:
    """The checkpoints of `directory`, which is made if it is missing.

    log: where events go; None: nowhere.
    needed: keys without which a checkpoint is not one to resume from.
    takes_lock: take the directory's lock until `close`, and clear what dead sessions left half written. False: the
    caller did. Raises UsageError when another process trains there.
    say: gets lines for a person.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        policy: Policy | None = None,
        *,
        log: EventWriter | None = None,
        needed: Collection[str] = ("step",),
        takes_lock: bool = True,
        say: Callable[[str], None] = _print,
    ) -> None:
        self.directory = os.fspath(directory)
        self.policy = policy or Policy()
        self._log, self._needed, self._say = log, needed, say
        self._lock: DirectoryLock | None = None
        self._signals: Signals | None = None
        self._is_closed = False
        self._saving = threading.RLock()  # of several threads that save, one at a time
        try:
            make_directory(self.directory)
            if takes_lock:
                self._lock = DirectoryLock(self.directory)
                if self._lock.warning:
                    say(self._lock.warning)
                remove_leftovers(self.directory)
            self.registry = Registry(self.directory)
            # Not to know what is there is not the same as an empty directory: that would begin anew over a training.
            self.registry.sync()
        except BaseException as error:
            if self._lock is not None:
                self._lock.release()
            if isinstance(error, OSError):
                raise UsageError(f"{self.directory} cannot be used: {error.strerror or error}") from error
            raise
        # What a thread has to say waits for `poll`: a terminal is written by one thread.
        self._lines = Lines(say)
        self._background = Background()
        self._saver = Saver(self.directory, self.policy, log, self.registry, self._lines.tell)

    @property
    def last_step(self) -> int:
        """The step of the newest durable checkpoint of this session, the one it was resumed from included where that
        lies in the directory; -1: none."""
        return self._saver.last_step

    def find(self, wanted: str = "auto", *, settles: bool = True) -> Source | None:
        """The checkpoint that `wanted` means, verified and loaded, None when there is nothing yet (auto).

        wanted: auto (the newest valid of any kind), latest, best, a name in the directory or a path. Retention leaves
        it alone from now on. settles: False leaves everything as it is until `settle`.
        Raises UsageError when what was asked for is not there or cannot be used.
        """
        source = find(self.directory, wanted, self.registry, self._needed)
        if source is None:
            return None
        self.registry.lineage = resumed(source.lineage, new_segment(self._session, source.step, source.digest))
        source = self._with_best(source)
        if settles:
            self.settle(source)
        return source

    def go_back(self, at_most: int) -> Source | None:
        """The newest valid checkpoint of this run at step `at_most` or before, to go on from in this session.

        What was saved after it is left behind from now on, as after a resume from it. None when there is none.
        """
        self.wait()
        try:
            source = find(self.directory, "auto", self.registry, self._needed, at_most=at_most)
        except UsageError as error:
            self._say(str(error))
            return None
        if source is None:
            return None
        self.registry.lineage = resumed(source.lineage, new_segment(self._session, source.step, source.digest))
        source = self._with_best(source)
        self.settle(source)
        return source

    def _with_best(self, source: Source) -> Source:
        """With the best score that holds now: a person may have taken back what was the best when it was saved."""
        claimed = number_in(source.state, "best_metric")
        score = self.registry.best_score(self.policy.monitor, self.policy.monitor_mode, claimed)
        return source if score is None or score == claimed else source.with_best(score)

    def settle(self, source: Source) -> None:
        """Go on from `source`: quarantine what was found bad on the way to it, and tell the directory of the choice."""
        in_place = settle(source, self.registry, self._log, self._say)
        self._saver.resumed_from(source.name, in_place, source.step)

    @property
    def lineage(self) -> Lineage:
        """The sessions that led to what is saved from now on, this one last."""
        return self._begin()

    def _begin(self) -> Lineage:
        """A session that resumes from nothing begins anew, also where there are checkpoints."""
        if self.registry.lineage is None:
            self.registry.lineage = (new_segment(self._session),)
        return self.registry.lineage

    @property
    def _session(self) -> int:
        if self._log is not None:
            return self._log.session
        return 1 + max((entry["session"] for entry in self.registry.entries.values()), default=0)

    def save(self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str = "regular") -> None:
        """Save `state` as the latest checkpoint and one of each of `kinds`: rolling, emergency, best, epoch.

        When it returns, the tensors may change: what was saved are their values now. The file may still be on its way
        (`Policy.is_async`); a save that comes before it is there waits for it. checkpoint_type: regular, emergency.
        state: whatever a resume needs, tensors and plain values; "step" has to be in it. Raises TypeError for one that
        could not be loaded again, and says where in it what lies; UsageError after `close`.
        """
        self._refuse(state, kinds, checkpoint_type)
        if self.policy.save_best_only and kinds:
            kinds = set(kinds) & {"best", "emergency"}
            if not kinds:
                return
        started = time.monotonic()
        with self._saving:
            self.wait()
            self._begin()
            is_async = self.policy.is_async
            save = self._saver.take(state, kinds, checkpoint_type, started=started, is_async=is_async)
            if save is None:
                return
            if is_async:
                self._background.start(lambda: self._saver.write(save))
            else:
                self._saver.write(save)

    def save_now(
        self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str = "emergency"
    ) -> str | None:
        """As `save`, and wait until it is durable: the name that was written, None when that failed.

        A save in flight is finished first, but for its backups: whoever waits may have seconds to live.
        """
        self._refuse(state, kinds, checkpoint_type)
        started = time.monotonic()
        self._saver.is_urgent = True
        with self._saving:
            try:
                self.wait()
            finally:
                self._saver.is_urgent = False
            self._begin()
            save = self._saver.take(state, kinds, checkpoint_type, started=started, is_async=False)
            return self._saver.write(save) if save is not None else None

    def _refuse(self, state: Mapping[str, Any], kinds: Collection[str], checkpoint_type: str) -> None:
        if self._is_closed:
            raise UsageError(
                f"The Checkpointer of {self.directory} is closed and saves no more: the directory may be another"
                " process's by now. Save before `close`, or inside its `with`."
            )
        if isinstance(kinds, str) or not KINDS.issuperset(kinds):
            raise ValueError(f"kinds is {kinds!r:.60}: it must be a set of any of {', '.join(sorted(KINDS))}")
        if checkpoint_type not in ("regular", "emergency"):
            raise ValueError(f"checkpoint_type is {checkpoint_type!r:.60}: it must be regular or emergency")
        refuse_objects(state)

    def poll(self) -> None:
        """Tell what became of the save in flight. To be called at each step; costs next to nothing."""
        self._lines.deliver()

    def wait(self) -> None:
        """Until the save in flight is durable or has failed."""
        self._background.wait()
        self._lines.deliver()

    @contextmanager
    def handling_signals(self) -> Iterator[Signals]:
        """SIGTERM, SIGINT and SIGHUP set `should_stop` meanwhile, a second one ends the process at once."""
        with Signals() as self._signals:
            yield self._signals

    @property
    def should_stop(self) -> bool:
        """A signal asked to save and stop. To be asked between two steps."""
        return self._signals is not None and self._signals.stop is not None

    @property
    def exit_code(self) -> int:
        """What a process that stops as it was asked to exits with: 128 + signal; 0 when it was not asked."""
        stop = self._signals.stop if self._signals is not None else None
        return 128 + stop if stop is not None else 0

    def close(self) -> None:
        """Wait for the last save and let go of the directory. Nothing is saved from then on."""
        self._is_closed = True
        self.wait()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
