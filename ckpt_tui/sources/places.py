"""Which log of a run directory is read, where the directory holds logs of other programs.

By names first, so that looking into many directories stays cheap; what is taken is then known by its content. A log
that was written within the last hour of the newest one counts; of those the one that tells the most is taken.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator

from ckpt_tui.records import dataclass

MAX_NAMES = 20_000
MAX_CANDIDATES = 40
MAX_BEGUN = 5  # versions that tell nothing yet, or died before they did
STALE_S = 3600.0
SURE_RANK = 50  # above it the name says only what kind of file it is

_VERSION = re.compile(r"version_(\d{1,9})")
_CHECKPOINT = re.compile(r"checkpoint-\d{1,18}")
_TFEVENTS = re.compile(r"events\.out\.tfevents\..*")
_BOARD_DIRECTORIES = ("runs", "tb", "tensorboard", "tb_logs", "tensorboard_logs", "tb_log")
_VERSION_DIRECTORIES = ("lightning_logs", "csv_logs", "logs")
_JSON_LINES = ("trainer_log.jsonl", "logging.jsonl", "metrics.jsonl", "train_log.jsonl", "log.jsonl")
_JSON_LINES_IN_JSON = ("metrics.json", "scalars.json")
_TABLES = ("results.csv", "metrics.csv", "summary.csv", "training_log.csv", "log.csv", "history.csv")
_TEXTS = ("train.log", "training.log", "output.log", "log.txt", "stdout.log", "nohup.out", "train.out", "run.log")
_TEXT_ENDS = (".log", ".out", ".txt")
_NO_LOGS = frozenset({"requirements.txt", "readme.txt", "license.txt", "merges.txt", "vocab.txt", "labels.txt"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A log that may be read. rank: lower tells more. path: a file, or the directory of several event files."""

    rank: int
    path: str
    mtime: float


def candidates(directory: str, names: Iterable[str] | None = None) -> list[Candidate]:
    """The logs of other programs in `directory`, by their names, the one to take first. Empty where there are none."""
    if names is None:
        names = _names_in(directory)
    found: list[Candidate] = []
    for rank, path in _named(directory, names):
        if len(found) >= MAX_CANDIDATES:
            break
        mtime = _written(path)
        if mtime is not None:
            found.append(Candidate(rank, path, mtime))
    newest = max((one.mtime for one in found), default=0.0)
    return sorted(found, key=lambda one: (one.mtime < newest - STALE_S, one.rank, -one.mtime, one.path))


def _named(directory: str, names: Iterable[str]) -> Iterator[tuple[int, str]]:
    texts: list[str] = []
    has_checkpoint = has_events = False
    for name in sorted(names):
        lower, path = name.lower(), os.path.join(directory, name)
        if name in _JSON_LINES:
            yield 10, path
        elif name == "results.csv":
            yield 15, path
        elif name in _BOARD_DIRECTORIES and _holds_events(path):
            yield 20, path
        elif _TFEVENTS.fullmatch(name):
            has_events = True
        elif name in _TABLES:
            yield 30, path
        elif lower.endswith((".jsonl", ".ndjson")) or name in _JSON_LINES_IN_JSON:
            yield 35, path
        elif _CHECKPOINT.fullmatch(name):
            has_checkpoint = has_checkpoint or os.path.exists(os.path.join(path, "trainer_state.json"))
        elif name == "trainer_state.json":
            has_checkpoint = True
        elif name in _TEXTS:
            texts.append(path)
        elif lower.endswith(".csv"):
            yield 60, path
        elif lower.endswith(_TEXT_ENDS) and lower not in _NO_LOGS:
            yield 70, path
        elif name in _VERSION_DIRECTORIES:
            newest = newest_version(path)
            if newest is not None:
                yield from _named(newest, _names_in(newest))
        elif name == "vis_data":
            yield from _named(path, _names_in(path))
    if has_events:
        yield 20, directory
    if has_checkpoint:
        yield 40, directory
    for path in texts:
        yield 38, path  # of every step, where the state of a Trainer is of its saves


def newest_version(directory: str, *, has_log: bool = False) -> str | None:
    """`lightning_logs/version_N` of the highest N that is there; with `has_log` of those that hold a log, if any."""
    found = [(int(match[1]), name) for name in _names_in(directory) if (match := _VERSION.fullmatch(name))]
    versions = [os.path.join(directory, name) for _, name in sorted(found, reverse=True)]
    newest = next(iter(versions), None)
    return next(filter(candidates, versions[:MAX_BEGUN]), newest) if has_log else newest


def _names_in(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as listing:
            return [entry.name for _, entry in zip(range(MAX_NAMES), listing, strict=False)]
    except OSError:
        return []


def _holds_events(directory: str, depth: int = 2) -> bool:
    names = _names_in(directory)
    if any(map(_TFEVENTS.fullmatch, names)):
        return True
    return depth > 0 and any(_holds_events(os.path.join(directory, name), depth - 1) for name in names[:200])


def _written(path: str, depth: int = 2) -> float | None:
    """When it was last written; of a directory of event files or of checkpoints the newest of those."""
    try:
        facts = os.stat(path)
        if not stat.S_ISDIR(facts.st_mode):
            is_log = stat.S_ISREG(facts.st_mode) and (facts.st_size or path.endswith(_TEXT_ENDS))
            return facts.st_mtime if is_log else None
        times: list[float] = []
        for name in _names_in(path):
            inner = os.path.join(path, name)
            if _TFEVENTS.fullmatch(name) or name == "trainer_state.json":
                times.append(os.stat(inner).st_mtime)
            elif _CHECKPOINT.fullmatch(name):
                with contextlib.suppress(OSError):
                    times.append(os.stat(os.path.join(inner, "trainer_state.json")).st_mtime)
            elif depth > 0 and os.path.basename(path) in _BOARD_DIRECTORIES and os.path.isdir(inner):
                times.append(_written(inner, 0) or 0.0)
        return max(times, default=None)
    except OSError:
        return None
