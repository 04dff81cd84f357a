"""What is known of a run beside its log: which names its directory holds, and whether its process lives. Only reads."""

from __future__ import annotations

import os
from pathlib import Path

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.state import NextStart
from ckpt_tui.services.system import lock_owner, process_is_alive

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
        self._alive_asked: tuple[float, int, float] | None = None
        self._own_home = directory  # as the log has it: with links resolved
        self._copy_asked: tuple[float, str, int, bool] | None = None
        self._start_asked: tuple[float, object, NextStart | None] | None = None

    def beside(self, now: float, process: tuple[int, float, str], home: str = "") -> Beside:
        """process: pid, its start time and host of the run's last session. home: the directory that it wrote to, as
        the log says."""
        is_alive = self.is_alive(now, *process)
        trains_in = home if is_alive and home and self._is_of_another(now, home, process[0], process[2]) else ""
        names = self.names()
        next_start = self._next_start(now, names, process[0], is_alive=bool(is_alive)) if names is not None else None
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

    def _next_start(self, now: float, names: frozenset[str], pid: int, *, is_alive: bool) -> NextStart | None:
        """Whether somebody is about to train where nobody does. is_alive: process `pid` is there, though it may have
        said its end: then nothing is looked at again before a record was replaced."""
        if _STARTS.isdisjoint(names):
            return None
        asked, of_what = self._start_asked, (self._names_stamp, pid, is_alive)
        is_known = asked is not None and asked[1] == of_what and (is_alive or 0 <= now - asked[0] < ALIVE_EVERY_S)
        if asked is None or not is_known:
            from ckpt_tui.services.coming_start import coming_start

            asked = self._start_asked = (now, of_what, coming_start(self.directory, now, names, pid))
        return asked[2]

    def is_alive(self, now: float, pid: int, pid_started: float, host: str) -> bool | None:
        """Whether that process lives; None when nobody can know."""
        asked = self._alive_asked
        if asked is None or asked[1:] != (pid, pid_started) or not 0 <= now - asked[0] < ALIVE_EVERY_S:
            alive = process_is_alive(pid, pid_started, host)
            if alive is None and lock_owner(self.directory) is not None:
                alive = True  # a lock is let go when its owner dies, whatever host it is on
            self._alive, self._alive_asked = alive, (now, pid, pid_started)
        return self._alive


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False
