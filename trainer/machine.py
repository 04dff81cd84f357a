"""What the process and the machine use, read from /proc and from the GPUs' driver."""

from __future__ import annotations

import os
import time

from ckpt_tui.events.schema import System
from trainer.gpus import Gpus

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Machine:
    """Measures between one `read` and the next."""

    def __init__(self) -> None:
        self._gpus: Gpus | None = None
        self._at = time.monotonic()
        self._cpu_s = time.process_time()

    def read(self, step: int) -> System:
        """CPU in percent of one core since the last reading; fields that the system does not tell are None."""
        now, cpu_s = time.monotonic(), time.process_time()
        percent = 100.0 * (cpu_s - self._cpu_s) / max(now - self._at, 1e-9)
        self._at, self._cpu_s = now, cpu_s
        memory = _memory()
        if self._gpus is None:  # with the first reading, some seconds into the training, and not at its start
            self._gpus = Gpus()
        total, available = memory.get("MemTotal"), memory.get("MemAvailable")
        return System(
            step=step, cpu_percent=round(percent, 1), rss_bytes=_rss_bytes(), memory_total_bytes=total,
            memory_used_bytes=total - available if total is not None and available is not None else None,
            gpus=self._gpus.read(),
        )  # fmt: skip


def _rss_bytes() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None


def _memory() -> dict[str, int]:
    """Fields of /proc/meminfo in bytes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = [line.split() for line in file]
        return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) >= 2}
    except (OSError, ValueError):
        return {}
