"""Opens any checkpoint: the reader is found by content, never by the file's name."""

from __future__ import annotations

import os
import stat

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.facts import add_facts
from ckpt_tui.checkpoints.garbage import GarbageHeld
from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.readers.base import READERS
from ckpt_tui.errors import CkptError, from_os_error

_HEAD_BYTES = 512
_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def sniff(path: str | os.PathLike[str]) -> str | None:
    """The format of the file at `path` by its first bytes; None for what is no checkpoint that we read."""
    try:
        with _open(os.fspath(path)) as file:
            file_bytes = os.fstat(file.fileno()).st_size
            head = read_exactly(file.fileno(), min(_HEAD_BYTES, file_bytes), 0, os.fspath(path))
    except (CkptError, OSError):
        return None
    return next((found for reader in READERS if (found := reader.sniff(head, file_bytes))), None)


def open_checkpoint(path: str | os.PathLike[str], limits: ReadLimits = DEFAULT_LIMITS) -> Checkpoint:
    """Everything that is known of the checkpoint at `path`, without its tensor data.

    Raises CkptError when there is none, or it cannot be decoded; damage that leaves its state readable is a finding.
    """
    where = os.fspath(path)
    try:
        with _open(where) as file, GarbageHeld():
            descriptor = file.fileno()
            file_bytes = os.fstat(descriptor).st_size
            head = read_exactly(descriptor, min(_HEAD_BYTES, file_bytes), 0, where)
            for reader in READERS:
                if reader.sniff(head, file_bytes) is not None:
                    checkpoint = reader.read(descriptor, file_bytes, where, limits)
                    add_facts(checkpoint)
                    return checkpoint
    except OSError as error:
        raise from_os_error(error, where) from error
    raise _not_a_checkpoint(where, head)


class _open:  # noqa: N801 - a context manager that reads like open()
    """A regular file opened for reading; never waits on a pipe."""

    def __init__(self, path: str) -> None:
        self._path = path

    def fileno(self) -> int:
        return self._descriptor

    def __enter__(self) -> _open:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                raise from_os_error(error, self._path) from error
            raise CkptError("Not found", "a path cannot hold a NUL byte") from None
        mode = os.fstat(self._descriptor).st_mode
        if stat.S_ISREG(mode):
            return self
        os.close(self._descriptor)
        if stat.S_ISDIR(mode):
            raise CkptError(
                "Not a checkpoint",
                f"{self._path} is a directory; directory layouts are not read yet",
                f"Name a file in it, or list it: ckpt-tui list {self._path}",
            )
        raise CkptError("Not a checkpoint", f"{self._path} is not a regular file")

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _not_a_checkpoint(path: str, head: bytes) -> CkptError:
    """Say what it looks like instead."""
    if not head:
        return CkptError(
            "Empty file", f"{path} has no bytes: the save never wrote it", "Use a backup, if there is one."
        )
    start = head.lstrip()[:64].lower()
    if _LEGACY_MAGIC in head[:32]:
        what, hint = "torch's format before 1.6, which is known, but not read yet", "Save it again with a newer torch."
    elif head[:1] == b"\x80" and b"\0" < head[1:2] <= b"\x05":
        what, hint = "a plain pickle, which is known, but not read yet", "Do not unpickle it unless you made it."
    elif head.startswith(b"version https://git-lfs"):
        what, hint = "a Git LFS pointer, not the file itself", "Fetch it: git lfs pull"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml")):
        what, hint = "a web page: a download that failed, saved under this name", "Download it again."
    elif head[:2] == b"\x1f\x8b":
        what, hint = "compressed with gzip", f"Unpack it first: gzip -dk {path}"
    elif not head.strip(b"\0"):
        what, hint = "nothing but zeros: a crash left a hole", "Use a backup, if there is one."
    elif _is_text(head):
        what, hint = "text", "Look at it with `less`."
    else:
        what, hint = "none of the formats that are known", "If a program wrote it, name the program in an issue."
    return CkptError("Not a checkpoint", f"{path} is {what}", hint)


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last character may be cut."""
    from codecs import utf_8_decode

    try:
        words, _ = utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        return False
    return not any((char < " " and char not in "\t\n\r") or char == "\x7f" for char in words)
