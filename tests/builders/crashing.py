"""Kill a piece of work at its n-th file operation, really (in a forked child) or by an exception.

`file_operations(work)` counts them; `killed_at(n, work)` runs `work` in a child that leaves by `os._exit` just before
or just after its n-th one, with no `finally` run and nothing flushed; `cut_at(n, work)` leaves the same files without a
child, whose fork costs most of what a test of every operation costs; `dies_at(n, work)` is one of the two;
`failing_at(n, ...)` makes it fail instead.
"""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

CHANGING = (
    "mkdir", "open", "write", "fsync", "link", "rename", "replace", "unlink", "rmdir", "chmod", "fchmod", "utime",
    "writev", "pwrite", "pwritev", "ftruncate", "truncate", "fdatasync", "remove", "copy_file_range", "sendfile",
)  # fmt: skip
# What can fail without changing anything. `open` for reading counts as one of them; so does Python's own `open`.
LOOKING = (
    "stat", "lstat", "fstat", "scandir", "listdir", "statvfs", "access", "read", "pread", "preadv", "readv", "lseek",
)  # fmt: skip
# What changes files, too, and is not counted: what we act by has no need of it.
_UNCOUNTED = ("symlink", "mkfifo", "mknod", "chown", "fchown", "lchown", "setxattr", "removexattr", "posix_fallocate")
EXIT_CODE = 77
REALLY_EVERY = 10
_READING = "open to read"


@contextmanager
def counted(
    before: Callable[[int, str], None],
    after: Callable[[int, str], None],
    *,
    calls_of: Sequence[str] = CHANGING,
    within: str | None = None,
) -> Iterator[list[str]]:
    """Calls of `os` that change files, told before and after they happen with their number from 1, in any thread.

    calls_of: CHANGING, or CHANGING + LOOKING. within: only those on a path, or on an open file, below this directory.
    """
    calls: list[str] = []
    originals = {name: getattr(os, name) for name in calls_of}
    opens = (builtins.open, io.open)
    is_reading_counted = "stat" in calls_of
    root = None if within is None else os.path.realpath(within)
    readlink, fspath, fsdecode, counting = os.readlink, os.fspath, os.fsdecode, threading.RLock()

    def is_meant(target: object) -> bool:
        if root is None:
            return True
        try:
            path = readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else fsdecode(fspath(target))  # type: ignore[call-overload]
        except (OSError, TypeError):
            return False
        return path == root or path.startswith(root + "/")

    def count(name: str, call: Callable[[], object]) -> object:
        with counting:
            calls.append(name)
            number = len(calls)
        before(number, name)
        result = call()
        after(number, name)
        return result

    def wrap(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            label = name
            if name == "open" and not (len(args) > 1 and isinstance(args[1], int) and args[1] & os.O_CREAT):
                label = _READING  # changes nothing
            if (label == _READING and not is_reading_counted) or not is_meant(args[0] if args else "."):
                return originals[name](*args, **kwargs)
            return count(label, lambda: originals[name](*args, **kwargs))

        return call

    def opened(file: object, *args: object, **kwargs: object) -> object:
        if isinstance(file, int) or not is_meant(file):
            return opens[0](file, *args, **kwargs)  # type: ignore[call-overload]
        return count(_READING, lambda: opens[0](file, *args, **kwargs))  # type: ignore[call-overload]

    for name in calls_of:
        setattr(os, name, wrap(name))
    if is_reading_counted:
        builtins.open = io.open = opened  # type: ignore[assignment]
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
        builtins.open, io.open = opens  # type: ignore[assignment]


def _nothing(number: int, name: str) -> None:
    return None


def file_operations(work: Callable[[], object], **which: Any) -> list[str]:
    """The file operations of `work`, by name, in order. which: as of `counted`."""
    with counted(_nothing, _nothing, **which) as calls:
        work()
    return calls


def killed_at(number: int, work: Callable[[], object], *, when: str = "before", **which: Any) -> bool:
    """Run `work` in a child that is gone at its `number`-th operation; whether it came that far."""
    leave = os._exit

    def die(now: int, name: str) -> None:
        if now == number:
            leave(EXIT_CODE)

    child = os.fork()
    if child == 0:
        try:
            with counted(die if when == "before" else _nothing, die if when == "after" else _nothing, **which):
                work()
        except BaseException:  # noqa: BLE001 - the child tells and leaves, whatever it was
            import traceback

            traceback.print_exc()
            leave(1)
        leave(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, EXIT_CODE), f"the work itself failed with exit code {code}"
    return code == EXIT_CODE


class Cut(BaseException):
    """Nobody handles it, but what stands in a `finally`; and that reaches no file any more."""


def cut_at(number: int, work: Callable[[], object], *, when: str = "before", **which: Any) -> bool:
    """The files that `killed_at` leaves, without a child: from its `number`-th operation on nothing that `work` does
    changes a file, whatever handles what, in any thread. Whether it came that far.

    For work whose writes are system calls, and that keeps nothing in memory for the one after it.
    """
    is_cut = False

    def reach(now: int, name: str) -> None:
        nonlocal is_cut
        is_cut = is_cut or now == number
        stay_away()

    def stay_away() -> None:
        if is_cut:
            raise Cut

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            stay_away()
            return call(*args, **kwargs)

        return wrapped

    opens = builtins.open

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+"):
            stay_away()
        return opens(file, mode, *args, **kwargs)

    uncounted = [patch.object(os, name, guarded(getattr(os, name))) for name in _UNCOUNTED]
    by_name = [
        patch.object(builtins, "open", opened), patch.object(io, "open", opened),
        patch.object(ctypes, "CDLL", guarded(ctypes.CDLL)),  # the exchange of two names
    ]  # fmt: skip
    held = _descriptors()
    for patching in (*uncounted, *by_name):
        patching.start()
    try:
        # What comes after the operation that was the last one is kept away before it is done.
        with counted(
            reach if when == "before" else lambda now, name: stay_away(),
            _nothing if when == "before" else reach,
            **which,
        ):
            work()
    except (KeyboardInterrupt, AssertionError):
        raise
    except BaseException:
        if not is_cut:
            raise
    finally:
        for patching in (*by_name, *uncounted):
            patching.stop()
    if is_cut:
        for descriptor in _descriptors() - held:  # a lock that is held ends with its process
            os.close(descriptor)
    return is_cut


def _descriptors() -> set[int]:
    numbers = map(int, os.listdir("/proc/self/fd"))
    return {number for number in numbers if os.path.lexists(f"/proc/self/fd/{number}")}  # not the one that looked


def dies_at(number: int, work: Callable[[], object], **how: Any) -> bool:
    """`killed_at` for every tenth number, `cut_at` for those between: for tests of every operation."""
    die = killed_at if number % REALLY_EVERY == 0 else cut_at
    return die(number, work, **how)


@contextmanager
def failing_at(number: int, error: OSError, *, forever: bool = False, **which: Any) -> Iterator[list[str]]:
    """The `number`-th file operation raises `error` (`forever`: and every later one). which: as of `counted`."""

    def fail(now: int, name: str) -> None:
        if now == number or (forever and now > number):
            raise OSError(error.errno, error.strerror)

    with counted(fail, _nothing, **which) as calls:
        yield calls
