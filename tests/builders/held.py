"""A process that stops itself (SIGSTOP) at a moment of its work, and is found there however slow the machine is.

Who waits for a line of a log and then kills or signals is too late whenever it is paused in between: the training has
ended. What is held moves on when the test says so. A fresh process is held from its environment (`Hold.environment`,
read by held_at_start/sitecustomize.py, so that its command stays what a person types), a fork by `hold_here`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).parents[2]
VARIABLE = "CKPT_TUI_TEST_HOLD"


class Hold:
    """Where to stop. at: "import NAME", or "half N" for the N-th write into a checkpoint that has no name yet,
    after the first save that the log tells of, or "EVENT N" of the log for the first such event at step N or later.

    The first process that comes there stops, and no other one that has this from its environment. rests: only the
    thread that comes there stands still: what is being saved beside it comes to its end.
    """

    def __init__(self, directory: Path, at: str, *, rests: bool = False) -> None:
        name = at.replace(" ", "-")
        self._file = next(path for n in range(99) if not (path := directory / f"held-{name}-{n}").exists())
        self._file.touch()
        self.at = at
        self._rests = rests
        self.pid = 0

    @property
    def told(self) -> str:
        """For `hold_here`."""
        return f"{self.at}|{self._file}|{'rests' if self._rests else 'stops'}"

    @property
    def environment(self) -> dict[str, str]:
        """What to start a process with."""
        places = [str(REPO / "tests" / "builders" / "held_at_start"), str(REPO)]
        return {**os.environ, VARIABLE: self.told, "PYTHONPATH": os.pathsep.join(places)}

    def open_to_all(self) -> None:
        """For a process of another user."""
        self._file.chmod(0o666)

    def wait(self, timeout_s: float = 240.0) -> int:
        """Until it is there and stopped; gives its pid."""
        deadline = time.monotonic() + timeout_s
        while not (self.pid and (self._rests or _is_stopped(self.pid))):
            assert time.monotonic() < deadline, f"nothing came to {self.at!r} in {timeout_s} s"
            time.sleep(0.005)
            told = self._file.read_text()
            self.pid = int(told) if told.endswith("\n") else 0
        return self.pid

    def go_on(self) -> None:
        if self._rests:
            Path(_goes_on(str(self._file))).touch()
        else:
            os.kill(self.pid, signal.SIGCONT)


def _goes_on(path: str) -> str:
    return f"{path}.goes-on"


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"
    except FileNotFoundError:
        return False


def hold_here(told: str) -> None:
    """In the process itself, before its work."""
    at, path, how = told.split("|")
    what, _, where = at.partition(" ")
    if what == "import":
        sys.meta_path.insert(0, _Finder(where, path))
        return
    from ckpt_tui.events.schema import Event
    from ckpt_tui.events.writer import EventWriter

    emit, step = EventWriter.emit, int(where)
    if what == "half":
        what, step = "checkpoint_saved", 0

    def emit_and_stop(log: EventWriter, event: Event) -> bool:
        is_written = emit(log, event)
        if event.name == what and event.step >= step:
            if at.startswith("half "):
                EventWriter.emit = emit  # type: ignore[method-assign]
                _hold_in_a_write(int(where), path)
            else:
                _stop(path, rests=how == "rests")
        return is_written

    EventWriter.emit = emit_and_stop  # type: ignore[method-assign]


def _hold_in_a_write(number: int, path: str) -> None:
    write, numbers = os.write, iter(range(1, number + 1))

    def write_and_stop(fd: int, data: bytes) -> int:
        num_bytes = write(fd, data)
        target = str(Path(f"/proc/self/fd/{fd}").readlink())
        if "/.tmp-" in target and "registry.json" not in target and next(numbers, 0) == number:
            _stop(path)
        return num_bytes

    os.write = write_and_stop


def _stop(path: str, *, rests: bool = False) -> None:
    """Stop here, unless somebody was the first."""
    with open(path, "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        is_first = not file.read()
        if is_first:
            file.write(f"{os.getpid()}\n".encode())
    if is_first and rests:
        while not Path(_goes_on(path)).exists():
            time.sleep(0.005)
    elif is_first:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.05)  # another thread may have got it, and this one a moment more


class _Finder(MetaPathFinder):
    def __init__(self, name: str, path: str) -> None:
        self._name, self._path = name, path

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if name == self._name:
            _stop(self._path)


def hold_as_told(environment: Mapping[str, str]) -> None:
    """As the environment says, which children have, too."""
    if VARIABLE in environment:
        hold_here(environment[VARIABLE])
