"""The one exception for everything that a person can do something about.

`title` says what is wrong, `message` where and why, `hint` what to do. `cli.py` turns it into exit code 2 and
the screens into a dialog; anything else that is raised is a bug of ours and is allowed to look like one.
"""

from __future__ import annotations

import errno

_NO_ROOM = "Make room, or give another place."
_FAILING = "The disk or the network mount may be failing."
_WHAT_TO_DO = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "The limit on a file's size is too low: see `ulimit -f`, or give a place on another file system.",
    errno.EROFS: "The file system is read-only: give another place.",
    errno.ENAMETOOLONG: "The name is too long: give a shorter one.",
    errno.EBUSY: "Something else is using it: try again once that is done.",
    errno.ELOOP: "Its symbolic links lead in a circle: `ls -l` shows them.",
}


class CkptError(Exception):
    """Something is wrong with what we were given, not with us."""

    def __init__(self, title: str, message: str = "", hint: str = "") -> None:
        super().__init__(f"{title}: {message}" if message else title)
        self.title = title
        self.message = message
        self.hint = hint

    def as_json(self) -> dict[str, str]:
        """The shape promised for `errors` in every command's JSON."""
        return {"title": self.title, "message": self.message, "hint": self.hint}


def from_os_error(error: OSError, path: object, doing: str = "read") -> CkptError:
    """Say an operating system error about `path` the way a person would."""
    where = str(path)
    if isinstance(error, FileNotFoundError):
        return CkptError("Not found", f"there is nothing at {where}", "Check the path; `ls` its directory.")
    if isinstance(error, PermissionError):
        return CkptError(
            "No permission",
            f"may not {doing} {where}",
            "Run as the user who owns it, or ask for read access to the file and its directory.",
        )
    if isinstance(error, IsADirectoryError):
        from ckpt_tui.text import run_word

        return CkptError(
            "A directory",
            f"{where} is a directory, a file was expected",
            f"Name a file in it: `ckpt-tui list {run_word(where)}`.",
        )
    if isinstance(error, NotADirectoryError):
        return CkptError(
            "Not a directory",
            f"{where}, or a part of that path, is a file and not a directory",
            "Give the run directory: the one with events.jsonl and the checkpoints.",
        )
    reason = error.strerror or str(error)
    return CkptError(f"Cannot {doing}", f"{where}: {reason}", _WHAT_TO_DO.get(error.errno or 0, _FAILING))


class Cancelled(Exception):  # noqa: N818 - nothing is wrong: a person said stop
    """Long work was asked to end before it was done. Nothing was changed."""
