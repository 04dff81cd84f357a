"""One session from outside: who takes part, whose directory it is, and what is told when it cannot even begin."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from ckpt_tui.events.schema import ErrorRaised
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.lock import DirectoryLock
from trainer.checkpoint.publish import remove_leftovers
from trainer.config import Request
from trainer.distributed import LostRanksError, MainRefusedError, World
from trainer.errors import UsageError

# After torchrun started a group anew, the main one of the group before may still be dying.
RESTART_PATIENCE_SECONDS = 30.0
# For the save that is in flight when a rank is lost: less than torchrun waits before it kills.
LAST_SAVE_SECONDS = 20.0


def run_session(request: Request, train: Callable[[World], int]) -> int:
    """`train` with the processes that belong together, in a directory that main has locked; gives its exit code.

    Raises UsageError on the rank that has one to tell.
    """
    world = World.join(request.config.timeout_seconds)
    if not world.is_main:
        sys.stdout = None  # main speaks; errors of the others go to stderr
    lock: DirectoryLock | None = None

    def own_directory() -> None:
        nonlocal lock
        lock = _lock(request.out, RESTART_PATIENCE_SECONDS if world.restart_count else 0.0)
        if lock.warning:
            print(f"trainer: {lock.warning}", file=sys.stderr, flush=True)
        remove_leftovers(request.out)

    code = 2
    try:
        world.from_main(own_directory)
        code = train(world)
    except MainRefusedError:
        pass
    except UsageError as error:
        world.lost(error)
        raise UsageError(f"rank {world.rank}: {error}" if not world.is_main else str(error)) from error
    except LostRanksError as error:
        tell_lost(error, request.out, world, session=None)
        code = 1
    finally:
        world.close()
        if lock is not None:
            lock.release()
    if not world.is_alone:
        # All is done. At an orderly end of the interpreter torch's threads abort the process now and then ("terminate
        # called without an active exception"), and torchrun would take that for a failure.
        leave(code)
    return code


def leave(code: int) -> NoReturn:
    """End this process at once, with what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def leave_lost(checkpoints: Checkpointer) -> NoReturn:
    """End after a loss: a save in flight gets its time, but may wait for a rank that never answers."""
    closing = threading.Thread(target=checkpoints.close, daemon=True)
    closing.start()
    closing.join(LAST_SAVE_SECONDS)
    leave(1)


def tell_lost(error: LostRanksError, directory: str, world: World, *, session: int | None, saved: str = "") -> None:
    """On stderr, and in the log by the first rank that is left.

    session: the log's number of it, where it has begun. saved: what came of saving, in words.
    """
    print(f"trainer: rank {world.rank}: {error}{saved}", file=sys.stderr, flush=True)
    left = [rank for rank in range(world.size) if rank not in error.ranks]
    if world.rank != min(left, default=world.rank):
        return
    with EventWriter(directory, session=session) as log:
        log.emit(ErrorRaised(step=error.step, type=type(error).__name__, message=str(error)))
        if session is not None:
            log.end("failed", f"{error}{saved}", step=error.step)


def _lock(directory: str, patience_seconds: float) -> DirectoryLock:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            os.makedirs(directory, exist_ok=True)
            return DirectoryLock(directory)
        except OSError as error:
            raise UsageError(f"--out {directory}: {error.strerror}") from error
        except UsageError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)
