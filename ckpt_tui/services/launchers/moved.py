"""A run directory that is not where its log was written: moved, or a copy of one that may still train.

The recorded command names the old place, and would train there: perhaps beside a training that lives. It is given the
new place where it names the old one; where it does not, nobody can know where it would train, and it is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services.launchers.base import Split
from ckpt_tui.text import safe_text

_HEAD_BYTES = 4096  # of a log: a `run_start` with its pid and times, which no other run has


@dataclass(frozen=True, slots=True)
class Moved:
    """home: where the log was written, "" where that is here, or not known. cwd: of the project that lies around the
    directory now, as the old one did; "" where that is not so."""

    home: str = ""
    cwd: str = ""


def where_from(directory: str, told: object, cwd: str, split: Split) -> Moved:
    """Whether a directory lies elsewhere now. told: where its log says that it was written; older ones do not say: the
    original of a copy is looked for in the recorded command. cwd: as recorded."""
    here = os.path.realpath(directory)
    if isinstance(told, str) and os.path.isabs(told):
        home = told
    else:
        original = next((path for path in _paths(split.options, cwd) if _is_same_log(path, here)), "")
        home = original or here
    if os.path.realpath(home) == here or _is_one(home, here):
        return Moved()
    inside = os.path.relpath(home, os.path.realpath(cwd)) if cwd else ".."
    around = here[: -len(inside) - 1] if here.endswith(os.sep + inside) else ""
    script = split.script.partition(".")[0] if split.is_module else split.script
    has_script = bool(around and script) and any(
        os.path.exists(os.path.join(around, script + end)) for end in ("", ".py")
    )
    is_project = has_script and not os.path.isabs(script) and not inside.startswith(os.pardir)
    return Moved(home, around if is_project else "")


def renamed(options: Sequence[str], moved: Moved, cwd: str, directory: str) -> tuple[list[str], list[str], list[str]]:
    """The options with the new place for the old one; notes; and why it cannot be started."""
    if not moved.home:
        return list(options), [], []
    result, said = [], []
    home, here = os.path.realpath(moved.home), os.path.realpath(directory)
    is_named = False
    for word in options:
        name, equals, value = word.rpartition("=")
        place = os.path.realpath(os.path.join(cwd, value)) if value and "\0" not in value else ""
        is_named = is_named or place == here
        if place == home or place.startswith(home + os.sep):
            word, is_named = f"{name}{equals}{directory}{place[len(home) :]}", True
            said = [f"Moved or copied since: {safe_text(moved.home, 300)} is now {safe_text(directory, 300)}."]
        result.append(word)
    if is_named or moved.cwd == cwd:
        return result, said, []
    why = (
        f"its log was written in {safe_text(moved.home, 300)}; this directory was moved or copied since, and the"
        " recorded command does not name it: it would train there, and not here. Say it once, with {directory} in a"
        " --command"
    )
    return result, [], [why]


def _paths(words: Iterable[str], cwd: str) -> Iterable[str]:
    for word in words:
        value = word.rpartition("=")[2]
        if value and "\0" not in value:
            yield os.path.realpath(os.path.join(cwd, value))


def _is_one(home: str, here: str) -> bool:
    """Whether both are the same directory, mounted twice."""
    try:
        return os.path.samefile(home, here)
    except (OSError, ValueError):
        return False


def _is_same_log(path: str, here: str) -> bool:
    if path == here:
        return False
    try:
        heads = []
        for directory in (path, here):
            with open_regular(os.path.join(directory, LOG_NAME)) as file:
                heads.append(file.read(_HEAD_BYTES))
    except OSError:
        return False
    size = min(map(len, heads))  # the copy may be of its first moments
    return size > 0 and heads[0][:size] == heads[1][:size]
