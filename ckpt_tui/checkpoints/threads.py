"""Work shared among a few threads: how many, and each taking the next piece until all is done.

For work that runs outside the interpreter's lock: reading files, checksums, numpy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from threading import Lock, Thread
from typing import TypeVar

from ckpt_tui.errors import Cancelled

Job = TypeVar("Job")
MAX_THREADS = 4  # more do not read faster, memory is what is waited for; and a training may run on the same machine


def num_threads() -> int:
    """How many threads to share work among, this one included."""
    return min(MAX_THREADS, _num_cpus())


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def work_through(
    jobs: Iterable[Job],
    work: Callable[[Job, Callable[[], bool]], None],
    num_threads: int,
    is_cancelled: Callable[[], bool] | None = None,
) -> None:
    """Do all jobs, this thread and others taking the next one in turn.

    work: also gets what says that it should stop, and may raise Cancelled then. The first error ends all of them and
    is raised here; Cancelled when `is_cancelled` says so.
    """
    waiting = iter(jobs)
    lock = Lock()
    errors: list[BaseException] = []

    def stop() -> bool:
        return bool(errors) or (is_cancelled is not None and is_cancelled())

    def take() -> None:
        while not stop():
            with lock:
                job = next(waiting, None)
            if job is None:
                return
            try:
                work(job, stop)
            except Exception as error:  # noqa: BLE001 - raised again below, in the thread that asked
                errors.append(error)
                return

    others = [Thread(target=take, name=f"work_{n}", daemon=True) for n in range(1, num_threads)]
    for thread in others:
        thread.start()
    try:
        take()
    except BaseException as error:  # Ctrl-C: the others must end before this thread does
        errors.append(error)
        raise
    finally:
        for thread in others:
            thread.join()
    if is_cancelled is not None and is_cancelled():
        raise Cancelled
    if errors:
        raise errors[0]
