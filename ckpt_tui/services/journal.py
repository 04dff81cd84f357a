"""The journal of deeds: a crash at any file operation leaves every file whole, and the deed completable or undoable.

A deed changes names in one run directory. Its folder `set_aside/<number>/` holds `journal.json`, every file that was
replaced or taken away, under its own name, and while it lasts `incoming/`, copies on their way in. Its journal goes

    intent -> prepared -> moved -> done          (each written durably before the next thing happens)

Until `prepared` nothing outside the folder has changed: an unfinished deed is cancelled, its folder removed.
From `prepared` on, every copy is on the device and verified, only renames are left: an unfinished deed is completed.
A name that somebody else has written since is never touched: then the deed ends as `conflict` and says so.

What a journal holds is in `deed_record.py`, the renames are in `renames.py`, the copies in `copies.py`.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Callable

from ckpt_tui.errors import Cancelled, CkptError, from_os_error
from ckpt_tui.services import copied_deed, copies, files
from ckpt_tui.services.deed_lock import LOCK_NAME as LOCK_NAME
from ckpt_tui.services.deed_lock import locked as locked
from ckpt_tui.services.deed_record import COLLECTED as COLLECTED
from ckpt_tui.services.deed_record import CONFLICT as CONFLICT
from ckpt_tui.services.deed_record import DONE as DONE
from ckpt_tui.services.deed_record import FOLDER_NAME as FOLDER_NAME
from ckpt_tui.services.deed_record import INCOMING_NAME as INCOMING_NAME
from ckpt_tui.services.deed_record import INTENT as INTENT
from ckpt_tui.services.deed_record import JOURNAL_NAME as JOURNAL_NAME
from ckpt_tui.services.deed_record import MOVED as MOVED
from ckpt_tui.services.deed_record import PREPARED as PREPARED
from ckpt_tui.services.deed_record import Deed as Deed
from ckpt_tui.services.deed_record import LogEntry as LogEntry
from ckpt_tui.services.deed_record import Move as Move
from ckpt_tui.services.deed_record import deed_numbers as deed_numbers
from ckpt_tui.services.deed_record import folder_of as folder_of
from ckpt_tui.services.deed_record import is_unwritten_journal, names_in
from ckpt_tui.services.deed_record import read_deed as read_deed
from ckpt_tui.services.deed_record import read_deeds as read_deeds
from ckpt_tui.services.deed_record import unfinished as unfinished
from ckpt_tui.services.deed_record import when as when
from ckpt_tui.services.deed_record import write_deed as write_deed
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.services.renames import Places, incoming_path, put_in_place, take_back
from ckpt_tui.services.since_planned import has_changed, is_as_planned
from ckpt_tui.services.unlinking import leads_elsewhere
from ckpt_tui.text import safe_text

# Names in a deed's folder that are its own.
_RESERVED = frozenset({JOURNAL_NAME, INCOMING_NAME})


def perform(
    directory: str,
    deed: Deed,
    *,
    force: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
    finish: Callable[[Deed], None],
) -> Deed:
    """Carry out a new deed from beginning to end. `deed.number` and its state are set here.

    finish(deed) does what follows the renames (event log); it must bear being called twice for one deed.
    Raises CkptError with every file as it was; when even going back failed, the journal stays and says the rest.
    Raises Cancelled when `is_cancelled` said so before the first rename, with every file as it was.
    """

    def advance(num_bytes: int) -> None:
        if is_cancelled is not None and is_cancelled():
            raise Cancelled
        if on_bytes is not None:
            on_bytes(num_bytes)

    with locked(directory, force=force):
        for move in deed.moves:
            _expect_unchanged(directory, move)
        deed.number = max(deed_numbers(directory), default=0) + 1
        deed.state, deed.started_at = INTENT, time.time()
        deed.pid, deed.host = os.getpid(), socket.gethostname()
        try:
            files.make_directory(folder_of(directory, deed.number))
            deed.folder_inode = os.lstat(folder_of(directory, deed.number)).st_ino
            write_deed(directory, deed)
            _prepare(directory, deed, advance)
            advance(0)
            deed.state = PREPARED
            write_deed(directory, deed)
        except OSError as error:
            _back_out(directory, deed)
            raise _refused(error, directory, deed) from error
        except BaseException:  # cancelled, or Ctrl-C: nothing has its new name yet
            _back_out(directory, deed)
            raise
        try:
            _apply(directory, deed)
        except OSError as error:
            _back_out(directory, deed)
            raise _refused(error, directory, deed) from error
        if deed.conflicts:  # somebody wrote while the copies were made
            written, deed.conflicts = deed.conflicts, []
            _back_out(directory, deed)
            raise has_changed(written)
        for places in _places(directory, deed):
            places.move.kept_changed_ns = files.changed_ns(places.kept) if places.move.before is not None else 0
        try:
            _finish(directory, deed, finish)
        except OSError as error:
            raise _left_for_later(error, directory, deed) from error
    return deed


def _expect_unchanged(directory: str, move: Move) -> None:
    """Raises CkptError when a name that changes, or what it is to become, is not what was planned with."""
    if not is_as_planned(os.path.join(directory, move.target), move.before):
        raise has_changed([move.target])
    lies_at = move.source_path(directory)
    source_was = move.after if move.how == "rename" else move.source_was
    lies_at = lies_at if move.how == "rename" else os.path.realpath(lies_at)
    if source_was is not None and not is_as_planned(lies_at, source_was):
        raise has_changed([move.source or move.outside])
    if move.target.split("/")[0] in _RESERVED:
        raise CkptError(
            "Cannot be set aside",
            f"{safe_text(move.target, 200)} has a name that every deed uses itself; nothing was changed",
            "Give it another name.",
        )


def _back_out(directory: str, deed: Deed) -> None:
    try:
        _revert(directory, deed)
        _cancel(directory, deed)
    except OSError as error:
        raise _left_for_later(error, directory, deed) from error


def _left_for_later(error: OSError, directory: str, deed: Deed) -> CkptError:
    said = from_os_error(error, error.filename or directory, "write to")
    return CkptError(
        said.title,
        f"{said.message}; the {deed.act} is not finished, every file is whole",
        f"The next act on {directory} completes it; its journal is in {FOLDER_NAME}/{deed.number}/.",
    )


def recover(directory: str, finish: Callable[[Deed], None]) -> list[str]:
    """Complete or cancel what a crash interrupted, and say it. Costs one look when nothing was interrupted.

    Raises CkptError when another viewer or a live trainer is at work there, or when the directory cannot be written.
    """
    if not unfinished(directory):
        return []
    said = []
    with locked(directory):
        for deed in unfinished(directory):
            try:
                if deed.state == INTENT and _name_aside(directory, deed):
                    deed.conflicts = [deed.moves[0].target]
                    _finish(directory, deed, finish, state=CONFLICT)
                    said.append(copied_deed.older_words(deed))
                    continue
                if deed.state == INTENT:
                    _cancel(directory, deed)
                    said.append(
                        f"The {deed.act} of {when(deed)} was interrupted before it changed anything: cleaned up."
                    )
                    continue
                said.append(_complete(directory, deed, finish))
            except OSError as error:
                raise from_os_error(error, directory, "complete an interrupted deed in") from error
    return said


def _complete(directory: str, deed: Deed, finish: Callable[[Deed], None]) -> str:
    """Do what is left of a deed that is prepared or moved, and say it."""
    is_copied = deed.state == PREPARED and copied_deed.is_copied(directory, deed)
    if is_copied:
        known = copied_deed.known_again(_places(directory, deed))
        if known is None:
            deed.conflicts = [deed.moves[0].target]
            _finish(directory, deed, finish, state=CONFLICT)
            return copied_deed.left_words(deed)
        deed.moves = known
    if deed.state == PREPARED:
        _apply(directory, deed)
    if deed.conflicts:
        _finish(directory, deed, finish, state=CONFLICT)
        return (
            f"The {deed.act} of {when(deed)} was interrupted, and since then somebody wrote "
            f"{', '.join(deed.conflicts)}: left alone. What it moved is in {FOLDER_NAME}/{deed.number}/."
        )
    _finish(directory, deed, finish)
    if is_copied:
        return copied_deed.completed_words(deed)
    return f"The {deed.act} of {when(deed)} was interrupted: now completed."


def _prepare(directory: str, deed: Deed, on_bytes: Callable[[int], None]) -> None:
    """Bring every new content into `incoming/`, durable and verified. Changes nothing outside the deed's folder."""
    folder = folder_of(directory, deed.number)
    incoming = os.path.join(folder, INCOMING_NAME)
    made = False
    for move in deed.moves:
        files.make_parents(folder, move.target)
        if move.how == "rename":
            move.after = content_of(move.source_path(directory))
            if move.after is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), move.source_path(directory))
            continue
        if move.how == "remove":
            continue
        if not made:
            files.make_directory(incoming)
            made = True
        files.make_parents(incoming, move.target)
        target = incoming_path(folder, move)
        if move.how == "copy":
            move.after = copies.copy_verified(move.source_path(directory), target, on_bytes)
        elif move.how == "link":
            # What the source is after this deed: a copy of it may have been made a moment ago.
            ready = next((m for m in deed.moves if m is not move and m.target == move.source and m.how == "copy"), None)
            lies_at = incoming_path(folder, ready) if ready is not None else move.source_path(directory)
            move.after = copies.link_verified(lies_at, target, on_bytes)
        else:
            assert move.data is not None
            files.write_file(target, move.data)
            mode = files.content_mode(os.path.join(directory, move.target))
            if mode is not None:
                os.chmod(target, mode)
            move.after = content_of(target)
        files.sync_directory(os.path.dirname(target))


