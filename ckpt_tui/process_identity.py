"""Which process is meant: its number, and what tells it from a later one with that number.

The start of a process in Unix seconds moves when the clock is set (NTP, a virtual machine that was resumed): the kernel
counts from boot, and when that was is told by the clock of now. So where the kernel tells, its own count is recorded as
well, with what it belongs to: `birth` is

    boot id / pid namespace - time namespace / clock ticks from boot to the start

as of /proc/sys/kernel/random/boot_id, /proc/self/ns and field 22 of /proc/PID/stat. A container shares the boot id with
its host; pids, and perhaps ticks, it has of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from ckpt_tui.records import dataclass

# Two ways of computing the boot time differ by more than the hundredths in which a start is counted.
START_TOLERANCE_S = 2.0
_ENDED = frozenset({b"Z", b"X", b"x"})  # states of /proc/PID/stat


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process as it is recorded.

    pid: 0 for nobody, or for one that did not tell. pid_started: Unix seconds, 0 when not known. host: "" for this one.
    birth: see above; "" in older records, and on systems that do not tell.
    """

    pid: int = 0
    pid_started: float = 0.0
    host: str = ""
    birth: str = ""

    @classmethod
    def of(cls, pid: int | None = None) -> ProcessIdentity:
        """Of a process of this machine that has not been waited for; this one without a number."""
        stat = _stat("self" if pid is None else str(pid))
        here, ticks = _system(os.getpid()), stat[1] if stat is not None else None
        birth = f"{here[0]}/{here[1]}/{ticks}" if here is not None and ticks is not None else ""
        started = _started(ticks) if ticks is not None else 0.0
        return cls(os.getpid() if pid is None else pid, started, socket.gethostname(), birth)

    @classmethod
    def from_fields(cls, fields: Mapping[str, object], prefix: str = "") -> ProcessIdentity:
        """As `fields` wrote it. Raises KeyError, TypeError, ValueError or OverflowError where that is not one."""
        pid, started = fields[prefix + "pid"], fields[prefix + "pid_started"]
        if isinstance(pid, bool) or not isinstance(pid, int) or not isinstance(started, (int, float)):
            raise TypeError("not a process")
        if not 0 <= started < float("inf"):
            raise ValueError("not a time")
        host, birth = fields.get(prefix + "host") or "", fields.get(prefix + "pid_birth") or ""
        return cls(pid, float(started), str(host), str(birth))

    def fields(self, prefix: str = "") -> dict[str, object]:
        """For a record."""
        told = {"pid": self.pid, "pid_started": self.pid_started, "host": self.host, "pid_birth": self.birth}
        return {prefix + name: value for name, value in told.items()}

    def is_same(self, other: ProcessIdentity) -> bool:
        """Whether both are one process, as far as they tell."""
        if self.pid != other.pid:
            return False
        if self.birth and other.birth:
            return self.birth == other.birth
        name = socket.gethostname()
        return (self.host or name) == (other.host or name) and (
            abs(self.pid_started - other.pid_started) <= START_TOLERANCE_S
        )

    @property
    def is_told_apart(self) -> bool:
        """Whether anything tells it from another process that has its number by now."""
        return _parts(self.birth) is not None or self.pid_started > 0

    @property
    def is_on_this_host(self) -> bool:
        return self.host in ("", socket.gethostname())

    @property
    def is_of_this_boot(self) -> bool:
        """Whether it was born since this machine was started. Of one that was not, it may be that another machine bears
        our name."""
        born, here = _parts(self.birth), _system(os.getpid())
        return born is not None and here is not None and born[0] == here[0]

    @property
    def is_in_another_container(self) -> bool:
        """On this machine, in a container that has our name and is not ours: its number is another process's here."""
        born, here = _parts(self.birth), _system(os.getpid())
        if born is None or here is None or not self.is_on_this_host:
            return False
        return born[0] == here[0] and born[1] != here[1]


NOBODY = ProcessIdentity()


def process_is_alive(process: ProcessIdentity) -> bool | None:
    """Whether that process still runs. None: it is on another host or in another container, or was never named.

    Without a birth its start in Unix seconds decides; where that was not recorded, any process of its number counts.
    """
    if process.pid <= 0 or not process.is_on_this_host:
        return None
    born, here = _parts(process.birth), _system(os.getpid())
    if born is not None and here is not None:
        if born[0] != here[0]:
            return False  # this machine was started anew since
        return _lives(process.pid, born[2]) if born[1] == here[1] else None
    import psutil  # 10 ms of a start

    try:
        found = psutil.Process(process.pid)
        if process.pid_started and abs(found.create_time() - process.pid_started) > START_TOLERANCE_S:
            return False
        return bool(found.status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, OverflowError, ValueError):
        return False
    except psutil.Error:
        return None


def process_started(pid: int | None = None) -> float:
    """When a process started, Unix seconds, as `psutil.Process(pid).create_time()` gives it; 0.0 when not known."""
    return ProcessIdentity.of(pid).pid_started


def _lives(pid: int, ticks: int) -> bool | None:
    try:
        found = _stat(str(pid), is_strict=True)
    except (FileNotFoundError, ProcessLookupError):
        return None if _is_hidden(pid) else False
    except (OSError, ValueError):
        return None
    return found is not None and found[1] == ticks and found[0] not in _ENDED


def _is_hidden(pid: int) -> bool:
    """Whether there is a process of that number that we may not see (/proc with `hidepid`)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _stat(entry: str, *, is_strict: bool = False) -> tuple[bytes, int] | None:
    """State and start of a process, in ticks since boot; None when it cannot be read. Fields as of proc(5)."""
    try:
        fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        if is_strict:
            raise
        return None


def _started(ticks: int) -> float:
    """Unix seconds, by the clock of now; 0.0 when not known."""
    try:
        boot = next(line for line in Path("/proc/stat").read_bytes().splitlines() if line.startswith(b"btime"))
        return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0


def _parts(birth: str) -> tuple[str, str, int] | None:
    boot, _, rest = birth.partition("/")
    namespaces, _, ticks = rest.partition("/")
    return (boot, namespaces, int(ticks)) if boot and namespaces and ticks.isdecimal() and len(ticks) < 20 else None


@lru_cache(maxsize=1)
def _system(own_pid: int) -> tuple[str, str] | None:
    """Boot id and namespaces of the process that asks; None where it cannot be told whose pids /proc shows."""
    try:
        if str(Path("/proc/self").readlink()) != str(own_pid):
            return None  # /proc is of another pid namespace
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        spaces = "-".join(_number(f"/proc/self/ns/{kind}") for kind in ("pid", "time"))
    except (OSError, ValueError):
        return None
    return (boot, spaces) if boot and "/" not in boot else None


def _number(link: str) -> str:
    """The number in `pid:[4026531836]`; 0 for a kind of namespace that the kernel does not have."""
    try:
        told = str(Path(link).readlink())
    except FileNotFoundError:
        return "0"
    return str(int(told.partition("[")[2].rstrip("]")))
