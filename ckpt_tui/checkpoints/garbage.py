"""Garbage collection held back while a file is decoded, for however many threads decode at once."""

from __future__ import annotations

import gc
from _thread import allocate_lock

_lock = allocate_lock()
_num_holders = 0
_was_enabled = False


class GarbageHeld:
    """`with GarbageHeld():` the cyclic collector does not run.

    Decoding makes millions of objects and no garbage; collecting in between costs a third of the time. The collector
    belongs to the whole process: the first of overlapping holders turns it off, the last one restores what it was.
    """

    def __enter__(self) -> None:
        global _num_holders, _was_enabled
        with _lock:
            if _num_holders == 0:
                _was_enabled = gc.isenabled()
                gc.disable()
            _num_holders += 1

    def __exit__(self, *_: object) -> None:
        global _num_holders
        with _lock:
            _num_holders -= 1
            if _num_holders == 0 and _was_enabled:
                gc.enable()