def _apply(directory: str, deed: Deed) -> None:
    """Do the renames that are not done yet. A target that is neither old nor new, or that a link leads to from here,
    ends it as a conflict."""
    for places in _places(directory, deed):
        if _is_behind_link(directory, places) or not put_in_place(places):
            deed.conflicts = [places.move.target]
            break
    _sync(directory, deed)


def _revert(directory: str, deed: Deed) -> None:
    """Take the renames back that were done, the last one first. OSError here leaves a journal to complete later."""
    for places in reversed(_places(directory, deed)):
        take_back(places)
    _sync(directory, deed)


def _places(directory: str, deed: Deed) -> list[Places]:
    folder = folder_of(directory, deed.number)
    return [Places(directory, folder, move) for move in deed.moves]


def _is_behind_link(directory: str, places: Places) -> bool:
    """Whether any of its names is not really in the run directory: journals and links may be anybody's."""
    ours = (os.path.relpath(path, directory) for path in (places.target, places.kept, places.origin))
    return any(leads_elsewhere(directory, name) for name in ours)


def _sync(directory: str, deed: Deed) -> None:
    """Make every name durable that a deed changes."""
    parents = {directory: None, folder_of(directory, deed.number): None}
    for places in _places(directory, deed):
        parents.update(dict.fromkeys(map(os.path.dirname, (places.target, places.kept, places.origin))))
    for parent in parents:
        if os.path.isdir(parent):
            files.sync_directory(parent)


