"""Let the system read a file while the program is still starting: what a cold cache would be waited for.

By reading it, from as many places as the pass over its bytes will (`byte_pass`) and to nowhere: every read goes into
the same small memory. `posix_fadvise(WILLNEED)`, which is made for this, was slower than no reading ahead at all.
"""

from __future__ import annotations

import os
import stat
from mmap import mmap
from threading import Thread

from ckpt_tui.checkpoints.threads import num_threads

# Most of it before the pass itself begins, and the rest beside it; a pass behind it waits less than one without.
_MOST_BYTES = 1024 * 1024 * 1024
_STEP_BYTES = 32 * 1024 * 1024  # after each a thread waits up to 5 ms for the interpreter
_MEMORY_BYTES = 256 * 1024  # stays in the processor's cache
_PROBE_BYTES = 4096


def start_reading(path: str) -> None:
    """In the background; what is in the cache is not read. Never raises."""
    Thread(target=_open_and_read, args=(path,), name="read_ahead", daemon=True).start()


def _open_and_read(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return  # whoever reads it says so
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return
        num_places = num_threads()
        most = min(_MOST_BYTES, status.st_size) // num_places
        places = [status.st_size * place // num_places for place in range(num_places)]
        others = [Thread(target=_read, args=(descriptor, place, most), daemon=True) for place in places[1:]]
        for thread in others:
            thread.start()
        _read(descriptor, 0, most)
        for thread in others:
            thread.join()
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _read(descriptor: int, start: int, most_bytes: int) -> None:
    memory = memoryview(mmap(-1, _MEMORY_BYTES))
    try:
        for position in range(start, start + most_bytes, _STEP_BYTES):
            if not _is_cached(descriptor, position):
                os.preadv(descriptor, [memory] * (_STEP_BYTES // _MEMORY_BYTES), position)
    except OSError:
        pass  # whoever needs these bytes says so


def _is_cached(descriptor: int, position: int) -> bool:
    if not hasattr(os, "RWF_NOWAIT"):  # not on macOS
        return False
    try:
        os.preadv(descriptor, [bytearray(_PROBE_BYTES)], position, os.RWF_NOWAIT)
    except OSError:  # it would have to wait, or the file system cannot tell
        return False
    return True
