"""What a person has read in a plan has to hold when it is done: one way to look, and one to say that it does not."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckpt_tui.errors import CkptError
from ckpt_tui.services.deed_record import FOLDER_NAME
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.text import safe_text


def is_as_planned(path: str, was: Content | None) -> bool:
    """Whether at `path` lies what lay there, or nothing where there was nothing. Links are not followed."""
    now = content_of(path)
    return now is None if was is None else was.is_same(now)


def has_changed(names: Sequence[str], nothing: str = "nothing was changed") -> CkptError:
    """What to say where names, one or more, are not what they were. nothing: what has not been done for that."""
    is_one = len(names) == 1
    which = safe_text(names[0], 200) + ("" if is_one else f" and {len(names) - 1:,} more")
    what = "is not what it was" if is_one else "are not what they were"
    return CkptError("The directory has changed", f"{which} {what} when this was planned; {nothing}", "Plan it again.")


def require_place(directory: str, nothing: str = "nothing was changed") -> None:
    """Raise CkptError where no deed can be: the directory is gone, may not be written, or its deeds lie elsewhere."""
    if not os.path.isdir(directory):
        raise CkptError("Not found", f"{directory} is gone since this was planned", "Was it moved, or deleted?")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise CkptError(
            "Read-only directory", f"may not write to {directory}; {nothing}", "Run as the user who owns it."
        )
    folder = os.path.join(directory, FOLDER_NAME)
    if os.path.islink(folder):
        raise CkptError(
            "Not a directory",
            f"{folder} is a link; {nothing}",
            "What is set aside lies in a directory of that name: put it in its place.",
        )
