"""Independent copies of checkpoints, files and directories: every byte written anew, on the device, and read back.

A copy is made where redundancy is the point: a backup put in place of a damaged file must not die of the same bad
sector as the only other one. So the bytes are read and written (`file_copy.py`). A reflink (FICLONE) shares the extents
on the device, and so may `copy_file_range`, which is what `cp` uses, wherever reflinks are (XFS, Btrfs, some NFS):
there that is a second name for the same sectors, no second copy.

Memory is bounded (a few windows), whatever the size.
"""

from __future__ import annotations

import errno
import os
import stat

from ckpt_tui.regular_file import open_regular
from ckpt_tui.services.file_copy import NotCopiedError as NotCopiedError
from ckpt_tui.services.file_copy import Progress, copy_file
from ckpt_tui.services.files import NO_LINKS, Content, content_of, make_directory, sync_directory, tree_entries

_WINDOW_BYTES = 1 << 20


def copy_verified(source: str, target: str, on_bytes: Progress | None = None) -> Content:
    """Make `target`, which must not exist, an independent copy of `source`, read it back from the device, and compare.

    A directory with all that is in it. Modes and modification times (that of the content) are kept; what the owner may
    not write, the copy's owner may where it is a directory: it has to be moved.
    Raises OSError; EIO when what was read back is not what was read from the source; EBUSY when the source was written
    meanwhile. Nothing is left at `target` then.
    """
    if stat.S_ISDIR(os.lstat(source).st_mode):
        return _copy_tree(source, target, on_bytes)
    return copy_file(source, target, on_bytes, follow=True)


def are_same(a: str, b: str, on_bytes: Progress | None = None) -> bool:
    """Whether two files have the same bytes, or two directories the same files. Raises OSError."""
    if os.path.isdir(a) and os.path.isdir(b):
        names = [[(entry.path, entry.is_file) for entry in tree_entries(folder)] for folder in (a, b)]
        files = (path for path, is_file in names[0] if is_file)
        return names[0] == names[1] and all(
            are_same(os.path.join(a, path), os.path.join(b, path), on_bytes) for path in files
        )
    with open_regular(a) as one, open_regular(b) as other:
        status, other_status = os.fstat(one.fileno()), os.fstat(other.fileno())
        if os.path.samestat(status, other_status):
            return True
        return status.st_size == other_status.st_size and _is_same(one.fileno(), other.fileno(), on_bytes)


def bytes_to_copy(source: str) -> int:
    """What a copy of `source` takes. Raises OSError, NotCopiedError, as the copy would before it writes anything."""
    status = os.lstat(source)
    if not stat.S_ISDIR(status.st_mode):
        return os.stat(source).st_size
    total = 0
    for entry in tree_entries(source):
        if not entry.is_file and not entry.is_directory:
            what = "a symbolic link" if stat.S_ISLNK(entry.status.st_mode) else "no file"
            raise NotCopiedError(errno.EINVAL, f"it is {what}, which has no copy", os.path.join(source, entry.path))
        total += entry.status.st_size if entry.is_file else 0
    return total


def link_verified(source: str, target: str, on_bytes: Progress | None = None) -> Content:
    """Give what `source` is the name `target`, too, bytes shared; a copy where the file system has no hard links.

    Of a directory the files are shared, the directories are not.
    """
    if not stat.S_ISDIR(os.lstat(source).st_mode):
        _link_file(source, target, on_bytes)
    else:
        bytes_to_copy(source)
        os.mkdir(target)
        folders = [""]
        for entry in tree_entries(source):
            if entry.is_directory:
                os.mkdir(os.path.join(target, entry.path))
                folders.append(entry.path)
            else:
                _link_file(os.path.join(source, entry.path), os.path.join(target, entry.path), on_bytes)
        _finish_folders(source, target, folders)
    found = content_of(target)
    assert found is not None, "it was made a moment ago"
    return found


def _link_file(source: str, target: str, on_bytes: Progress | None) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        copy_file(source, target, on_bytes, follow=False)


def _copy_tree(source: str, target: str, on_bytes: Progress | None) -> Content:
    bytes_to_copy(source)
    before = content_of(source)
    make_directory(target)
    folders = [""]
    for entry in tree_entries(source):
        inner = os.path.join(target, entry.path)
        if entry.is_directory:
            os.mkdir(inner)
            folders.append(entry.path)
        else:
            copy_file(os.path.join(source, entry.path), inner, on_bytes, follow=False)
    _finish_folders(source, target, folders)
    if before is None or not before.is_same(content_of(source)):
        raise OSError(errno.EBUSY, "it was written while it was copied", source)
    found = content_of(target)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target)
    return found


def _finish_folders(source: str, target: str, folders: list[str]) -> None:
    """Modes, times and entries of copied directories, the deepest first: what is done in one changes its time."""
    for folder in reversed(folders):
        original, made = os.path.join(source, folder), os.path.join(target, folder)
        status = os.lstat(original)
        os.chmod(made, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
        os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))
        sync_directory(made)
    sync_directory(os.path.dirname(target))


def _is_same(a: int, b: int, on_bytes: Progress | None) -> bool:
    """Whether two files have the same bytes, every one of them compared."""
    done = 0
    buffers = bytearray(_WINDOW_BYTES), bytearray(_WINDOW_BYTES)
    while True:
        num_bytes = _fill(a, buffers[0], done)
        if num_bytes != _fill(b, buffers[1], done) or not _are_equal(*buffers, num_bytes):
            return False
        if not num_bytes:
            return True
        done += num_bytes
        if on_bytes is not None:
            on_bytes(num_bytes)


def _fill(descriptor: int, buffer: bytearray, position: int) -> int:
    """As many bytes as there are, up to the size of the buffer: a read may give fewer."""
    filled = 0
    while filled < len(buffer):
        num_bytes = os.preadv(descriptor, [memoryview(buffer)[filled:]], position + filled)
        if not num_bytes:
            break
        filled += num_bytes
    return filled


def _are_equal(a: bytearray, b: bytearray, num_bytes: int) -> bool:
    return a == b if num_bytes == len(a) else a[:num_bytes] == b[:num_bytes]
