"""The renames of a deed, forward and back: each may find any part of itself done already, by a crash or a power cut.

Of every move two contents matter: the old one (`before`) and the new one (`after`). Forward, the old one goes to the
deed's folder (`kept`) and the new one from where it lies ready (`origin`) to the name (`target`); back, the reverse.

A file is replaced by one rename, after the old one was given its second name: the name is never without a file. A
directory with something in it is replaced by no rename: the two names are exchanged in one step (`renameat2`), and the
old one, which then lies at `origin`, goes to `kept`. Where the file system cannot exchange (NFS, old kernels), the old
one is moved away first and the name is missing for an instant; the journal, durable since `prepared`, completes it.
"""

from __future__ import annotations

import errno
import os

from ckpt_tui.services import files
from ckpt_tui.services.deed_record import INCOMING_NAME, Move
from ckpt_tui.services.files import Content, content_of


class Places:
    """Where the two contents of a move may lie."""

    def __init__(self, directory: str, folder: str, move: Move) -> None:
        self.move = move
        self.target = os.path.join(directory, move.target)
        self.kept = os.path.join(folder, move.target)
        is_move = move.how == "rename"
        self.origin = os.path.join(directory, move.source) if is_move else incoming_path(folder, move)

    def sync(self) -> None:
        """Make the names in all three directories durable."""
        for parent in {os.path.dirname(path) for path in (self.target, self.kept, self.origin)}:
            if os.path.isdir(parent):
                files.sync_directory(parent)


def incoming_path(folder: str, move: Move) -> str:
    """Where the new content of a move is made."""
    return os.path.join(folder, INCOMING_NAME, move.target)


def put_in_place(places: Places) -> bool:
    """Do what is not done yet of a move. False when the name holds neither the old content nor the new one: somebody
    else wrote it, and nothing is touched."""
    move = places.move
    now, aside = content_of(places.target), content_of(places.kept)
    if move.how == "remove":
        if now is None:
            return _same(move.before, aside)
        if not _same(move.before, now):
            return False
        if aside is None:
            os.rename(places.target, places.kept)
            return True
        if aside.inode != now.inode or now.is_directory or not _same(move.before, aside):
            return False
        os.unlink(places.target)  # a power cut kept both names of the one file: a rename would, too
        return True
    if _same(move.after, now):
        if move.before is not None and aside is None and _same(move.before, content_of(places.origin)):
            os.rename(places.origin, places.kept)  # after an exchange
        return True
    is_old = now is None if move.before is None else move.before.is_same(now)
    if not is_old and not (now is None and _same(move.before, aside)):
        return False
    if not _same(move.after, content_of(places.origin)) or (aside is not None and not _same(move.before, aside)):
        return False  # somebody cleaned up, or put something, in the deed's folder
    if now is None:
        os.rename(places.origin, places.target)
    elif not now.is_directory and move.after is not None and not move.after.is_directory:
        if aside is None:
            # A second name first, then the new content over the first: no moment without a file of that name.
            files.link_or_move(places.target, places.kept)
            files.sync_directory(os.path.dirname(places.kept))
        os.replace(places.origin, places.target)
    elif files.exchange(places.origin, places.target):
        places.sync()
        os.rename(places.origin, places.kept)
    else:
        os.rename(places.target, places.kept)
        places.sync()
        os.rename(places.origin, places.target)
    return True


def take_back(places: Places) -> None:
    """Undo what is done of a move. OSError leaves what can be completed or taken back later."""
    move = places.move
    now, aside = content_of(places.target), content_of(places.kept)
    if move.how != "remove" and move.after is not None and move.after.is_same(now):
        if move.before is None:
            os.rename(places.target, places.origin)
            return
        if _same(move.before, aside):
            old_at = places.kept
        elif _same(move.before, content_of(places.origin)):
            old_at = places.origin
        else:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), places.kept)
        _put_old_back(places, old_at, is_file=not move.after.is_directory and not move.before.is_directory)
        return
    if aside is None or not _same(move.before, aside):
        return
    if now is None:
        os.rename(places.kept, places.target)
    elif aside.is_same(now) and not aside.is_directory:
        os.unlink(places.kept)  # a second name of the very same file: renaming would leave both
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), places.target)


def _put_old_back(places: Places, old_at: str, *, is_file: bool) -> None:
    """The new content, which has the name, to where it came from, and the old one from `old_at` to the name."""
    if is_file and old_at == places.kept:
        # Link the new content back out first, so that the name is never without a file.
        files.link_or_move(places.target, places.origin)
        os.replace(places.kept, places.target)
        return
    # The same states as on the way forward, so that a crash here is completed as one there.
    if old_at == places.kept:
        os.rename(places.kept, places.origin)
    if files.exchange(places.origin, places.target):
        return
    os.rename(places.origin, places.kept)
    places.sync()
    os.rename(places.target, places.origin)
    os.rename(places.kept, places.target)


def _same(wanted: Content | None, found: Content | None) -> bool:
    return wanted is not None and wanted.is_same(found)
