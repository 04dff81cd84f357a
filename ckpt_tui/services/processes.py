"""What a process is at, whose child it is, and which one of several takes a signal. By pid and start time, always.

psutil is loaded when first asked. What only Linux tells (which signals a process catches) is "" elsewhere.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Collection
from pathlib import Path

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.services.system import identify, process_is_alive

# Programs that only start another one and wait for it: a signal that they get does not reach it, or ends them alone.
_WRAPPERS = frozenset({
    "sh", "bash", "dash", "zsh", "ksh", "fish", "env", "nice", "ionice", "nohup", "setsid", "time", "timeout", "sudo",
    "stdbuf", "script", "uv", "poetry", "pdm", "hatch", "pipenv", "conda", "mamba", "micromamba", "accelerate",
    "singularity", "apptainer", "numactl", "taskset",
})  # fmt: skip
_ELASTIC = ("torchrun", "torch.distributed", "accelerate")

CAUGHT, IGNORED, DEFAULT = "caught", "ignored", "default"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that lived when it was looked at.

    status: psutil's word (running, sleeping, stopped, tracing-stop, disk-sleep ...). on_sigterm: what it does with
    SIGTERM: caught, ignored, default (it dies of it), "" where nobody can know. is_mine: whether we may signal it.
    """

    identity: ProcessIdentity
    words: tuple[str, ...] = ()
    status: str = ""
    on_sigterm: str = ""
    user: str = ""
    is_mine: bool = True

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def is_stopped(self) -> bool:
        """Stopped by SIGSTOP or Ctrl+Z: signals wait until it is continued."""
        return self.status == "stopped"

    @property
    def is_traced(self) -> bool:
        return self.status == "tracing-stop"

    @property
    def is_stuck(self) -> bool:
        """In a wait in the kernel that no signal ends."""
        return self.status == "disk-sleep"


def look_at(pid: int) -> Process | None:
    """What a process is at now; None when there is none of that number, or it is a zombie."""
    import psutil

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            status = process.status()
            if status == psutil.STATUS_ZOMBIE:
                return None
            user_ids = process.uids()
            me = os.geteuid()
            return Process(
                identity=identify(pid), words=_words(process), status=str(status),
                on_sigterm=what_it_does_with(pid, signal.SIGTERM), user=_name_of(user_ids.real),
                is_mine=me == 0 or me in (user_ids.real, user_ids.saved),
            )  # fmt: skip
    except (psutil.Error, OSError, OverflowError, ValueError):
        return None


def _words(process: object) -> tuple[str, ...]:
    import psutil

    try:
        return tuple(process.cmdline())  # type: ignore[attr-defined]
    except (psutil.Error, OSError):
        return ()


def _name_of(user_id: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)


def what_it_does_with(pid: int, number: signal.Signals) -> str:
    """CAUGHT, IGNORED or DEFAULT; "" where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    except OSError:
        return ""
    sets = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    bit = 1 << (number - 1)
    try:
        if int(sets["SigIgn"], 16) & bit:
            return IGNORED
        return CAUGHT if int(sets["SigCgt"], 16) & bit else DEFAULT
    except (KeyError, ValueError):
        return ""


def send(process: ProcessIdentity, number: signal.Signals) -> bool:
    """Signal exactly that process; False when it has ended. PermissionError when it is somebody else's.

    By a handle on the process where there is one: it cannot end, and its number be given to another, in between.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):
        handle = -1
    try:
        if not process_is_alive(process):
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True


def restarter_of(pid: int) -> int | None:
    """The torchrun that starts the training anew once its process `pid` has ended, whatever it ended of."""
    import psutil

    try:
        process = psutil.Process(pid)
        told = process.environ()
        num_left = int(told["TORCHELASTIC_MAX_RESTARTS"]) - int(told["TORCHELASTIC_RESTART_COUNT"])
        parent = process.parent()
        if num_left <= 0 or parent is None:
            return None
        # One that outlived its torchrun is some other process's child.
        is_torchrun = any(name in word for word in parent.cmdline() for name in _ELASTIC)
    except (psutil.Error, OSError, KeyError, ValueError):
        return None
    return int(parent.pid) if is_torchrun else None


