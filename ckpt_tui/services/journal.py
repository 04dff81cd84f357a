"""The journal of deeds: a crash at any file operation leaves every file whole, and the deed completable or undoable.

A deed changes names in one run directory. Its folder `set_aside/<number>/` holds `journal.json`, every file that was
replaced or taken away, under its own name, and while it lasts `incoming/`, copies on their way in. Its journal goes

    intent -> prepared -> moved -> done          (each written durably before the next thing happens)

Until `prepared` nothing outside the folder has changed: an unfinished deed is cancelled, its folder removed.
From `prepared` on, every copy is on the device and verified, only renames are left: an unfinished deed is completed.
A name that somebody else has written since is never touched: then the deed ends as `conflict` and says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from ckpt_tui.errors import Cancelled, CkptError, from_os_error
from ckpt_tui.services import files
from ckpt_tui.services.files import Content, content_of

FOLDER_NAME = "set_aside"
JOURNAL_NAME = "journal.json"
INCOMING_NAME = "incoming"
LOCK_NAME = "trainer.lock"
MAX_JOURNAL_BYTES = 16 * 1024 * 1024

_LOCK_PATIENCE_S = 0.15

INTENT, PREPARED, MOVED, DONE, CONFLICT = "intent", "prepared", "moved", "done", "conflict"
COLLECTED = "collected"  # what it had set aside was freed by gc, or is being freed: it cannot be taken back any more


class Move(msgspec.Struct):
    """One name of the run directory that changes hands.

    before: what it was, None when it was not there. Afterwards it is: a copy of the file `source` (how="copy"), the
    bytes `data` of a small file (how="write"), the file `source` itself, which moves (how="rename"), or not there
    (how="remove": it only goes to the deed's folder). after: what it became, known from `prepared` on.
    `source` is relative to the run directory. was: the verdict on what is set aside, as far as it was known then.
    """

    target: str
    how: str
    before: Content | None = None
    source: str = ""
    after: Content | None = None
    data: bytes | None = None
    was: str = ""


class LogEntry(msgspec.Struct):
    """The `checkpoint_restored` event that a deed writes."""

    path: str
    source: str
    why: str
    step: int = 0


class Deed(msgspec.Struct):
    """One act on a run directory, as its journal tells it.

    takes_back: the deeds that an undo takes back, or the undo that a redo does; `undoes` is the newest of them.
    """

    number: int
    act: str
    state: str
    moves: list[Move]
    log: list[LogEntry] = []
    sentences: list[str] = []
    started_at: float = 0.0
    pid: int = 0
    host: str = ""
    undoes: int | None = None
    undone_by: int | None = None
    conflicts: list[str] = []
    version: int = 1
    takes_back: list[int] = []
    collected_at: float = 0.0


def folder_of(directory: str, number: int) -> str:
    """Where a deed keeps its journal and what it set aside."""
    return os.path.join(directory, FOLDER_NAME, str(number))


def when(deed: Deed) -> str:
    """When a deed was begun, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(deed.started_at))


def read_deeds(directory: str) -> list[Deed]:
    """Every deed of a run directory, the oldest first. Folders without a readable journal are left out."""
    deeds = []
    for number in deed_numbers(directory):
        deed = read_deed(directory, number)
        if deed is not None:
            deeds.append(deed)
    return deeds


def unfinished(directory: str) -> list[Deed]:
    """Deeds that a crash interrupted, the oldest first; also one that died before the first line of its journal."""
    found = []
    for number in deed_numbers(directory):
        deed = read_deed(directory, number)
        if deed is not None and deed.state in (INTENT, PREPARED, MOVED):
            found.append(deed)
        elif deed is None and all(_is_unwritten_journal(name) for name in _names(folder_of(directory, number))):
            status = os.stat(folder_of(directory, number))
            found.append(Deed(number=number, act="act", state=INTENT, moves=[], started_at=status.st_mtime))
    return found


def _is_unwritten_journal(name: str) -> bool:
    return name.startswith(f".{JOURNAL_NAME}.tmp-")


