"""One trainer per run directory. The lock is the kernel's: it ends with its owner, however that one ends.

On a filesystem that has no such locks (Lustre without `flock`, some network mounts) what the file says counts instead:
the process that it names, while that one runs on this host.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import time
import weakref
from collections.abc import Callable
from typing import Any

from ckpt_tui.process_identity import ProcessIdentity, process_is_alive
from trainer.errors import UsageError

LOCK_NAME = "trainer.lock"
_PATIENCE_SECONDS = 0.2
# Who is no trainer holds it for a moment only: a watch that looks, a start that makes sure that it is alone, a trainer
# that dies. On a machine that is busy such a moment may be long, and a training that does not start is lost time.
_MOMENT_SECONDS = 10.0
# How long another one that started in the same instant has to write its name over ours, without kernel locks.
_SETTLE_SECONDS = 0.1
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class DirectoryLock:
    """Held until `release` or the end of the process. Raises UsageError when somebody else has it, or none can be had.

    warning: what a person should know of it, "" for nothing.
    """

    def __init__(self, directory: str) -> None:
        self.warning = ""
        self._fd = _open(os.path.join(directory, LOCK_NAME))
        self._directory_fd = -1
        self._is_by_content = False
        try:
            try:
                is_ours = _lock(self._fd, lambda: _is_owned(_content(self._fd))) and self._lock_directory(directory)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise UsageError(f"{directory}/{LOCK_NAME} cannot be locked: {error.strerror}") from error
                self._is_by_content = True
                self.warning = (
                    f"the filesystem of {directory} has no file locks: a second trainer on another host is not noticed"
                )
                is_ours = not _runs_here(_content(self._fd))
            if not is_ours:
                raise _refused(directory, _content(self._fd))
            self._write_owner()
            if self._is_by_content:
                time.sleep(_SETTLE_SECONDS)
                if _content(self._fd).get("pid") != os.getpid():
                    raise _refused(directory, _content(self._fd))
        except BaseException:
            self._close()
            raise
        _held.add(self)

    def release(self) -> None:
        if self._fd < 0:
            return
        _held.discard(self)
        if self._is_by_content:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        self._close()

    def leave_to_parent(self) -> None:
        """In a child that was forked: the kernel's lock lasts as long as anybody has its file open, and a worker that
        outlives a killed training would keep the next one away."""
        self._close()

    def _lock_directory(self, directory: str) -> bool:
        """The directory as well, where the filesystem can: somebody may remove the file, as one that was forgotten,
        while its owner lives. False when somebody else has it."""
        try:
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return _lock(self._directory_fd, lambda: False)
        except OSError:
            return True

    def _close(self) -> None:
        for fd in (self._directory_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._directory_fd = self._fd = -1

    def _write_owner(self) -> None:
        """Say who we are, for people and the viewer. The lock is held without it, too: on a full disk, in a file of
        somebody else's."""
        content = {**ProcessIdentity.of().fields(), "started_at": time.time()}
        try:
            # In place: a file that replaced this one would not carry the lock.
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(content).encode() + b"\n", 0)
        except OSError as error:
            if self._is_by_content:
                raise UsageError(f"{LOCK_NAME} cannot be written, and nothing else keeps a second trainer away:"
                                 f" {error.strerror}") from error  # fmt: skip
            self.warning = f"{LOCK_NAME} does not say who holds it: {error.strerror}"


_held: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for lock in list(_held):
        lock.leave_to_parent()
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def _open(path: str) -> int:
    """The lock file, made if it is missing. One that we may only read can be locked as well."""
    flags = os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # not blocking: the name may be a FIFO
    try:
        try:
            fd = os.open(path, flags | os.O_RDWR, 0o644)
        except PermissionError:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    except IsADirectoryError:
        pass
    except OSError as error:
        raise UsageError(f"{path} cannot be opened: {error.strerror}") from error
    raise UsageError(f"{path} is not a file: a trainer keeps its lock under this name. Move it away.")


def _lock(fd: int, is_owned: Callable[[], bool]) -> bool:
    """Take the lock; False when a trainer has it. is_owned: whether one says so; nobody else has it for long."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited >= _MOMENT_SECONDS or (waited >= _PATIENCE_SECONDS and is_owned()):
                return False
            time.sleep(0.005)
        else:
            return True


def _content(fd: int) -> dict[str, Any]:
    try:
        fields = json.loads(os.pread(fd, 4096, 0))
    except (ValueError, OSError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_owned(fields: dict[str, Any]) -> bool:
    """Whether a lock file names a trainer that lives, as far as can be known here. Of one on another host, or in
    another container, nothing can."""
    return _is_alive(fields) is not False


def _runs_here(fields: dict[str, Any]) -> bool:
    """Whether the process that a lock file names is seen to run: that one, and not another with its number."""
    return _is_alive(fields) is True


def _is_alive(fields: dict[str, Any]) -> bool | None:
    try:
        named = ProcessIdentity.from_fields({"pid_started": 0.0, **fields})
    except (ValueError, KeyError, TypeError, OverflowError):
        return False
    return process_is_alive(named) if named.pid > 0 else False


def _refused(directory: str, fields: dict[str, Any]) -> UsageError:
    try:
        owner = f" (process {int(fields['pid'])} on {fields['host']!s})"
    except (ValueError, KeyError, TypeError, OverflowError):
        owner = ""
    return UsageError(f"Another process trains in {directory}{owner}. Stop it first, or choose another --out.")
