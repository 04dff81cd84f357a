"""Only one training is started in a run directory at a time, and none while files change hands in it.

The lock is the kernel's, on the directory itself; a trainer of ours holds the same one for its life. It is handed to
the new process, which lets it go when it has become the training: by then `launch.json` names it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.services import journal
from ckpt_tui.text import run_word

# A start holds it for some hundredths of a second, a second on a busy machine; who waits so long is told who won.
PATIENCE_S = 10.0
_DEED_PATIENCE_S = 1.0  # an act lasts; the lock of a viewer that was killed does not
_FILE_NAME = ".start.lock"


@contextmanager
def starting(directory: str) -> Iterator[int]:
    """Hold the lock; gives its descriptor, -1 where the file system has no locks.

    Raises CkptError when another one holds it for long, or when an act on the directory is at work or unfinished.
    """
    _refuse_deeds(directory)  # in its own words, and not only as somebody who holds the lock
    lock = _lock(directory)
    try:
        _refuse_deeds(directory)
        yield lock
    finally:
        if lock >= 0:
            os.close(lock)


def _lock(directory: str) -> int:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os_error(error, directory) from error
    try:
        if _flock(descriptor, PATIENCE_S):
            return descriptor
    except OSError:  # some network file systems lock files only
        os.close(descriptor)
        return _lock_file(os.path.join(directory, _FILE_NAME))
    os.close(descriptor)
    raise _busy(directory)


def _lock_file(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise from_os_error(error, path, "write to") from error
    try:
        if _flock(descriptor, PATIENCE_S):
            return descriptor
    except OSError:
        os.close(descriptor)
        return -1
    os.close(descriptor)
    raise _busy(os.path.dirname(path))


def _flock(descriptor: int, patience_s: float, kind: int = fcntl.LOCK_EX) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def _busy(directory: str) -> CkptError:
    return CkptError(
        "Somebody is at work here",
        f"another process holds the lock on {directory}: a training that is being started, or one that runs",
        f"Try again in a moment; `ckpt-tui status {run_word(directory)}` tells what runs, "
        f"`fuser -v {run_word(directory)}` who has it open.",
    )


def _refuse_deeds(directory: str) -> None:
    """A training must not begin on files that are changing hands."""
    folder = os.path.join(directory, journal.FOLDER_NAME)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        is_free = _flock(descriptor, _DEED_PATIENCE_S, fcntl.LOCK_SH)
    except OSError:
        is_free = True
    finally:
        os.close(descriptor)
    if not is_free:
        raise CkptError(
            "Another viewer is at work", f"it is changing files in {directory} right now", "Try again in a moment."
        )
    left = journal.unfinished(directory)
    if left:
        raise CkptError(
            "An act is not finished",
            f"the {left[0].act} of {journal.when(left[0])} in {directory} was interrupted",
            f"Plan the start again (`ckpt-tui resume {run_word(directory)}`): that completes it first, and chooses the "
            "checkpoint anew.",
        )