@contextmanager
def locked(directory: str, *, force: bool = False) -> Iterator[None]:
    """Keep trainers and other viewers out while files change hands; makes the deeds' folder if need be.

    Holds the trainer's own lock where there is one, without touching what it says, and the deeds' folder.
    Raises CkptError when a trainer holds its lock (unless `force`) or another viewer is at work.
    """
    root = os.path.join(directory, FOLDER_NAME)
    descriptors = []
    try:
        lock = _lock(os.path.join(directory, LOCK_NAME), os.O_RDONLY)
        if isinstance(lock, int):
            descriptors.append(lock)
        elif lock is BlockingIOError and not force:
            raise CkptError(
                "A training is running here",
                f"its lock {os.path.join(directory, LOCK_NAME)} is held",
                "Stop it first (`ckpt-tui stop DIR`), or say --force if you know better.",
            )
        try:
            files.make_directory(root)
        except OSError as error:
            raise from_os_error(error, root, "write to") from error
        folder = _lock(root, os.O_RDONLY | os.O_DIRECTORY)
        if isinstance(folder, int):
            descriptors.append(folder)
        elif folder is BlockingIOError:
            raise CkptError(
                "Another viewer is at work", f"it is changing files in {directory} right now", "Try again in a moment."
            )
        yield
    finally:
        for descriptor in reversed(descriptors):
            os.close(descriptor)


def _lock(path: str, flags: int) -> int | type[BlockingIOError] | None:
    """A descriptor that holds the lock; BlockingIOError when somebody else does; None where there is none to take."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Every look whether a trainer lives holds the lock for microseconds; a trainer holds it for life.
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            os.close(descriptor)
            return BlockingIOError
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        return descriptor


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
            write_deed(directory, deed)
            _prepare(directory, deed, advance)
            advance(0)
            deed.state = PREPARED
            write_deed(directory, deed)
        except OSError as error:
            _back_out(directory, deed)
            raise _refused(error, directory) from error
        except BaseException:  # cancelled, or Ctrl-C: nothing has its new name yet
            _back_out(directory, deed)
            raise
        try:
            _apply(directory, deed)
        except OSError as error:
            _back_out(directory, deed)
            raise _refused(error, directory) from error
        try:
            _finish(directory, deed, finish)
        except OSError as error:
            raise _left_for_later(error, directory, deed) from error
    return deed


def _expect_unchanged(directory: str, move: Move) -> None:
    now = content_of(os.path.join(directory, move.target))
    if (move.before is None and now is not None) or (move.before is not None and not move.before.is_same(now)):
        raise CkptError(
            "The directory has changed",
            f"{move.target} is not what it was when this was planned; nothing was changed",
            "Plan it again.",
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
                if deed.state == INTENT:
                    _cancel(directory, deed)
                    said.append(
                        f"The {deed.act} of {when(deed)} was interrupted before it changed anything: cleaned up."
                    )
                    continue
                if deed.state == PREPARED:
                    _apply(directory, deed)
                if deed.conflicts:
                    _finish(directory, deed, finish, state=CONFLICT)
                    said.append(
                        f"The {deed.act} of {when(deed)} was interrupted, and since then somebody wrote "
                        f"{', '.join(deed.conflicts)}: left alone. What it moved is in {FOLDER_NAME}/{deed.number}/."
                    )
                else:
                    _finish(directory, deed, finish)
                    said.append(f"The {deed.act} of {when(deed)} was interrupted: now completed.")
            except OSError as error:
                raise from_os_error(error, directory, "complete an interrupted deed in") from error
    return said


def _prepare(directory: str, deed: Deed, on_bytes: Callable[[int], None]) -> None:
    """Bring every new content into `incoming/`, durable and verified. Changes nothing outside the deed's folder."""
    incoming = os.path.join(folder_of(directory, deed.number), INCOMING_NAME)
    made = False
    for move in deed.moves:
        if move.how in ("copy", "write") and not made:
            files.make_directory(incoming)
            made = True
        target = os.path.join(incoming, move.target)
        if move.how == "copy":
            move.after = files.copy_verified(os.path.join(directory, move.source), target, on_bytes)
        elif move.how == "write":
            assert move.data is not None
            files.write_file(target, move.data)
            mode = files.content_mode(os.path.join(directory, move.target))
            if mode is not None:
                os.chmod(target, mode)
            move.after = content_of(target)
        elif move.how == "rename":
            move.after = content_of(os.path.join(directory, move.source))
            if move.after is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.path.join(directory, move.source))
    if made:
        files.sync_directory(incoming)


def _apply(directory: str, deed: Deed) -> None:
    """Do the renames that are not done yet. A target that is neither old nor new ends it as a conflict."""
    folder = folder_of(directory, deed.number)
    for move in deed.moves:
        target, kept = os.path.join(directory, move.target), os.path.join(folder, move.target)
        now = content_of(target)
        if _is_made(move, now, content_of(kept)):
            continue
        is_expected = move.before.is_same(now) if move.before is not None else now is None
        if not is_expected and not (now is None and _same(move.before, content_of(kept))):
            deed.conflicts = [move.target]
            break
        if move.how == "remove":
            os.rename(target, kept)
            continue
        if now is not None and content_of(kept) is None:
            # A second name first, then the new content over the first: no moment without a file of that name.
            files.link_or_move(target, kept)
            files.sync_directory(folder)
        os.replace(_origin(directory, folder, move), target)
    files.sync_directory(folder)
    files.sync_directory(directory)
    for parent in {os.path.dirname(_origin(directory, folder, move)) for move in deed.moves if move.how == "rename"}:
        files.sync_directory(parent)


