"""Names in directories, made durable and taken away: what every change to a person's files ends with. Loads nothing."""

from __future__ import annotations

import errno
import os


def sync_directory(path: str) -> None:
    """Make the names in a directory durable. File systems that cannot (some network ones) are left alone."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def remove_if_there(path: str) -> None:
    """Remove a file of our own making."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
