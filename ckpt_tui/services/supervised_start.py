"""Where the next session of a supervised training begins, and with which command.

The newest valid checkpoint is looked for as `ckpt-tui resume` does; what was found is remembered by content, so that
after a crash only what is new is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.run.timeline import seconds_above
from ckpt_tui.services import command_line, validity
from ckpt_tui.services.catalog import Catalog, read_catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.damage import found_checkpoints
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.launchers import split_command
from ckpt_tui.services.launchers.base import Resume
from ckpt_tui.services.launchers.moved import Moved, renamed, where_from
from ckpt_tui.services.launchers.spelling import resume_way, with_resume
from ckpt_tui.services.names import QUARANTINE_NAME
from ckpt_tui.services.owner import read_monitor
from ckpt_tui.services.session_follower import SessionFollower
from ckpt_tui.services.supervision import Point
from ckpt_tui.services.supervisor_record import Supervisor, read_fields, read_supervisor
from ckpt_tui.text import plural, run_word, safe_text

_MAX_TOLD = 4
_PLACE = "{checkpoint}"
MIN_ROOM_BYTES = 1 << 20  # for the log, the output and our own record
OnBytes = Callable[[int], None]


def find_point(
    directory: str,
    *,
    needs_room_for_save: bool = False,
    on_bytes: OnBytes | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Point:
    """The newest valid checkpoint with what a start from it costs, and the room on the disk. Reads only.

    needs_room_for_save: whether a save that does not fit is what the last session died of; a trainer may well survive
    that, and then only a disk without any room is waited for.
    """
    directory = os.path.abspath(directory)
    try:
        catalog = read_catalog(directory)
    except CkptError as error:
        return Point(why_none=f"{error.title.lower()}: {error.message}")
    monitor = read_monitor(directory)
    state = monitor.state() if monitor is not None else None
    chosen, passed_over = _newest_valid(catalog, on_bytes, is_cancelled)
    free_bytes = _free_bytes(directory)
    needed_bytes = MIN_ROOM_BYTES
    if needs_room_for_save:
        needed_bytes = max(needed_bytes, *(entry.size_bytes for entry in catalog.entries), 0)
    over = tuple(f"{safe_text(entry.name, 80)} is {verdict}" for entry, verdict in passed_over)
    if chosen is None:
        why = _why_none(catalog, state, over)
        return Point(
            passed_over=over, is_untrained=not why, why_none=why, free_bytes=free_bytes, needed_bytes=needed_bytes
        )
    lost_steps, lost_s = 0, 0.0
    if monitor is not None and state is not None and chosen.step is not None:
        monitor.invalid_checkpoints = frozenset(entry.name for entry, _ in passed_over)
        monitor.found_checkpoints = found_checkpoints(catalog.entries)
        judged = monitor.state()
        lost_steps = max(judged.step - chosen.step, 0)
        lost_s = max(seconds_above(judged, chosen.step) or 0.0, 0.0)
    last = state.sessions[-1] if state is not None and state.sessions else None
    return Point(
        name=chosen.name, step=chosen.step, lost_steps=lost_steps, lost_s=lost_s, passed_over=over,
        goes_on_itself=last is not None and (bool(last.resumed_from) or last.start_step > 0),
        free_bytes=free_bytes, needed_bytes=needed_bytes,
    )  # fmt: skip


def supervised_before(directory: str) -> Supervisor | None:
    """The supervisor whose command was the last one here; None when others have started a training since, with settings
    that a person may have changed."""
    before = read_supervisor(directory)
    if before is None or not before.command:
        return None
    launched = read_record(directory)
    if launched is not None and launched.by != "supervise" and launched.ts > before.since:
        return None
    has_log = os.path.exists(os.path.join(directory, LOG_NAME))
    return None if has_log and SessionFollower(directory, ()).session > before.session else before


def command_before(directory: str, before: Supervisor) -> tuple[list[str], str]:
    """The command of the supervisor before, and where it runs; of a directory that was moved or copied since with its
    new place. Raises CkptError where the command does not name the old one: it would train there."""
    words, cwd = list(before.command), before.cwd
    moved = where_from(directory, read_fields(directory).get("directory"), cwd, split_command(words))
    if not moved.home:
        return words, cwd
    home, at = os.path.realpath(moved.home), os.path.realpath(cwd)
    if at == home or at.startswith(home + os.sep):
        moved = Moved(moved.home, directory + at[len(home) :])
    words, _, missing = renamed(words, moved, moved.cwd or cwd, directory)
    if missing:
        raise CkptError(
            "Moved or copied",
            f"{directory} was supervised as {safe_text(moved.home, 300)}, and the command of then does not name that: "
            "it would train there, and not here",
            f"Say the command: `ckpt-tui supervise {run_word(directory)} -- COMMAND`.",
        )
    return words, moved.cwd or cwd


def _newest_valid(
    catalog: Catalog, on_bytes: OnBytes | None, is_cancelled: Callable[[], bool] | None
) -> tuple[CatalogEntry | None, list[tuple[CatalogEntry, str]]]:
    """The one that a start takes, and the newer ones that are passed over, each with its verdict."""
    passed_over: list[tuple[CatalogEntry, str]] = []
    second: tuple[CatalogEntry, list[tuple[CatalogEntry, str]]] | None = None  # lacks a part of an exact resume
    known = [
        e for e in resume_order(catalog.entries)
        if not e.is_abandoned and not e.name.endswith(".safetensors") and (e.is_bad or not e.is_weights_only)
    ]  # fmt: skip
    # Of a step that nobody knows: the newest file is the best guess.
    known.sort(key=lambda e: (e.step is None, -(e.saved_at or 0.0) if e.step is None else 0.0))
    for entry in known:
        validation = validity.check(entry.path, on_bytes=on_bytes, is_cancelled=is_cancelled)
        if validation.verdict == "valid":
            return entry, passed_over
        if second is None and validation.lacks:
            second = entry, list(passed_over)
        passed_over.append((entry, str(validation.verdict)))
    return second if second is not None else (None, passed_over)


def _why_none(catalog: Catalog, state: RunState | None, over: Sequence[str]) -> str:
    """Why nothing can be resumed from; "" when nothing was ever saved there, so that nothing is given up."""
    if over:
        more = f" and {len(over) - _MAX_TOLD} more" if len(over) > _MAX_TOLD else ""
        return "; ".join(over[:_MAX_TOLD]) + more
    if catalog.num_quarantined:
        return f"{plural(catalog.num_quarantined, 'damaged checkpoint')} in {QUARANTINE_NAME}/, and no other"
    if state is not None and state.saves:
        return f"its log tells of {plural(len(state.saves), 'checkpoint')}, and none of them is there"
    return ""


def _free_bytes(directory: str) -> int | None:
    try:
        facts = os.statvfs(directory)
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize


@dataclass(frozen=True, slots=True)
class Start:
    """The command of one start. is_known: whether it is known that it goes on from the checkpoint."""

    command: tuple[str, ...]
    is_known: bool = True


def resuming(
    command: Sequence[str], directory: str, *, cwd: str, point: Point, is_first: bool = True, as_is: bool = False
) -> Start:
    """The command as a start gives it, so that it goes on from `point`.

    Our trainer is told to look for the newest valid checkpoint by itself; is_first: what a person said of where to
    begin holds. Raises CkptError when it trains in another directory.
    """
    words = list(command)
    if command_line.is_own_trainer(words):
        return Start(tuple(_own(words, directory, cwd, is_first)))
    if any(_PLACE in word for word in words):
        return Start(tuple(_filled(words, os.path.join(directory, point.name) if point.name else "")))
    if as_is:
        return Start(tuple(words))
    path = os.path.join(directory, point.name)
    wanted = Resume(directory, point.name, path, point.step, path)
    split = split_command(words)
    way = resume_way(split, wanted, cwd, has_resumed_itself=point.goes_on_itself)
    if way is None or not point.name:
        return Start(tuple(words), is_known=way is not None)
    return Start((*split.head, *with_resume(split.options, way)))


def _own(words: list[str], directory: str, cwd: str, is_first: bool) -> list[str]:
    out = command_line.option_value(words, "out")
    if out is not None and os.path.realpath(os.path.join(cwd, out)) != os.path.realpath(directory):
        raise CkptError(
            "Not this run",
            f"the command trains in {safe_text(os.path.join(cwd, out), 200)}, and {safe_text(directory, 200)} was to be"
            " supervised",
            "Give the same directory to both.",
        )
    if is_first and command_line.option_value(words, "resume"):
        return words
    # As `auto` it walks back over what is damaged by itself, also after a crash that we have not seen.
    return command_line.set_option(words, "resume", "auto", recorded="")


def _filled(words: Sequence[str], path: str) -> list[str]:
    """The checkpoint's path in its place; without a checkpoint the option that takes it is left out."""
    result: list[str] = []
    for word in words:
        if _PLACE not in word:
            result.append(word)
        elif path:
            result.append(word.replace(_PLACE, path))
        elif word == _PLACE and result and result[-1].startswith("-"):
            result.pop()
    return result
