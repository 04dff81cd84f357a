"""Trainers and other viewers, kept out of a run directory while files change hands."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.services import files
from ckpt_tui.services.copied_record import is_of_another
from ckpt_tui.services.deed_record import FOLDER_NAME
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.system import lock_owner, process_is_alive
from ckpt_tui.text import run_word

LOCK_NAME = "trainer.lock"
_LOCK_PATIENCE_S = 0.15
# Who is no trainer and changes no files holds a lock for a moment: a look whether a trainer lives, a start, a process
# that dies. On a busy machine such a moment is long.
MOMENT_S = 2.0
_MAX_ATTEMPTS = 20


@contextmanager
def locked(directory: str, *, force: bool = False) -> Iterator[None]:
    """Keep trainers and other viewers out while files change hands; makes the deeds' folder if need be.

    Holds the trainer's own lock where there is one, without touching what it says, the run directory (as a trainer
    does, and who starts one: `start_lock.py`), and the deeds' folder.
    Raises CkptError when a trainer holds its lock or was started just now (unless `force`), or another viewer is at
    work.
    """
    root = os.path.join(directory, FOLDER_NAME)
    descriptors = []
    is_ours = False
    try:
        lock = _lock(os.path.join(directory, LOCK_NAME), os.O_RDONLY, lambda: _is_trained_in(directory))
        if isinstance(lock, int):
            descriptors.append(lock)
        elif lock is BlockingIOError and not force:
            raise CkptError(
                "A training is running here",
                f"its lock {os.path.join(directory, LOCK_NAME)} is held",
                f"Stop it first (`ckpt-tui stop {run_word(directory)}`), or say --force if you know better.",
            )
        folder = _lock_folder(root)
        if isinstance(folder, int):
            descriptors.append(folder)
            is_ours = True
        elif folder is BlockingIOError:
            raise CkptError(
                "Another viewer is at work", f"it is changing files in {directory} right now", "Try again in a moment."
            )
        held = _lock(directory, os.O_RDONLY | os.O_DIRECTORY, lambda: force or _is_started_in(directory))
        if isinstance(held, int):
            descriptors.append(held)
        if not force:
            _refuse_started(directory, is_held=held is BlockingIOError)
        yield
    finally:
        if is_ours:
            with suppress(OSError):
                if not os.listdir(root):  # nothing was done
                    os.rmdir(root)
        for descriptor in reversed(descriptors):
            os.close(descriptor)


def _refuse_started(directory: str, *, is_held: bool) -> None:
    """A training that has been started and has not taken its lock yet; nobody can start one once we hold ours."""
    record = read_record(directory)
    is_alive = _is_started_in(directory)
    if is_held or is_alive:
        who = f"process {record.pid} was started" if record is not None and is_alive else "somebody holds it"
        raise CkptError(
            "A training is running here",
            f"{who} in {directory}",
            f"Stop it first (`ckpt-tui stop {run_word(directory)}`), or say --force if you know better.",
        )


def _is_trained_in(directory: str) -> bool:
    """Whether the trainer lives that the lock names, as far as can be known here."""
    owner = lock_owner(directory)
    return owner is not None and process_is_alive(owner) is not False


def _is_started_in(directory: str) -> bool:
    record = read_record(directory)
    if record is None or not process_is_alive(record.process):
        return False
    return not is_of_another(directory, record.directory, record.pid, record.host)


def _lock_folder(root: str) -> int | type[BlockingIOError] | None:
    """The same of the deeds' folder, which is made if need be. Another viewer may remove it, as it had made it,
    while we wait for it: then the one that has its name by now is the one to hold."""
    for _ in range(_MAX_ATTEMPTS):
        try:
            files.make_directory(root)
        except FileExistsError as error:
            raise CkptError(
                "Not a directory",
                f"{root} is a link or a file: what is set aside lies in a directory of that name; nothing was changed",
                "Put the directory in its place, or give it another name.",
            ) from error
        except OSError as error:
            raise from_os_error(error, root, "write to") from error
        lock = _lock(root, os.O_RDONLY | os.O_DIRECTORY, lambda: False)
        if not isinstance(lock, int):
            return lock
        try:
            if os.path.samestat(os.fstat(lock), os.lstat(root)):
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)
    return BlockingIOError


def _lock(path: str, flags: int, is_owned: Callable[[], bool]) -> int | type[BlockingIOError] | None:
    """A descriptor that holds the lock; BlockingIOError when somebody else does; None where there is none to take.

    is_owned: whether who holds it will go on doing so.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited_s = time.monotonic() - began
            if waited_s < _LOCK_PATIENCE_S or (waited_s < MOMENT_S and not is_owned()):
                time.sleep(0.01)
                continue
            os.close(descriptor)
            return BlockingIOError
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        return descriptor
