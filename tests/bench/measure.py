"""How the benches measure: whole processes, both sides in turn, median of several runs, ratios as results."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]
PYTHON = sys.executable
# As on a person's machine, where Python keeps what it has compiled; first runs fill this, and no median is one.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "ckpt-tui-bench-pycache"))
CKPT_TUI = str(Path(sys.executable).with_name("ckpt-tui"))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `met` is None where there is no budget to hold the figure against."""

    what: str
    ours: str
    other: str
    ratio: str
    budget: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Run:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


# Between us and what is measured: a process starts with the peak of the one that forked it as its own, and ours is
# larger than what is measured. This one has 7 MB, less than any Python program.
_LAUNCHER = """
import os, sys
from time import perf_counter
started = perf_counter()
pid = os.fork()
if pid == 0:
    os.close(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
wall_s = perf_counter() - started
fields = (os.waitstatus_to_exitcode(status), wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
os.write(int(sys.argv[1]), repr(fields).encode())
"""


def run_process(command: Sequence[str], *, expect: Sequence[int] = (0,)) -> Run:
    """Run a command to its end, output to /dev/null, and account for it alone (wait4)."""
    reading, writing = os.pipe()
    try:
        with open(os.devnull, "r+b") as null:
            done = subprocess.run(
                [PYTHON, "-I", "-S", "-c", _LAUNCHER, str(writing), *command],
                stdin=null, stdout=null, stderr=subprocess.PIPE, cwd=REPO, pass_fds=(writing,), check=False,
            )  # fmt: skip
        os.close(writing)
        written = os.read(reading, 4096)
    finally:
        os.close(reading)
    message = done.stderr.decode(errors="replace")[-2000:]
    assert written, f"{command} could not be started: {message}"
    code, wall_s, cpu_s, peak_kb = ast.literal_eval(written.decode())
    assert code in expect, f"{command} ended with {code}: {message}"
    return Run(wall_s, cpu_s, peak_kb / 1024)


def median_run(runs: Sequence[Run]) -> Run:
    return Run(
        statistics.median(run.wall_s for run in runs),
        statistics.median(run.cpu_s for run in runs),
        max(run.peak_mb for run in runs),
    )


def in_turn(sides: dict[str, Callable[[], Run]], repeats: int) -> dict[str, Run]:
    """Every side `repeats` times, in turn, so that a slow spell of the machine hits all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            runs[name].append(side())
    return {name: median_run(of_side) for name, of_side in runs.items()}


@dataclass(slots=True)
class Painted:
    """A program on a pseudo terminal that has painted what was waited for."""

    pid: int
    terminal: int
    seconds: float
    peak_mb: float
    cpu_s: float = 0.0  # until then

    def read_for(self, seconds: float) -> int:
        """Bytes that it sends to the terminal in that time."""
        deadline = time.perf_counter() + seconds
        total = 0
        while (left := deadline - time.perf_counter()) > 0:
            if select.select([self.terminal], [], [], left)[0]:
                try:
                    total += len(os.read(self.terminal, 65536))
                except OSError:
                    break
        return total

    def press(self, key: bytes, until: bytes, timeout_s: float = 5.0) -> float:
        """Send what a key sends; the seconds until `until` came back."""
        started = time.perf_counter()
        os.write(self.terminal, key)
        seen = b""
        while until not in seen:
            left = started + timeout_s - time.perf_counter()
            if left <= 0:
                raise TimeoutError(f"{key!r} did not bring {until!r} but {seen[-500:]!r}")
            if select.select([self.terminal], [], [], left)[0]:
                seen += os.read(self.terminal, 65536)
        return time.perf_counter() - started

    def cpu_seconds(self) -> float:
        """Of it and what it started, all threads, also those that have ended, to the nanosecond."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self._family())  # Linux' clock of another process

    def num_bytes_read(self) -> int:
        """From files and pipes, so far."""
        return sum(int(Path(f"/proc/{pid}/io").read_text().split()[1]) for pid in self._family())

    def rss_mb(self) -> float:
        """The peak, of it and what it started."""
        return sum(_peak_mb(pid) for pid in self._family())

    def _family(self) -> list[int]:
        found = [self.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, children.read_text().split())
        return found

    def close(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            self.read_for(0.05)
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                break
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.terminal)


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def paint(
    command: Sequence[str], until: bytes, *, columns: int = 120, rows: int = 40, timeout_s: float = 60
) -> Painted:
    """Start a program on a fresh pseudo terminal and wait until it has sent `until`."""
    started = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", TEXTUAL_ANIMATIONS="none")
        os.execv(command[0], list(command))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    seen = b""
    while until not in seen:
        if time.perf_counter() - started > timeout_s:
            os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"{command} did not paint {until!r}; its last bytes: {seen[-2000:]!r}")
        if select.select([terminal], [], [], 0.1)[0]:
            seen = (seen + os.read(terminal, 65536))[-200_000:]
    seconds = time.perf_counter() - started
    painted = Painted(pid, terminal, seconds, 0.0)
    painted.cpu_s = painted.cpu_seconds()
    painted.peak_mb = painted.rss_mb()
    return painted
