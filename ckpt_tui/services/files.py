"""What a name of a person's directory is, and small changes that survive a crash: whole or not at all, on the device.

Every function that writes ends with the bytes and the directory entry on the device (fsync of both). Raises OSError
as the system does; the callers say it in words.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterator

import msgspec

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.services.durable import remove_if_there as remove_if_there
from ckpt_tui.services.durable import sync_directory as sync_directory

# Of one checkpoint that is a directory: far beyond what any trainer writes, and looked through in a second.
MAX_TREE_ENTRIES = 100_000
MAX_TREE_DEPTH = 32

# File times move in ticks of the kernel's clock; those of some file systems in whole seconds.
_CLOCK_TICK_NS, _COARSE_TICK_NS = 10_000_000, 2 * 10**9
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Content(msgspec.Struct, frozen=True):
    """Which bytes a name had: enough to know them again without reading them.

    A rename or a hard link keeps all of it. digest: of journals of earlier versions.
    tree: of a directory, what is in it, every name at every depth with its size, time and inode, as a digest: a write
    into any file of it, a file more or less, and it is another one. "" for files, for journals of earlier versions,
    and beyond MAX_TREE_ENTRIES.
    """

    size_bytes: int
    mtime_ns: int
    inode: int
    is_directory: bool = False
    digest: str = ""
    tree: str = ""

    def is_same(self, other: Content | None) -> bool:
        """Whether both are the same bytes in the same place on the device."""
        if other is None or (self.inode, self.is_directory) != (other.inode, other.is_directory):
            return False
        if self.is_directory:
            # Its own size and time are about the list of its names, which `tree` has, too.
            return not self.tree or not other.tree or self.tree == other.tree
        return (self.size_bytes, self.mtime_ns) == (other.size_bytes, other.mtime_ns)


class TreeEntry(msgspec.Struct, frozen=True):
    """A name below a directory: `path` relative to it, `status` of the name itself, links not followed."""

    path: str
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)


class TooLargeTreeError(OSError):
    """A directory with more names, or deeper, than any checkpoint has."""


def content_of(path: str) -> Content | None:
    """What lies at `path` now, None when there is nothing. Links are not followed."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISDIR(status.st_mode):
        return Content(status.st_size, status.st_mtime_ns, status.st_ino)
    try:
        size_bytes, tree = _tree_identity(path)
    except FileNotFoundError:  # a file of it, or all of it, went away while it was looked at
        if not os.path.lexists(path):
            return None
        size_bytes, tree = 0, "changing"
    return Content(size_bytes, status.st_mtime_ns, status.st_ino, True, "", tree)


def changed_ns(path: str) -> int:
    """When a file, or anything in a directory, was touched last: its content, its names, its mode (ctime, which nobody
    can set back). 0 where that does not tell: of a link, or where one is in it, which may lead to anything; and where
    something was written in the same tick of the clock, in which it may be written again."""
    try:
        statuses = [os.lstat(path)]
        if stat.S_ISDIR(statuses[0].st_mode):
            statuses += [entry.status for entry in tree_entries(path)]
    except OSError:
        return 0
    newest = max(one.st_ctime_ns for one in statuses)
    tick = _COARSE_TICK_NS if newest % 10**9 == 0 else _CLOCK_TICK_NS
    is_told = not any(stat.S_ISLNK(one.st_mode) or abs(one.st_mtime_ns - newest) < tick for one in statuses)
    return newest if is_told else 0


def tree_entries(directory: str) -> Iterator[TreeEntry]:
    """Every name below `directory`, in the order of their paths, a directory before what is in it.

    Raises OSError; TooLargeTreeError beyond the bounds.
    """
    waiting = [("", 0)]
    num_entries = 0
    while waiting:
        inside, depth = waiting.pop()
        if depth > MAX_TREE_DEPTH:
            raise TooLargeTreeError(errno.E2BIG, f"more than {MAX_TREE_DEPTH} directories deep", directory)
        with os.scandir(os.path.join(directory, inside) if inside else directory) as listing:
            names = sorted(item.name for item in listing)
        folders = []
        for name in names:
            num_entries += 1
            if num_entries > MAX_TREE_ENTRIES:
                raise TooLargeTreeError(errno.E2BIG, f"more than {MAX_TREE_ENTRIES:,} files in it", directory)
            path = os.path.join(inside, name)
            entry = TreeEntry(path, os.lstat(os.path.join(directory, path)))
            if entry.is_directory:
                folders.append((path, depth + 1))
            yield entry
        waiting.extend(reversed(folders))


def _tree_identity(path: str) -> tuple[int, str]:
    """(bytes of all files, digest of what is in it)."""
    total, digest = 0, hashlib.blake2b(digest_size=16)
    try:
        for entry in tree_entries(path):
            status = entry.status
            digest.update(os.fsencode(entry.path) + b"\0")
            kind = stat.S_IFMT(status.st_mode)
            facts = () if entry.is_directory else (status.st_size, status.st_mtime_ns, status.st_ino)
            digest.update(f"{kind} {facts}\0".encode())
            total += status.st_size if entry.is_file else 0
    except TooLargeTreeError:
        return total, ""
    return total, digest.hexdigest()


def make_directory(path: str) -> None:
    """Make a directory and its entry durable; one that is there already is fine."""
    try:
        os.mkdir(path)
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise
    sync_directory(os.path.dirname(path) or ".")


def make_parents(root: str, name: str) -> None:
    """Make the directories that `name`, a path relative to `root`, lies in."""
    parts = name.split("/")[:-1]
    for number in range(len(parts)):
        make_directory(os.path.join(root, *parts[: number + 1]))


def mode_as_log(directory: str) -> int:
    """The mode of a new file that repeats a training's command, which may hold secrets: whoever cannot read its log
    cannot read that."""
    try:
        return 0o666 & os.stat(os.path.join(directory, LOG_NAME)).st_mode
    except OSError:
        return 0o666


def write_file(path: str, data: bytes, mode: int = 0o666) -> None:
    """Give `path` exactly `data`: beside it first, then in its place. The mode of a file that is there stays."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tmp-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(descriptor, data)
            existing = content_mode(path)
            if existing is not None:
                os.fchmod(descriptor, existing)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError:
        remove_if_there(temporary)
        raise
    sync_directory(os.path.dirname(path) or ".")


def exchange(a: str, b: str) -> bool:
    """Exchange two names in one step, so that neither is ever missing; False where the file system (NFS) or the C
    library cannot. Both may be directories with something in them, which no other rename replaces."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), b)


def link_or_move(source: str, target: str) -> None:
    """Give `source` the name `target` too; where hard links cannot be, move it there instead."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        os.rename(source, target)


# What a file system without hard links, or one that allows no more of them, says.
NO_LINKS = frozenset(
    {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EISDIR, errno.EACCES, errno.EXDEV}
)  # fmt: skip


def content_mode(path: str) -> int | None:
    """Permission bits of a file, None when there is none."""
    try:
        return stat.S_IMODE(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """All of `data`, however little the system takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