def _is_made(move: Move, now: Content | None, kept: Content | None) -> bool:
    if move.how == "remove":
        return now is None and _same(move.before, kept)
    return move.after is not None and move.after.is_same(now)


def _same(wanted: Content | None, found: Content | None) -> bool:
    return wanted is not None and wanted.is_same(found)


def _origin(directory: str, folder: str, move: Move) -> str:
    """Where the new content of a move lies until it is moved in."""
    if move.how == "rename":
        return os.path.join(directory, move.source)
    return os.path.join(folder, INCOMING_NAME, move.target)


def _revert(directory: str, deed: Deed) -> None:
    """Take the renames back that were done, the last one first. OSError here leaves a journal to complete later."""
    folder = folder_of(directory, deed.number)
    for move in reversed(deed.moves):
        target, kept = os.path.join(directory, move.target), os.path.join(folder, move.target)
        now, aside = content_of(target), content_of(kept)
        if move.how != "remove" and move.after is not None and move.after.is_same(now):
            if aside is not None:
                # Link the new content back out first, so that the name is never without a file.
                files.link_or_move(target, _origin(directory, folder, move))
            else:
                os.rename(target, _origin(directory, folder, move))
        if aside is None:
            continue
        if aside.is_same(content_of(target)):
            os.unlink(kept)  # a second name of the very same file: renaming would leave both
        else:
            os.rename(kept, target)
    files.sync_directory(directory)


def _finish(directory: str, deed: Deed, finish: Callable[[Deed], None], state: str = DONE) -> None:
    """What follows the renames. Each part may be done twice without harm, for a crash between them."""
    if deed.state != MOVED:
        deed.state = MOVED
        write_deed(directory, deed)
    if not deed.conflicts:
        finish(deed)
        shutil.rmtree(os.path.join(folder_of(directory, deed.number), INCOMING_NAME), ignore_errors=True)
    deed.state = state
    write_deed(directory, deed)


def _cancel(directory: str, deed: Deed) -> None:
    """Remove the folder of a deed that changed nothing: only copies of our own making are in it."""
    folder = folder_of(directory, deed.number)
    leftover = {move.target for move in deed.moves} & set(_names(folder))
    if leftover:
        raise OSError(errno.ENOTEMPTY, f"{', '.join(sorted(leftover))} is still set aside", folder)
    shutil.rmtree(os.path.join(folder, INCOMING_NAME), ignore_errors=True)
    for name in _names(folder):
        if name == JOURNAL_NAME or _is_unwritten_journal(name):
            files.remove_if_there(os.path.join(folder, name))
    for path in (folder, os.path.join(directory, FOLDER_NAME)):  # the second goes only if this was the first deed
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
    files.sync_directory(directory)


def _refused(error: OSError, directory: str) -> CkptError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CkptError(
            "The disk is full", f"no room for the copies in {directory}; nothing was changed", "Free some space first."
        )
    said = from_os_error(error, error.filename or directory, "write to")
    return CkptError(said.title, f"{said.message}; nothing was changed", said.hint)


def deed_numbers(directory: str) -> list[int]:
    """The numbers of all folders that may be those of deeds, also where the journal cannot be read."""
    return sorted(
        int(name) for name in _names(os.path.join(directory, FOLDER_NAME)) if name.isdecimal() and len(name) < 10
    )


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_deed(directory: str, deed: Deed) -> None:
    """Make the journal of a deed say what `deed` says, durably and at once."""
    data = msgspec.json.format(msgspec.json.encode(deed), indent=1)
    files.write_file(os.path.join(folder_of(directory, deed.number), JOURNAL_NAME), data + b"\n")


def read_deed(directory: str, number: int) -> Deed | None:
    """The journal of a deed; None when there is none (a crash before its first line) or it is not ours.

    A journal that names files outside the run directory is not ours: names are single path parts, sources at most
    `set_aside/<n>/name`.
    """
    path = os.path.join(folder_of(directory, number), JOURNAL_NAME)
    try:
        with open(path, "rb") as file:
            deed = msgspec.json.decode(file.read(MAX_JOURNAL_BYTES), type=Deed)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, RecursionError):
        return None
    is_ours = deed.number == number and all(
        _is_plain(move.target) and (not move.source or all(map(_is_plain, move.source.split("/"))))
        for move in deed.moves
    )
    return deed if is_ours else None


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\x00" not in name