def _finish(directory: str, deed: Deed, finish: Callable[[Deed], None], state: str = DONE) -> None:
    """What follows the renames. Each part may be done twice without harm, for a crash between them."""
    if deed.state != MOVED:
        deed.state = MOVED
        write_deed(directory, deed)
    if not deed.conflicts:
        finish(deed)
        _remove_own(folder_of(directory, deed.number), but=JOURNAL_NAME)
    deed.state = state
    write_deed(directory, deed)


def _cancel(directory: str, deed: Deed) -> None:
    """Remove the folder of a deed that changed nothing: only copies of our own making are in it."""
    folder = folder_of(directory, deed.number)
    if name := _name_aside(directory, deed):
        raise OSError(errno.ENOTEMPTY, f"{safe_text(name, 200)} is still set aside", folder)
    _remove_own(folder)
    for inside, _, _ in os.walk(folder, topdown=False):
        _remove_empty(inside)
    files.sync_directory(directory)


def _name_aside(directory: str, deed: Deed) -> str:
    """The name of something that lies in the folder of a deed and is no copy of our own making, or ""."""
    folder = folder_of(directory, deed.number)
    # A copy may have been taken in the midst of it, and its journal be older than its files.
    is_old = copied_deed.is_alike if copied_deed.is_copied(directory, deed) else Content.is_same
    for places in _places(directory, deed):
        lies_ready = incoming_path(folder, places.move)
        is_old_there = places.move.before is not None and is_old(places.move.before, content_of(lies_ready))
        if is_old_there or os.path.lexists(places.kept):
            return places.move.target
    return ""


def _remove_own(folder: str, but: str = "") -> None:
    """Remove what the deed needed for its work: copies that were not needed, journals that a crash cut off."""
    shutil.rmtree(os.path.join(folder, INCOMING_NAME), ignore_errors=True)
    for name in names_in(folder):
        if (name == JOURNAL_NAME and name != but) or is_unwritten_journal(name):
            files.remove_if_there(os.path.join(folder, name))


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def _refused(error: OSError, directory: str, deed: Deed) -> CkptError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CkptError(
            "The disk is full", f"no room to work in {directory}; nothing was changed", "Free some space first."
        )
    read = [move.source_path(directory) for move in deed.moves if move.how == "copy"]
    where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    is_source = any(where == path or where.startswith(f"{path}/") for path in read)
    said = from_os_error(error, where or directory, "read" if is_source else "write to")
    return CkptError(said.title, f"{said.message}; nothing was changed", said.hint)
