"""A deed that was interrupted in its renames, in a copy of the directory in which it was begun.

`cp -a` gives every file another inode, by which a deed knows its files. Its own folder tells a copy from a directory
in which somebody else wrote. Where sizes and times were kept, each file is known again by them, and by where it lies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from msgspec.structs import replace

from ckpt_tui.services.deed_record import FOLDER_NAME, INCOMING_NAME, Deed, Move, folder_of, when
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.services.renames import Places

_SECOND_NS = 1_000_000_000


def is_copied(directory: str, deed: Deed) -> bool:
    """Whether the folder of a deed is not the one that it made. Deeds of earlier versions do not tell."""
    return bool(deed.folder_inode) and os.lstat(folder_of(directory, deed.number)).st_ino != deed.folder_inode


def is_alike(content: Content | None, other: Content | None) -> bool:
    """Whether it is the same content, also in a copy of the whole run directory (`cp -a`), where inodes differ."""
    if content is None or other is None:
        return False
    if content.inode == other.inode or content.is_directory != other.is_directory:
        return content.is_same(other)
    return content.size_bytes == other.size_bytes and _is_same_time(content.mtime_ns, other.mtime_ns)


def _is_same_time(a_ns: int, b_ns: int) -> bool:
    """`tar` and some file systems keep whole seconds."""
    is_cut = 0 in (a_ns % _SECOND_NS, b_ns % _SECOND_NS)
    return a_ns == b_ns or (is_cut and a_ns // _SECOND_NS == b_ns // _SECOND_NS)


def known_again(places: Sequence[Places]) -> list[Move] | None:
    """The moves of a deed with the contents that lie in the copy; None where one of them is not known again."""
    moves = []
    for one in places:
        move = _known_again(one)
        if move is None:
            return None
        moves.append(move)
    return moves


def _known_again(places: Places) -> Move | None:
    move = places.move
    target, kept, origin = (content_of(path) for path in (places.target, places.kept, places.origin))
    if move.how == "remove":
        before = next((one for one in (kept, target) if is_alike(move.before, one)), None)
        return replace(move, before=before) if before is not None else None
    is_exchanged = move.after is not None and (
        move.after.is_directory or (move.before is not None and move.before.is_directory)
    )
    if is_exchanged and is_alike(move.before, move.after):
        return None  # either may lie where the new one was made
    before = None
    if move.before is not None:
        # Of files the new one leaves its place last: while it is there, the name has the old one.
        at = (kept, target, origin) if is_exchanged else (kept, target if origin is not None else None)
        before = next((one for one in at if is_alike(move.before, one)), None)
        if before is None:
            return None
    after = next((one for one in (origin, target) if is_alike(move.after, one)), None)
    return replace(move, before=before, after=after) if after is not None else None


def completed_words(deed: Deed) -> str:
    return f"The {deed.act} of {when(deed)} was interrupted in what this directory is a copy of: now completed here."


def left_words(deed: Deed) -> str:
    """What it is, where everything lies, and what to do, of one that cannot be completed in the copy."""
    folder = f"{FOLDER_NAME}/{deed.number}"
    return (
        f"The {deed.act} of {when(deed)} was interrupted in what this directory is a copy of, and which file is which "
        "cannot be told here: `cp -r` keeps no times (`cp -a` does), or somebody wrote here since. Left alone: what it "
        f"had set aside is in {folder}/, what it was to bring in {folder}/{INCOMING_NAME}/. The next act on the "
        "original completes it: copy that again afterwards."
    )


def older_words(deed: Deed) -> str:
    """What it is, and where everything lies, of one whose journal is older than its files."""
    folder = f"{FOLDER_NAME}/{deed.number}"
    return (
        f"The {deed.act} of {when(deed)} was at work while this copy of the directory was taken: its journal here is "
        f"older than its files. Left alone: what it had set aside is in {folder}/, what it was to bring may be in "
        f"{folder}/{INCOMING_NAME}/. Copy the original again, or restore from what is here."
    )
