"""Finds the source for a path. A new kind of log is one file beside this one and one entry in `SOURCES`.

A run directory with our own log is read from that; of another program's logs the one that tells the most is taken
(`places.py`). The sources of foreign logs are imported only when there is one.
"""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.sources.base import EventSource
from ckpt_tui.sources.jsonl import JsonlSource
from ckpt_tui.text import safe_text, shell_word

MAX_NAMED = 5
MAX_OTHERS_NAMED = 3
HEAD_BYTES = 256 * 1024

# In the order in which they are asked whether a file is theirs: the sure ones first.
SOURCES = (
    "ckpt_tui.sources.trainer_state:TrainerStateSource",
    "ckpt_tui.sources.tensorboard:TensorboardSource",
    "ckpt_tui.sources.json_rows:JsonRowsSource",
    "ckpt_tui.sources.csv_table:CsvSource",
    "ckpt_tui.sources.text_log:TextLogSource",
    "ckpt_tui.sources.jsonl:JsonlSource",
)


def source_classes() -> Iterator[Any]:
    """The classes of SOURCES, imported one by one."""
    for class_path in SOURCES:
        module, _, name = class_path.partition(":")
        yield getattr(importlib.import_module(module), name)


def log_path(path: str) -> str:
    """The log of a run directory, or the file itself."""
    return os.path.join(path, LOG_NAME) if Path(path).is_dir() else path


def open_source(path: str) -> EventSource:
    """The source that reads `path`, a run directory or a log. A directory without a log yet is waited for.

    Raises CkptError when there is nothing at `path`, it may not be read, it is no log we know, or it is no run but
    holds runs.
    """
    try:
        Path(path).stat()
        where = log_path(path)
        if where != path:
            return _of_directory(path, where)
        if not stat.S_ISREG(Path(where).stat().st_mode):
            raise CkptError("Not a log", f"{where} is not a regular file", f"Give a run directory or its {LOG_NAME}.")
        source_class = _class_of(where)
    except OSError as error:
        raise from_os_error(error, error.filename or path) from error
    except ValueError as error:
        raise CkptError("Not a path", str(error)) from error
    if source_class is None:
        raise CkptError(
            "Not a log",
            f"no step, loss or other measure of a training was found in the beginning of {where}",
            f"Give a run directory, its {LOG_NAME}, or a log as the README lists under 'Logs it reads'.",
        )
    return _opened(source_class, where, os.path.dirname(os.path.abspath(where)))


def find_log(directory: str, names: Iterable[str] | None = None) -> str | None:
    """The file that another program's run in `directory` is told by; None where none is surely one. Never raises.

    names: what is in the directory, where the caller has listed it.
    """
    from ckpt_tui.sources.places import SURE_RANK, candidates

    for one in candidates(directory, names):
        if one.rank <= SURE_RANK and _class_of_candidate(one.path) is not None:
            return one.path if not os.path.isdir(one.path) else _newest_file(one.path)
    return None


def _of_directory(path: str, own: str) -> EventSource:
    if os.path.lexists(own):
        if not stat.S_ISREG(Path(own).stat().st_mode):
            raise CkptError("Not a log", f"{own} is not a regular file", f"Give a run directory or its {LOG_NAME}.")
        with open(own, "rb"):  # says now what cannot be read
            return JsonlSource(own)
    foreign = _foreign_source(path)
    if foreign is None:
        if runs := _runs_in(path):
            raise holds_runs_error(path, [os.path.join(path, name) for name in runs])
        from ckpt_tui.sources.awaited import AwaitedSource

        return AwaitedSource(path, _foreign_source)
    return foreign


def holds_runs_error(path: str, runs: Sequence[str]) -> CkptError:
    """For who needs one run, and was given a directory of `runs`."""
    some = ", ".join(shell_word(run) for run in runs[:MAX_NAMED])
    more = f" and {len(runs) - MAX_NAMED:,} more" if len(runs) > MAX_NAMED else ""
    return CkptError("A directory of runs", f"{path} is no run, it holds runs", f"Give one: {some}{more}.")


