"""Whether the system ended a process for want of memory: what control groups count and the kernel's log says.

A training that is killed for its memory ends by SIGKILL without a word; this is where the word is.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ckpt_tui.records import dataclass

_MAX_LOG_BYTES = 1 << 20
_KILLED = re.compile(rb"(?:Out of memory|oom-kill|Memory cgroup out of memory).*?(?:Killed process |pid=)(\d+)")
_IN_OUTPUT = ("CUDA out of memory", "OutOfMemoryError", "MemoryError", "DefaultCPUAllocator: can't allocate memory")


@dataclass(frozen=True, slots=True)
class Counted:
    """How often the control group of a process had one of its own ended for memory. None where nobody counts."""

    kills: int | None
    where: str = ""


def counted(pid: int | str = "self", *, root: str = "/sys/fs/cgroup", proc: str = "/proc") -> Counted:
    """Of the control group that a process is in, or of the nearest one above it that counts."""
    try:
        lines = Path(f"{proc}/{pid}/cgroup").read_text("ascii", "replace").splitlines()
    except OSError:
        return Counted(None)
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "memory":
            places, name = [f"{root}/memory{path}", f"{root}/memory"], "memory.oom_control"
        elif not controllers:
            places, name = [f"{root}{path}", root], "memory.events"
        else:
            continue
        for place in places:
            kills = _number(os.path.join(place, name), "oom_kill")
            if kills is not None:
                return Counted(kills, os.path.normpath(place))
    return Counted(None)


def memory_words(exit_code: int | None, before: Counted, now: Counted, pids: tuple[int, ...], last_lines: str) -> str:
    """What says that it ended for want of memory; "" where nothing does."""
    for phrase in _IN_OUTPUT:
        if phrase in last_lines:
            return f"its output says {phrase}"
    if exit_code not in (None, -9, 137, 1):
        return ""
    if before.kills is not None and now.kills is not None and now.kills > before.kills and before.where == now.where:
        return f"its control group counts {now.kills - before.kills} killed for memory meanwhile"
    return "the kernel's log says that it was killed for memory" if set(pids) & _in_kernel_log() else ""


def _number(path: str, key: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path(path).read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return None


def _in_kernel_log() -> set[int]:
    """Pids that the kernel says it killed for memory. Mostly only root may read that."""
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return set()
    killed: set[int] = set()
    num_bytes = 0
    try:
        while num_bytes < _MAX_LOG_BYTES:
            try:
                record = os.read(descriptor, 8192)
            except BrokenPipeError:
                continue  # overwritten meanwhile
            except OSError:
                break
            if not record:
                break
            num_bytes += len(record)
            killed.update(int(found) for found in _KILLED.findall(record))
    finally:
        os.close(descriptor)
    return killed
