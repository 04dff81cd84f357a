"""Kill a piece of work at its n-th file operation, really (in a forked child) or by an exception.

`file_operations(work)` counts them; `killed_at(n, work)` runs `work` in a child that leaves by `os._exit` just before
or just after its n-th one, with no `finally` run and nothing flushed; `failing_at(n, ...)` makes it fail instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CHANGING = (
    "mkdir", "open", "write", "fsync", "link", "rename", "replace", "unlink", "rmdir", "chmod", "fchmod", "utime",
)  # fmt: skip
EXIT_CODE = 77


@contextmanager
def counted(before: Callable[[int, str], None], after: Callable[[int, str], None]) -> Iterator[list[str]]:
    """Calls of `os` that change files, told before and after they happen with their number from 1."""
    calls: list[str] = []
    originals = {name: getattr(os, name) for name in CHANGING}

    def wrap(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if name == "open" and not (len(args) > 1 and isinstance(args[1], int) and args[1] & os.O_CREAT):
                return originals[name](*args, **kwargs)  # opened for reading changes nothing
            calls.append(name)
            number = len(calls)
            before(number, name)
            result = originals[name](*args, **kwargs)
            after(number, name)
            return result

        return call

    for name in CHANGING:
        setattr(os, name, wrap(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def _nothing(number: int, name: str) -> None:
    return None


def file_operations(work: Callable[[], object]) -> list[str]:
    """The file operations of `work`, by name, in order."""
    with counted(_nothing, _nothing) as calls:
        work()
    return calls


def killed_at(number: int, work: Callable[[], object], *, when: str = "before") -> bool:
    """Run `work` in a child that is gone at its `number`-th operation; whether it came that far."""
    leave = os._exit

    def die(now: int, name: str) -> None:
        if now == number:
            leave(EXIT_CODE)

    child = os.fork()
    if child == 0:
        try:
            with counted(die if when == "before" else _nothing, die if when == "after" else _nothing):
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


@contextmanager
def failing_at(number: int, error: OSError, *, forever: bool = False) -> Iterator[list[str]]:
    """The `number`-th file operation raises `error` (`forever`: and every later one)."""

    def fail(now: int, name: str) -> None:
        if now == number or (forever and now > number):
            raise OSError(error.errno, error.strerror)

    with counted(fail, _nothing) as calls:
        yield calls
