"""Journal what a process does below a directory, beneath the calls of `os` and of Python's file objects.

The work is really done. What C or Rust code writes past Python is not seen: then the tree that the journal knows is
not the one on the disk, and `recorded` says so at its end.
"""

from __future__ import annotations

import builtins
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.builders.unsynced import ROOT, Data, File, Journal, Names, Sync, apply


class _Recorder:
    """Stands in for functions of `os`: does what they do, and tells the journal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.lock = threading.RLock()
        self.real = {name: getattr(os, name) for name in self.functions()}
        self.nodes: dict[int, int] = {}  # of open files and directories, by descriptor
        self.appending: set[int] = set()

    @staticmethod
    def functions() -> tuple[str, ...]:
        return (
            "open", "close", "write", "writev", "pwrite", "pwritev", "ftruncate", "truncate", "fsync", "fdatasync",
            "link", "rename", "replace", "unlink", "remove", "mkdir", "rmdir", "sendfile", "copy_file_range",
        )  # fmt: skip

    def place(self, path: Any, dir_fd: int | None = None) -> tuple[int, str] | None:
        """The directory and the name in it that `path` means; None outside of the root."""
        text = os.fsdecode(path)
        if dir_fd is not None:
            directory = self.nodes.get(dir_fd)
            return None if directory is None else (directory, text)
        absolute = Path(text).absolute()  # and its last part not resolved: a name is meant, not what it leads to
        text = str(absolute.parent.resolve() / absolute.name)
        if not text.startswith(self.journal.root + "/"):
            return None
        *above, name = text[len(self.journal.root) + 1 :].split("/")
        directory = ROOT
        for part in above:
            directory = self.journal.names[directory, part]
        return directory, name

    def node_of(self, path: Any) -> int | None:
        if os.path.realpath(os.fsdecode(path)) == self.journal.root:
            return ROOT
        key = self.place(path)
        return None if key is None else self.journal.names.get(key)

    def name(self, call: str, *values: tuple[tuple[int, str], int | None]) -> None:
        self.journal.operations.append(Names(call, values))
        for key, node in values:
            if node is None:
                self.journal.names.pop(key, None)
            else:
                self.journal.names[key] = node

    def data(self, fd: int, node: int, offset: int, data: bytes | None) -> None:
        operation = Data(node, offset, data)
        self.journal.operations.append(operation)
        apply(self.journal.files[node].content, operation)
        status = os.fstat(fd)
        self.journal.identities[node] = (status.st_ino, status.st_mtime_ns)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        journal = self.journal
        key = self.place(path, dir_fd)
        fd: int = self.real["open"](path, flags, mode, dir_fd=dir_fd)
        if os.path.realpath(f"/proc/self/fd/{fd}") == journal.root:
            self.nodes[fd] = ROOT
            return fd
        if key is None:
            return fd
        if key not in journal.names:
            node = journal.new_node()
            journal.files[node] = File()
            self.name("create", (key, node))
        node = journal.names[key]
        self.nodes[fd] = node
        self.appending.discard(fd)
        if flags & os.O_APPEND:
            self.appending.add(fd)
        if flags & os.O_TRUNC and node in journal.files and journal.files[node].content:
            self.data(fd, node, 0, None)
        elif node in journal.files:
            status = os.fstat(fd)
            journal.identities[node] = (status.st_ino, status.st_mtime_ns)
        return fd

    def close(self, fd: int) -> None:
        self.nodes.pop(fd, None)
        self.real["close"](fd)

    def _written(self, fd: int, offset: int | None, buffers: Any, num_bytes: int) -> int:
        node = self.nodes.get(fd)
        if node is not None and num_bytes:
            joined = b"".join(bytes(memoryview(buffer).cast("B")) for buffer in buffers)[:num_bytes]
            if offset is None:
                offset = os.lseek(fd, 0, os.SEEK_CUR) - num_bytes
            self.data(fd, node, offset, joined)
        return num_bytes

    def write(self, fd: int, data: Any) -> int:
        return self._written(fd, None, [data], self.real["write"](fd, data))

    def writev(self, fd: int, buffers: Any) -> int:
        buffers = list(buffers)
        return self._written(fd, None, buffers, self.real["writev"](fd, buffers))

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return self._written(fd, offset, [data], self.real["pwrite"](fd, data, offset))

    def pwritev(self, fd: int, buffers: Any, offset: int, *flags: int) -> int:
        buffers = list(buffers)
        return self._written(fd, offset, buffers, self.real["pwritev"](fd, buffers, offset, *flags))

    def _copied(self, fd: int, num_bytes: int) -> int:
        node = self.nodes.get(fd)
        if node is not None and num_bytes:
            offset = os.lseek(fd, 0, os.SEEK_CUR) - num_bytes
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                file.seek(offset)
                self.data(fd, node, offset, file.read(num_bytes))
        return num_bytes

    def sendfile(self, out_fd: int, in_fd: int, *rest: Any) -> int:
        return self._copied(out_fd, self.real["sendfile"](out_fd, in_fd, *rest))

    def copy_file_range(self, source: int, destination: int, *rest: Any) -> int:
        return self._copied(destination, self.real["copy_file_range"](source, destination, *rest))

    def ftruncate(self, fd: int, length: int) -> None:
        self.real["ftruncate"](fd, length)
        if fd in self.nodes:
            self.data(fd, self.nodes[fd], length, None)

    def truncate(self, path: Any, length: int) -> None:
        fd = self.open(path, os.O_WRONLY) if not isinstance(path, int) else path
        try:
            self.ftruncate(fd, length)
        finally:
            if fd is not path:
                self.close(fd)

    def fsync(self, fd: int) -> None:
        self.real["fsync"](fd)
        if fd in self.nodes:
            self.journal.operations.append(Sync(self.nodes[fd]))

    fdatasync = fsync

    def link(self, src: Any, dst: Any, **options: Any) -> None:
        node = self.node_of(src)
        self.real["link"](src, dst, **options)
        key = self.place(dst)
        if key is not None:
            assert node is not None, f"{src} is linked into the recorded directory from outside of it"
            self.name("link", (key, node))

    def rename(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        old, new = self.place(src, src_dir_fd), self.place(dst, dst_dir_fd)
        self.real["rename"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if old is None and new is None:
            return
        assert old is not None, f"{src} comes from outside of the recorded directory"
        assert new is not None, f"{dst} leaves the recorded directory"
        if old in self.journal.names and self.journal.names.get(new) != self.journal.names[old]:
            self.name("rename", (new, self.journal.names[old]), (old, None))

    replace = rename

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        key = self.place(path, dir_fd)
        self.real["unlink"](path, dir_fd=dir_fd)
        if key is not None:
            self.name("unlink", (key, None))

    remove = unlink

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        key = self.place(path, dir_fd)
        self.real["mkdir"](path, mode, dir_fd=dir_fd)
        if key is not None:
            node = self.journal.new_node()
            self.journal.directories.add(node)
            self.name("mkdir", (key, node))

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        key = self.place(path, dir_fd)
        self.real["rmdir"](path, dir_fd=dir_fd)
        if key is not None:
            self.name("rmdir", (key, None))


class _Raw(io.RawIOBase):
    """The unbuffered end of a Python file object, through the functions of `os`."""

    def __init__(self, path: str, mode: str) -> None:
        super().__init__()
        is_updating = "+" in mode
        flags = os.O_RDWR if is_updating else os.O_WRONLY
        flags |= {"w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT | os.O_APPEND}.get(
            mode.strip("bt+"), 0
        )
        self.name, self.mode, self._is_updating = path, mode, is_updating
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return self._is_updating

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return os.lseek(self._fd, offset, whence)

    def readinto(self, buffer: Any) -> int:
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        return os.write(self._fd, data)

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        os.ftruncate(self._fd, size)
        return size

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()
            finally:
                os.close(self._fd)


def _opening(recorder: _Recorder, real: Callable[..., Any]) -> Callable[..., Any]:
    """An `open` whose file objects write through the recorder: with Python's own buffer above it."""

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        **rest: Any,
    ) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or recorder.place(file) is None:
            return real(file, mode, buffering, encoding, errors, newline, **rest)
        raw = _Raw(os.fsdecode(file), mode)
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering < 2 else buffering
        buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)

    return opened


@contextmanager
def recorded(root: Path) -> Iterator[Journal]:
    """Journal what this process does below `root`, in every thread; what is there already counts as durable."""
    journal = Journal(root)
    recorder = _Recorder(journal)

    def locked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with recorder.lock:
                return function(*args, **options)

        return call

    originals = (builtins.open, io.open)
    for name in recorder.functions():
        setattr(os, name, locked(getattr(recorder, name)))
    builtins.open = io.open = _opening(recorder, originals[0])  # type: ignore[assignment]
    try:
        yield journal
    finally:
        for name, function in recorder.real.items():
            setattr(os, name, function)
        builtins.open, io.open = originals  # type: ignore[assignment]
    journal.check_complete()
