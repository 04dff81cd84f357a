"""A regular file opened for reading, and nothing else: never waits on a pipe, never reads a device."""

from __future__ import annotations

import os
import stat

from ckpt_tui.checkpoints.model import Checkpoint, Storage
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.text import safe_text


class RegularFile:
    """`with RegularFile(path) as file:` gives its `descriptor` and `file_bytes`. Raises CkptError when it cannot."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = -1
        self.file_bytes = 0

    def __enter__(self) -> RegularFile:
        try:
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise from_os_error(error, self.path) from error
            raise CkptError("Not found", "a path cannot hold a NUL byte") from None
        status = os.fstat(self.descriptor)
        if stat.S_ISREG(status.st_mode):
            self.file_bytes = status.st_size
            return self
        os.close(self.descriptor)
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise CkptError("Not a checkpoint", f"{self.path} is {kind}")

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def storage_path(checkpoint: Checkpoint, storage: Storage) -> str:
    """The file that holds a storage; CkptError when the name leads out of the checkpoint."""
    if not storage.file:
        return checkpoint.path
    parts = storage.file.split("/")
    if storage.file.startswith("/") or ".." in parts or "\0" in storage.file:
        raise CkptError("Not inside the checkpoint", f"it names the file {safe_text(storage.file)}")
    return os.path.join(checkpoint.path, *parts)
