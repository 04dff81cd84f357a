"""Finds the runs below a directory: bounded in depth and number, and cheap to ask again.

A directory is listed again only when its time of change moved, so that looking for new runs costs a `stat` for each
directory. A directory that links lead to twice counts once, by its own name where it has one here; so a loop of links
ends.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass

MAX_DEPTH = 3
MAX_DIRECTORIES = 20_000
MAX_RUNS = 5_000
MAX_DIRECTORIES_TO_DECIDE, LONGEST_DECISION_S = 2_000, 1.0  # whether there are runs below
# A directory that changed this short ago may change again without its time moving: clocks of file systems are coarse.
COARSE_CLOCK_S = 3.0
# Never runs, and some of them have thousands of directories.
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "wandb"})

FindLog = Callable[[str, Mapping[str, os.DirEntry[str]]], str | None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is. name: its path below the directory that was searched. log_path: the file that tells of it."""

    path: str
    log_path: str
    name: str


@dataclass(frozen=True, slots=True)
class Found:
    """places: in the order found. num_unreadable: directories that could not be listed. is_cut: there are more
    directories or runs than are looked at. own_log: the log of the searched directory itself, which is a run then."""

    places: tuple[Place, ...] = ()
    num_unreadable: int = 0
    is_cut: bool = False
    own_log: str | None = None


@dataclass(slots=True)
class _Listing:
    stamp: tuple[int, int, int, bool]
    listed_at: float
    log_path: str | None
    directories: tuple[str, ...]
    links: tuple[str, ...]


def own_log(directory: str, entries: Mapping[str, os.DirEntry[str]]) -> str | None:
    """The log of a run of ours."""
    entry = entries.get(LOG_NAME)
    try:
        return entry.path if entry is not None and entry.is_file() else None
    except OSError:
        return None


def any_log(directory: str, entries: Mapping[str, os.DirEntry[str]]) -> str | None:
    """The log of a run, ours or of another program's.

    What lies in directories below is a run of its own here (`lightning_logs/version_3`), but for checkpoints, whose
    `trainer_state.json` tells of the run around them.
    """
    if (own := own_log(directory, entries)) is not None:
        return own
    names = [name for name, entry in entries.items() if _may_be_log(name) and _is_beside(entry)]
    if not names:
        return None
    from ckpt_tui.sources.registry import find_log

    return find_log(directory, names)


