"""Whether a training that says nothing has stalled: on request only, and slow to believe it.

A sign of life is a line in its log or its output, or that it writes to the disk (a long save). An evaluation writes
nothing, so the longest silence that it came back from is added; and while its processes compute, it gets more time: it
may be the first evaluation, and a collective operation that hangs spins as well. Time is counted by a clock that stands
still while the machine sleeps, and a stretch in which we did not run ourselves is not held against it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ckpt_tui.records import dataclass
from ckpt_tui.run.health import Rhythm

MIN_AUTO_S = 120.0
BUSY_FACTOR = 2.0  # of a limit that a person gave
AUTO_BUSY_FACTOR = 4.0
BUSY_CORES = 0.2
WRITING_BYTES = 1 << 20  # between two looks
# Looks come every few seconds; after such a gap it was us who stood still, or the whole machine.
OWN_GAP_S = 30.0


@dataclass(frozen=True, slots=True)
class Work:
    """What the processes of a training have done since they began: seconds computed, bytes written to the disk."""

    cpu_s: float = 0.0
    written_bytes: int = 0


class StallWatch:
    """Asked every few seconds whether it has been silent for too long. limit_s: None for its own rhythm."""

    def __init__(self, limit_s: float | None, now: float) -> None:
        self._limit_s = limit_s
        self._alive_at = self._looked_at = now
        self._work: Work | None = None  # at the last look in a silence that has lasted for a while
        self._first_work, self._first_work_at = Work(), now  # and at the first one

    def allowed_s(self, rhythm: Rhythm, *, is_busy: bool = False) -> float:
        """How long it may be silent."""
        if self._limit_s is None:
            return max(rhythm.stalled_after_s, MIN_AUTO_S) * (AUTO_BUSY_FACTOR if is_busy else 1.0)
        return self._limit_s * (BUSY_FACTOR if is_busy else 1.0) + rhythm.longest_pause_s

    def look(self, now: float, *, has_sign: bool, work: Callable[[], Work], rhythm: Rhythm) -> float | None:
        """How long it has been silent when that is too long, else None. now: seconds of a monotonic clock.

        work: what its processes have done so far; asked only after a quarter of the time, for that takes looking at all
        processes of the machine.
        """
        gap_s = now - self._looked_at
        self._looked_at = now
        if gap_s > OWN_GAP_S:
            self._alive_at += gap_s
        silent_s = now - self._alive_at
        if has_sign or silent_s < self.allowed_s(rhythm) / 4:
            self._alive_at = now if has_sign else self._alive_at
            self._work = None
            return None
        before, self._work = self._work, work()
        if before is None:
            self._first_work, self._first_work_at = self._work, now
            return None
        # Fewer than before: one of its processes has ended, which is news as well.
        if not 0 <= self._work.written_bytes - before.written_bytes < WRITING_BYTES:
            self._alive_at, self._work = now, None
            return None
        computed_s = self._work.cpu_s - self._first_work.cpu_s
        is_busy = computed_s >= BUSY_CORES * (now - self._first_work_at)
        return silent_s if silent_s > self.allowed_s(rhythm, is_busy=is_busy) else None


def work_of(pids: Iterable[int]) -> Work:
    """What these processes have done; those that cannot be looked into have done nothing."""
    ticks, written = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{pid}/io").read_bytes().splitlines():
                if line.startswith(b"wchar:"):
                    written += int(line.split()[1])
    return Work(ticks / os.sysconf("SC_CLK_TCK"), written)


def evidence(pids: Iterable[int]) -> list[str]:
    """Where these processes are in the kernel, as far as it tells: for the log, before they are ended."""
    lines = []
    for pid in pids:
        lines.append(f"process {pid}: {_read(pid, 'cmdline').replace(chr(0), ' ').strip()[:200]}")
        status = dict(line.partition(":")[::2] for line in _read(pid, "status").splitlines())
        shown = ("State", "VmRSS", "Threads", "SigPnd", "SigBlk", "voluntary_ctxt_switches")
        lines += [f"  {name}: {status[name].strip()}" for name in shown if name in status]
        for name in ("wchan", "syscall", "stack"):
            text = _read(pid, name).strip()
            if text and text != "0":
                lines += [f"  {name}: {line.strip()}" for line in text.splitlines()[:20]]
    return lines


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text("utf-8", "replace")[:8192]
    except OSError:
        return ""
