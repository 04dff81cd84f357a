"""One life of a supervised training: started so that it is known before it runs, signalled whole, waited for whole.

The child is forked and waits at a gate until its pid is on the disk: whoever is killed in between, there is never a
training that nobody knows of. Its output goes to a file and not through us, so that it lives on when we do not. It has
a session of its own, and a mark in its environment by which its processes are found again, whatever sessions and
parents they have by then (torchrun's workers outlive torchrun).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.services import files
from ckpt_tui.services.processes import descendants
from ckpt_tui.services.system import identify, process_is_alive

MARK = "CKPT_TUI_SUPERVISED"
# What we take over for ourselves and give back to a child; Python ignores the other two, programs do not expect that.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_CHANGED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_GO = b"g"
_FIRST_FREE_DESCRIPTOR = 10
_EXEC_S = 5.0  # that a process may take to become another program
_ENDS_OR_IS_THE_KERNELS = 0x4 | 0x200000  # PF_EXITING, PF_KTHREAD


class Training:
    """A training that is looked after: a child of ours, or one that somebody else started (`is_child` False).

    exit_code: of the process that was started, negative for a signal; None while it runs, or where nobody can know.
    """

    def __init__(self, process: ProcessIdentity, *, is_child: bool, mark: str = "") -> None:
        self.process = process
        self.pid = process.pid
        self.is_child = is_child
        self.mark = mark
        self.exit_code: int | None = None
        self.has_ended = False
        self.handle = _handle(self.pid)  # readable when it has ended; -1 where the system has no such handles
        if self.handle >= 0 and not is_child and not process_is_alive(process):
            self.close()  # its number is another's by now

    def poll(self) -> bool:
        """Whether the process that was started has ended. What it started may live on: see `members`."""
        if self.has_ended:
            return True
        if self.is_child:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.has_ended = True
            else:
                if pid:
                    self.exit_code, self.has_ended = os.waitstatus_to_exitcode(status), True
        elif process_is_alive(self.process) is False:
            self.has_ended = True
        return self.has_ended

    def members(self) -> list[int]:
        """Processes that came of it and live, itself among them."""
        found = set(marked(self.mark)) if self.mark else set()
        if not self.poll():
            found.add(self.pid)
            if not self.is_child:  # it may have been started without the mark
                found.update(one.pid for one in descendants(self.pid))
        return sorted(found)

    def send(self, number: int) -> bool:
        """Signal its process group where it leads one, as a terminal would, else itself; when it has ended, what is
        left of it. False when nobody is."""
        try:
            if self.poll():
                left = self.members()
                _signal_each(left, number, lambda pid: True)
                return bool(left)
            deliver = os.killpg if os.getpgid(self.pid) == self.pid else os.kill
            for one in (number, signal.SIGCONT):  # one that was halted (SIGSTOP) could not save
                deliver(self.pid, one)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def start(
    command: Sequence[str],
    *,
    cwd: str,
    log_path: str,
    mark: str,
    environment: Mapping[str, str],
    record: Callable[[ProcessIdentity], None],
) -> Training:
    """Start `command` with its output appended to `log_path`, once `record` has returned.

    Raises OSError when it cannot be started, or what `record` raises; then nothing runs.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    log = os.open(log_path, flags, files.mode_as_log(os.path.dirname(log_path)))
    gate_out, gate_in = os.pipe()
    said_out, said_in = os.pipe()
    ours = [gate_in, said_out]
    theirs = [log, gate_out, said_in]
    try:
        pid = os.fork()
        if pid == 0:
            _become(command, cwd, {**environment, MARK: mark}, log, gate_out, said_in, ours)
        for descriptor in theirs:
            os.close(descriptor)
        theirs.clear()
        try:
            record(process := identify(pid))
            os.write(gate_in, _GO)
            os.close(gate_in)
            ours.remove(gate_in)
            said = os.read(said_out, 64)  # its end comes with exec, which closes the other side
        except BaseException:
            # Before it leaves the gate it is ours to end without a trace.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        if said:
            os.waitpid(pid, 0)
            number = int(said)
            raise OSError(number, os.strerror(number), command[0])
    finally:
        for descriptor in (*ours, *theirs):
            os.close(descriptor)
    return Training(process, is_child=True, mark=mark)


def _become(
    command: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    log: int,
    gate_out: int,
    said_in: int,
    not_mine: Sequence[int],
) -> None:
    """In the child: be the training, or nothing. Never returns."""
    try:
        for descriptor in not_mine:
            os.close(descriptor)  # the gate's other side, too: it must close when its owner dies
        log, gate_out, said_in = (
            fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_DESCRIPTOR) for one in (log, gate_out, said_in)
        )
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (*SIGNALS, *_CHANGED_BY_PYTHON):
            if number not in SIGNALS or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` is for it, too
                signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if os.read(gate_out, 1) != _GO:
            os._exit(125)
        try:
            os.chdir(cwd)
            os.execvpe(command[0], list(command), dict(environment))
        except OSError as error:
            os.write(said_in, str(error.errno or errno.ENOEXEC).encode())
    except BaseException:  # noqa: BLE001 - whatever it is, this must not become a second supervisor
        os._exit(125)
    os._exit(127)


def _handle(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def marked(mark: str) -> Iterator[int]:
    """Live processes that have the mark in the environment that they were started with."""
    wanted = f"{MARK}={mark}".encode()
    try:
        entries = os.listdir("/proc")
    except OSError:
        return
    for entry in entries:
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            if wanted in _environment(entry).split(b"\0"):
                yield int(entry)


def _environment(entry: str) -> bytes:
    """Of a process; empty when it has ended. While it becomes another program it has none, for as long as it waits for
    a core; that it is seen then must not make it one of somebody else's."""
    deadline = time.monotonic() + _EXEC_S
    while not (environment := _read(f"/proc/{entry}/environ")):
        if not _becomes_another(entry) or time.monotonic() > deadline:
            return _read(f"/proc/{entry}/environ")  # it may have become it since
        time.sleep(0.001)
    return environment


def _becomes_another(entry: str) -> bool:
    """Whether a process without an environment is in the midst of exec; neither an ended one nor one of the kernel's,
    and not one that was given none. Fields as of proc(5)."""
    fields = _read(f"/proc/{entry}/stat").rpartition(b")")[2].split()
    try:
        state, flags, environment_end = fields[0], int(fields[6]), int(fields[48])
    except (ValueError, IndexError):
        return False
    return state not in (b"Z", b"X") and not flags & _ENDS_OR_IS_THE_KERNELS and environment_end == 0


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(1 << 20) or b""


def end_all(pids: Sequence[int], patience_s: float, is_member: Callable[[int], bool]) -> list[int]:
    """Ask these processes to end, and kill those that have not after `patience_s`; gives those that were killed.

    is_member: whether that number still is one of them: it may have become another's.
    """
    _signal_each(pids, signal.SIGTERM, is_member)
    deadline = time.monotonic() + patience_s
    while (left := [pid for pid in pids if is_member(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal_each(left, signal.SIGKILL, is_member)
    return left


def _signal_each(pids: Sequence[int], number: int, is_member: Callable[[int], bool]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if is_member(pid):
                os.kill(pid, number)