def _is_beside(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name.startswith("checkpoint-") or not entry.is_dir()
    except OSError:
        return False


def _may_be_log(name: str) -> bool:
    """Names that the logs of other trainings have (sources/places.py)."""
    ends = (".csv", ".jsonl", ".ndjson", ".log", ".txt", ".out", ".json")
    return name.endswith(ends) or name.startswith(("checkpoint-", "events.out.tfevents."))


class RunFinder:
    """Searches below `root`. clock: Unix seconds, as the file system's times are."""

    def __init__(
        self,
        root: str,
        *,
        max_depth: int = MAX_DEPTH,
        max_directories: int = MAX_DIRECTORIES,
        max_runs: int = MAX_RUNS,
        find_log: FindLog = any_log,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.root = root
        self._max_depth = max_depth
        self._max_directories = max_directories
        self._max_runs = max_runs
        self._find_log = find_log
        self._clock = clock or time.time
        self._listings: dict[str, _Listing] = {}
        self.num_listed = 0  # how many directories were read, for tests
        self.places: list[Place] = []  # found so far
        self.own_log: str | None = None

    def find(self) -> Found:
        """All at once."""
        steps = self.steps()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: Found = end.value
                return found

    def steps(self) -> Generator[int, None, Found]:
        """A directory at a time, for who must not wait long: yields how many were looked at."""
        before, self._listings = self._listings, {}
        places = self.places = []
        self.own_log = None
        num_unreadable, is_cut = 0, False
        seen: set[tuple[int, int]] = set()
        # Links last: what they lead to is called by its own name where that is found.
        waiting: deque[tuple[str, int, bool]] = deque([(self.root, 0, False)])
        links: deque[tuple[str, int, bool]] = deque()
        num_looked_at = 0
        while waiting or links:
            path, depth, is_inside = waiting.popleft() if waiting else links.popleft()
            if num_looked_at >= self._max_directories or len(places) >= self._max_runs:
                is_cut = True
                break
            num_looked_at += 1
            try:
                listing = self._list(path, before.get(path), seen, is_inside)
            except OSError as error:
                num_unreadable += error.errno not in (errno.ENOENT, errno.ENOTDIR)  # gone meanwhile, or a broken link
                yield num_looked_at
                continue
            if listing is None:
                continue
            if listing.log_path is not None:
                is_inside = True
                if depth:
                    places.append(Place(path, listing.log_path, os.path.relpath(path, self.root)))
                else:
                    self.own_log = listing.log_path
            if depth < self._max_depth:
                waiting.extend((os.path.join(path, name), depth + 1, is_inside) for name in listing.directories)
                links.extend((os.path.join(path, name), depth + 1, is_inside) for name in listing.links)
            yield num_looked_at
        return Found(tuple(places), num_unreadable, is_cut, self.own_log)

    def _list(self, path: str, known: _Listing | None, seen: set[tuple[int, int]], is_inside: bool) -> _Listing | None:
        """What is in `path`; None when it was seen by another name. Raises OSError."""
        facts = os.stat(path)
        identity = (facts.st_dev, facts.st_ino)
        if identity in seen:
            return None
        seen.add(identity)
        stamp = (facts.st_mtime_ns, *identity, is_inside)
        if known is None or known.stamp != stamp or known.listed_at - facts.st_mtime < COARSE_CLOCK_S:
            known = self._read(path, stamp, is_inside)
        self._listings[path] = known
        return known

    def _read(self, path: str, stamp: tuple[int, int, int, bool], is_inside: bool) -> _Listing:
        self.num_listed += 1
        now = self._clock()
        entries: dict[str, os.DirEntry[str]] = {}
        directories, links = [], []
        with os.scandir(path) as listed:
            for entry in listed:
                entries[entry.name] = entry
                if entry.name in _SKIPPED or entry.name.startswith("."):
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.name)
                    elif entry.is_symlink() and entry.is_dir():
                        links.append(entry.name)
                except OSError:
                    continue  # a link to where nobody may look
        # Inside a run, other people's logs are parts of its checkpoints (a `trainer_state.json` in each).
        find_log = own_log if is_inside else self._find_log
        return _Listing(stamp, now, find_log(path, entries), tuple(sorted(directories)), tuple(sorted(links)))


def holds_runs(path: str, *, counts_empty: bool = False) -> bool:
    """Whether `path` is a directory of runs: no run itself, with runs below it. counts_empty: or with nothing in it,
    so that whatever comes there is waited for."""
    if os.path.exists(os.path.join(path, LOG_NAME)) or not os.path.isdir(path):
        return False
    try:
        with os.scandir(path) as entries:
            if next(entries, None) is None:
                return counts_empty
    except OSError:
        return False
    from ckpt_tui.sources.registry import find_log

    log = find_log(path)
    # `lightning_logs` alone: its newest run is what is meant. With other runs beside it, all of them are.
    own = os.path.relpath(log, path).split(os.sep)[0] if log is not None else None
    return _has_run_beside(path, own)


def need_one_run(path: str) -> None:
    """Raises CkptError for a directory of runs: not every log that may lie beside them is what is meant."""
    if not holds_runs(path):
        return
    from ckpt_tui.sources.registry import holds_runs_error

    finder = RunFinder(path, max_directories=MAX_DIRECTORIES_TO_DECIDE)
    raise holds_runs_error(path, [place.path for place in finder.find().places])


def _has_run_beside(path: str, own: str | None) -> bool:
    """Whether there is a run below `path` elsewhere than in its entry `own`. Where a slow disk does not tell within a
    second, there may be: a list of them goes on looking."""
    ends = time.monotonic() + LONGEST_DECISION_S
    finder = RunFinder(path, max_directories=MAX_DIRECTORIES_TO_DECIDE)
    steps = finder.steps()
    try:
        while time.monotonic() < ends:
            next(steps)
            if any(place.name.split(os.sep)[0] != own for place in finder.places):
                return True  # inside a run of another program only those of ours are found: they count for more
    except StopIteration:
        return False
    return True