def _foreign_source(path: str) -> EventSource | None:
    """The source of another program's log in a run directory; None where there is none."""
    source = _newest_foreign_source(path)
    if source is None or "version_" not in source.path:
        return source
    from ckpt_tui.sources.versions import VersionsSource, version_of

    version = version_of(source.path, path)
    return VersionsSource(source, version, path, _newest_foreign_source) if version is not None else source


def _newest_foreign_source(path: str) -> EventSource | None:
    from ckpt_tui.sources.places import candidates

    found = [(one.path, kind) for one in candidates(path) if (kind := _class_of_candidate(one.path)) is not None]
    if not found:
        return None
    log, source_class = found[0]
    source = _opened(source_class, log, path)
    # What stands in the checkpoints is in the log that is read, too.
    others = [os.path.relpath(other, path) for other, _ in found[1:] if other != path]
    if not others:
        return source
    from ckpt_tui.sources.chosen import ChosenSource

    named = ", ".join(safe_text(other, 60) for other in others[:MAX_OTHERS_NAMED])
    more = f" and {len(others) - MAX_OTHERS_NAMED} more" if len(others) > MAX_OTHERS_NAMED else ""
    what = source_class.kind if log == path else safe_text(os.path.relpath(log, path), 60)
    return ChosenSource(source, f"read is {what}; not read: {named}{more}")


def _opened(source_class: Any, log: str, directory: str) -> EventSource:
    source: EventSource
    if getattr(source_class, "is_foreign", False):
        from ckpt_tui.sources.settings_beside import facts_beside

        source = source_class(log, facts_beside(log, directory))
    else:
        source = source_class(log)
    return source


def _class_of(path: str) -> Any:
    """The source whose file this is, by its content; None where it is nobody's. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:  # nothing yet: only the name can tell
        from ckpt_tui.sources.csv_table import CsvSource
        from ckpt_tui.sources.text_log import TextLogSource

        lower = path.lower()
        return CsvSource if lower.endswith(".csv") else TextLogSource if lower.endswith((".log", ".out", ".txt")) \
            else JsonlSource  # fmt: skip
    found = next((source_class for source_class in source_classes() if source_class.accepts(path, head)), None)
    if found is None and path.lower().endswith((".log", ".out")) and b"\x00" not in head:
        from ckpt_tui.sources.text_log import TextLogSource

        return TextLogSource  # a log by its name, whose training has not begun: it is waited for
    return found


def _class_of_candidate(path: str) -> Any:
    """The source for what `places.py` found; of directories there are two kinds."""
    if os.path.isdir(path):
        from ckpt_tui.sources.tensorboard import TensorboardSource, event_files
        from ckpt_tui.sources.trainer_state import TrainerStateSource, newest_state

        if newest_state(path) is not None and not any(name.startswith("events.out") for name in os.listdir(path)):
            return TrainerStateSource
        return TensorboardSource if event_files(path) else None
    try:
        found = _class_of(path)
        if found is not None and found.__name__ == "TextLogSource" and not _tells_of_training(path):
            return None  # of many logs of a directory only one that says something
    except OSError:
        return None
    return None if found is JsonlSource else found  # ours has its own name: these are data of somebody


def _tells_of_training(path: str) -> bool:
    from ckpt_tui.sources.text_log import TextLogSource

    with open(path, "rb") as file:
        return TextLogSource.accepts(path, file.read(HEAD_BYTES))


def _newest_file(directory: str) -> str | None:
    from ckpt_tui.sources.tensorboard import event_files
    from ckpt_tui.sources.trainer_state import newest_state

    return newest_state(directory) or next(reversed(event_files(directory)), None)


def _runs_in(path: str) -> list[str]:
    """The names of the run directories in a directory. Raises OSError."""
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return [name for name in names if is_run(os.path.join(path, name))]


def is_run(directory: str) -> bool:
    """Whether a directory holds a log, ours or of another program. Never raises."""
    return os.path.isfile(os.path.join(directory, LOG_NAME)) or find_log(directory) is not None