def unwrapped(pid: int) -> list[int]:
    """The processes that do the work of `pid`: itself, or what a shell or another wrapper has started and waits for."""
    import psutil

    try:
        process = psutil.Process(pid)
        if not is_wrapper(tuple(process.cmdline())):
            return [pid]
        children = process.children()
    except psutil.Error:
        return [pid]
    return [worker for child in children for worker in unwrapped(child.pid)] or [pid]


def is_wrapper(words: tuple[str, ...]) -> bool:
    """Whether a command line is that of a program that only starts another one."""
    names = [os.path.basename(word) for word in words[:3]]
    if not names:
        return False
    if names[0] in _WRAPPERS:
        return True
    # `python /venv/bin/accelerate launch ...`, `python -m accelerate.commands.launch ...`
    return names[0].startswith("python") and any(
        name == "accelerate" or name.startswith("accelerate.") for name in names[1:]
    )


def descendants(pid: int) -> list[ProcessIdentity]:
    """Every process below `pid`."""
    import psutil

    try:
        found = [(child, identify(child.pid)) for child in psutil.Process(pid).children(recursive=True)]
        return [identity for child, identity in found if child.is_running()]  # its number is not another's by now
    except psutil.Error:
        return []


def is_below(pid: int, ancestor: int) -> bool:
    """Whether `pid` is `ancestor` or was started by it, over any number of steps."""
    import psutil

    if pid == ancestor:
        return True
    try:
        return any(parent.pid == ancestor for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


def who_writes_in(directory: str) -> list[Process]:
    """Processes that have a file in `directory` open for writing, as far as we may see; never this one."""
    root = os.path.realpath(directory) + os.sep
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(entry.name)
            if pid != os.getpid() and any(_is_written(entry, fd, root) for fd in os.listdir(entry / "fd")):
                process = look_at(pid)
                found += [process] if process is not None else []
        except OSError:
            continue  # another user's, or gone
    return sorted(found, key=lambda one: one.pid)


def writes_in(pid: int, directory: str) -> bool:
    """Whether a process has a file in `directory` open for writing by a path that is the same file here, too."""
    entry, root = Path(f"/proc/{pid}"), os.path.realpath(directory) + os.sep
    return any(_is_written(entry, one, root) and _is_so_named(entry / "fd" / one) for one in _descriptors(entry))


def is_meant(process: ProcessIdentity, directory: str) -> bool:
    """Whether the live process of that number is the one that a record of `directory` means. One that does not tell
    when it started may be old, and the number a person's editor by now: then it has to write there."""
    if process.is_told_apart or not os.path.isdir("/proc/self/fd"):  # a system that does not tell who writes
        return True
    return writes_in(process.pid, directory) or writes_files_of(process.pid, directory)


def writes_files_of(pid: int, directory: str) -> bool:
    """Whether a process has a file that lies in `directory` open for writing, by whatever path it knows it: that of a
    process in a container is its own."""
    try:
        device = os.stat(directory).st_dev
        with os.scandir(directory) as names:
            inodes = {name.inode() for name in names}
    except OSError:
        return False
    entry = Path(f"/proc/{pid}")
    return any(_is_written_of(entry / "fd" / one, device, inodes) for one in _descriptors(entry))


def _descriptors(entry: Path) -> list[str]:
    try:
        return os.listdir(entry / "fd")
    except OSError:
        return []  # another user's, or gone


def _is_so_named(link: Path) -> bool:
    try:
        return os.path.samefile(link, os.readlink(link))
    except OSError:
        return False


def _is_written_of(link: Path, device: int, inodes: Collection[int]) -> bool:
    try:
        if not os.lstat(link).st_mode & 0o200:
            return False
        file = os.stat(link)
    except OSError:
        return False
    return stat.S_ISREG(file.st_mode) and file.st_dev == device and file.st_ino in inodes


def _is_written(entry: Path, descriptor: str, root: str) -> bool:
    try:
        # The link's own mode says how it was opened: w is among the owner's bits.
        link = entry / "fd" / descriptor
        return bool(os.lstat(link).st_mode & 0o200) and os.readlink(link).startswith(root)
    except OSError:
        return False
