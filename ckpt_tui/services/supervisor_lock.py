"""One supervisor for a directory: the kernel's lock on `supervisor.lock`, held for as long as it is at work."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from ckpt_tui import text
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.services.supervisor_record import LOCK_NAME, read_fields
from ckpt_tui.services.system import process_is_alive

PATIENCE_S = 10.0  # on a busy machine


def locked(directory: str) -> int:
    """A descriptor that holds the directory's supervisor lock for as long as it is open."""
    path = os.path.join(directory, LOCK_NAME)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise from_os_error(error, path, "write to") from error
    try:
        _take(descriptor, directory)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            fields = read_fields(directory)
            word = text.run_word(directory)
            who = f"process {fields.get('pid')} on {text.safe_text(fields.get('host') or 'this host', 60)}"
            raise CkptError(
                "Supervised already",
                f"{who} supervises {directory}",
                f"`ckpt-tui supervise {word} --status` tells how it stands, `ckpt-tui stop {word}` ends it and the "
                "training.",
            ) from error
        # A file system without locks: what the record says has to do.
        pid = _living(directory)
        if pid is not None:
            os.close(descriptor)
            raise CkptError(
                "Supervised already", f"process {pid} supervises {directory}", "Stop that one first."
            ) from None
    return descriptor


def _take(descriptor: int, directory: str) -> None:
    """Lock it. What the last supervisor forked holds its lock, too, until it sees that it is alone: where nobody lives
    whom the record names, that is waited for. Raises OSError as `flock` does."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK or _living(directory) is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _living(directory: str) -> int | None:
    """The supervisor that the record names, if it lives."""
    try:
        named = ProcessIdentity.from_fields(read_fields(directory))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return named.pid if process_is_alive(named) else None
