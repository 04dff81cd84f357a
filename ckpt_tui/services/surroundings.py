"""What is known of a run beside its log: which names its directory holds, and whether its process lives. Only reads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.state import NextStart
from ckpt_tui.services.system import LOCK_NAME, has_let_go, holder_after, process_is_alive

ALIVE_EVERY_S = 1.0
_STARTS = frozenset({"supervisor.json", "launch.json"})  # as in supervisor_record.py and launch_record.py
COPY_EVERY_S = 10.0  # of a copy only: it looks through all that a process has open


def run_directory(path: str) -> str:
    """The run directory of a path that is one, or is a log file in one."""
    return path if Path(path).is_dir() else os.path.dirname(path) or "."


class Surroundings:
    """Looks at a run directory; asked every tick, it asks the system only as often as it has to."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._names: frozenset[str] | None = None
        self._names_stamp: tuple[int, int] | None = None
        self._places: tuple[tuple[tuple[str, int], ...], frozenset[str]] | None = None
        self._alive: bool | None = None
        self._alive_asked: tuple[float, ProcessIdentity] | None = None
        self._begun: NextStart | None = None  # a session that holds the lock and has not told of itself yet
        self._own_home = directory  # as the log has it: with links resolved
        self._copy_asked: tuple[float, str, int, bool] | None = None
        self._start_asked: tuple[float, object, NextStart | None] | None = None

    def beside(self, now: float, process: ProcessIdentity, home: str = "") -> Beside:
        """process: that of the run's last session. home: the directory that it wrote to, as the log says."""
        is_alive = self.is_alive(now, process)
        trains_in = home if is_alive and home and self._is_of_another(now, home, process.pid, process.host) else ""
        names = self.names()
        next_start = self._next_start(now, names, process, is_alive=bool(is_alive)) if names is not None else None
        if self._begun is not None:
            is_its = next_start is not None and next_start.pid > 0  # that record knows more of it
            next_start = replace(next_start, holds_lock=True) if next_start is not None and is_its else self._begun
        return Beside(
            is_process_alive=is_alive, existing_names=names, trains_in=trains_in, next_start=next_start
        )  # fmt: skip

    def names(self) -> frozenset[str] | None:
        """What is in the directory, the same object while it has not changed; None when it cannot be listed."""
        try:
            facts = os.stat(self.directory)
            stamp = (facts.st_mtime_ns, facts.st_ino)
            if stamp != self._names_stamp:
                self._names = frozenset(os.listdir(self.directory))
                self._names_stamp = stamp
                self._places = None
            if LOG_NAME not in (self._names or ()):
                return self._with_places(self._names or frozenset())
        except OSError:
            self._names, self._names_stamp = None, None
        return self._names

    def _with_places(self, names: frozenset[str]) -> frozenset[str]:
        """The names with those of another trainer's checkpoints in directories below, as `weights/last.pt`."""
        from ckpt_tui.services.checkpoint_places import checkpoint_places

        places = checkpoint_places(self.directory)
        stamp = tuple((place, os.stat(os.path.join(self.directory, place)).st_mtime_ns) for place in places)
        if self._places is None or self._places[0] != stamp:
            inside = (f"{place}/{name}" for place in places for name in os.listdir(os.path.join(self.directory, place)))
            self._places = (stamp, names.union(inside))
        return self._places[1]

    def _is_of_another(self, now: float, home: str, pid: int, host: str) -> bool:
        """Whether this is a copy of where that live process trains."""
        if home == self._own_home or _is_same(home, self.directory):
            self._own_home = home
            return False
        asked = self._copy_asked
        if asked is None or asked[1:3] != (home, pid) or not 0 <= now - asked[0] < COPY_EVERY_S:
            from ckpt_tui.services.copied_record import is_of_another

            is_of_it = is_of_another(self.directory, home, pid, host)
            asked = self._copy_asked = (now, home, pid, is_of_it)
        return asked[3]

    def _next_start(
        self, now: float, names: frozenset[str], process: ProcessIdentity, *, is_alive: bool
    ) -> NextStart | None:
        """Whether somebody is about to train where nobody does. is_alive: `process` is there, though it may have said
        its end: then nothing is looked at again before a record was replaced."""
        if _STARTS.isdisjoint(names):
            return None
        asked, of_what = self._start_asked, (self._names_stamp, process, is_alive)
        is_known = asked is not None and asked[1] == of_what and (is_alive or 0 <= now - asked[0] < ALIVE_EVERY_S)
        if asked is None or not is_known:
            from ckpt_tui.services.coming_start import coming_start

            asked = self._start_asked = (now, of_what, coming_start(self.directory, now, names, process))
        return asked[2]

    def is_alive(self, now: float, process: ProcessIdentity) -> bool | None:
        """Whether that process lives; None when nobody can know."""
        asked = self._alive_asked
        if asked is None or asked[1] != process or not 0 <= now - asked[0] < ALIVE_EVERY_S:
            self._alive, self._begun = self._looked_at(process)
            self._alive_asked = (now, process)
        return self._alive

    def _looked_at(self, process: ProcessIdentity) -> tuple[bool | None, NextStart | None]:
        """A lock is let go when its owner dies, wherever that is and whatever the clock says: where it is held,
        somebody trains. That may be the next session, which has told nothing yet."""
        alive = process_is_alive(process)
        holder = holder_after(self.directory, process) if not alive else None
        if holder is None:
            is_over = alive is None and process.is_in_another_container and has_let_go(self.directory, process)
            return (False if is_over else alive), None
        is_another = holder.pid != process.pid or (holder.birth and process.birth and holder.birth != process.birth)
        is_next = alive is False and holder.pid > 0 and is_another and process_is_alive(holder) is not False
        if not is_next:
            return True, None
        try:
            begun_at = os.stat(os.path.join(self.directory, LOCK_NAME)).st_mtime
        except OSError:
            begun_at = holder.pid_started
        return alive, NextStart(started_at=begun_at, pid=holder.pid, holds_lock=True)


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False
