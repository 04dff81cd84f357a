"""Start a training so that it outlives the terminal, and stop one so that it saves first."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.services import files
from ckpt_tui.services.owner import LAUNCH_FILE_NAME, Owner, owner_of, read_launch, run_state
from ckpt_tui.services.resume import ResumePlan
from ckpt_tui.services.system import process_is_alive
from ckpt_tui.text import duration, safe_text

_POLL_S = 0.02
_TAIL_BYTES = 8192
_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Launched:
    """A training that was started: its process, and the file that its output goes to."""

    pid: int
    log_path: str
    pid_started: float = 0.0
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stopped:
    """A training that was asked to stop. has_ended: whether it was gone within the time given."""

    pid: int
    has_ended: bool
    seconds: float


def launch(plan: ResumePlan, *, watch_s: float = 1.0) -> Launched:
    """Start `plan.command` detached, its output appended to session_N.log in the run directory.

    Watches it for `watch_s` seconds. Raises CkptError when the plan has refusals, when a live trainer owns the
    directory, or when the process ends with a failure while watched (with its last lines).
    """
    if plan.refusals:
        raise CkptError("Refused", " ".join(plan.refusals))
    return start(plan.directory, plan.command, cwd=plan.cwd, session=plan.session, watch_s=watch_s)


def start(directory: str, command: Sequence[str], *, cwd: str, session: int = 1, watch_s: float = 1.0) -> Launched:
    """Start any command as the training of `directory`; the same promises and refusals as `launch`."""
    directory = os.path.abspath(directory)
    refuse_second(directory)
    log_path = os.path.join(directory, f"session_{session}.log")
    try:
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise from_os_error(error, log_path, "write to") from error
    begin = os.fstat(log).st_size
    try:
        # Its own session: a hang-up of this terminal, Ctrl+C and job control no longer reach it.
        process = subprocess.Popen(
            list(command), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    except OSError as error:
        raise CkptError(
            "Cannot start", f"{safe_text(command[0])}: {error.strerror or error}", "Is the program still there?"
        ) from error
    finally:
        os.close(log)
    pid_started = _started_at(process.pid)
    record = {
        "pid": process.pid, "pid_started": pid_started, "host": socket.gethostname(), "command": list(command),
        "cwd": cwd, "log": os.path.basename(log_path), "session": session, "ts": time.time(),
    }  # fmt: skip
    try:
        files.write_file(os.path.join(directory, LAUNCH_FILE_NAME), json.dumps(record, indent=1).encode() + b"\n")
    except OSError as error:
        process.terminate()  # without the record a second one could be started beside it
        process.wait()
        raise from_os_error(error, directory, "write to") from error
    # Nobody waits for it here; a process that has ended must not stay behind as a zombie that looks alive.
    deadline = time.monotonic() + watch_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if process.returncode is None:
        threading.Thread(target=process.wait, name=f"wait-{process.pid}", daemon=True).start()
    elif process.returncode != 0:
        raise CkptError(
            "The training ended at once",
            f"{_ending(process.returncode)}; its last lines: {_last_lines(log_path, begin) or 'none'}",
            f"All of its output is in {log_path}.",
        )
    return Launched(process.pid, log_path, pid_started, tuple(command))


def refuse_second(directory: str) -> None:
    """Raise CkptError when a training owns the directory already."""
    owner = owner_of(directory, run_state(directory))
    if owner is not None:
        raise CkptError(
            "A training is running here already",
            f"process {owner.pid} is training in {directory} ({owner.told_by} says so)",
            "Watch it (`ckpt-tui watch DIR`), or stop it first (`ckpt-tui stop DIR`).",
        )


def running(directory: str) -> Owner | None:
    """The live training of a directory, by its lock, its launch or its log. CkptError when it cannot be looked into."""
    try:
        os.listdir(directory)
    except OSError as error:
        # Not to be taken for a directory in which nothing runs.
        raise from_os_error(error, directory) from error
    return owner_of(directory, run_state(directory))


def stop(directory: str, timeout_s: float = 60.0) -> Stopped:
    """Ask the training of `directory` to save and end (SIGTERM), and wait. CkptError when none is running.

    The signal goes to the process that has both the pid and the start time that were recorded, never to another; but
    to torchrun where that would start the training again, and it passes the signal on.
    """
    directory = os.path.abspath(directory)
    owner = running(directory)
    if owner is None:
        raise CkptError(
            "Not running", f"no training is running in {directory}", "`ckpt-tui status DIR` tells how it ended."
        )
    if owner.pid <= 1 or not process_is_alive(owner.pid, owner.pid_started, owner.host):
        raise CkptError(
            "Cannot be stopped from here",
            f"{owner.told_by} says that it runs as process {owner.pid} on {safe_text(owner.host) or 'another host'}",
            "Run `ckpt-tui stop` on that host.",
        )
    began = time.monotonic()
    restarter = restarter_of(owner.pid)
    pids = [(owner.pid, owner.pid_started)] + ([(restarter, _started_at(restarter))] if restarter else [])
    try:
        os.kill(pids[-1][0], signal.SIGTERM)
    except ProcessLookupError:
        return Stopped(owner.pid, True, 0.0)
    except PermissionError as error:
        raise CkptError(
            "No permission", f"process {owner.pid} belongs to another user", "Run as the user who started it."
        ) from error
    while any(process_is_alive(pid, pid_started, owner.host) for pid, pid_started in pids):
        if time.monotonic() - began > timeout_s:
            return Stopped(owner.pid, False, time.monotonic() - began)
        time.sleep(_POLL_S)
    return Stopped(owner.pid, True, time.monotonic() - began)


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
        is_torchrun = any("torchrun" in word or "torch.distributed" in word for word in parent.cmdline())
    except (psutil.Error, OSError, KeyError, ValueError):
        return None
    return int(parent.pid) if is_torchrun else None


def launched_log(directory: str) -> str | None:
    """The output file of the training that was last launched from here."""
    if read_launch(directory) is None:
        return None
    with open(os.path.join(directory, LAUNCH_FILE_NAME), "rb") as file:
        name = json.loads(file.read(1 << 20)).get("log")
    return os.path.join(directory, os.path.basename(name)) if isinstance(name, str) and name else None


def _started_at(pid: int) -> float:
    """When a process started, Unix seconds, as `process_is_alive` compares it; now when it is gone already."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return time.time()


def _ending(returncode: int) -> str:
    if returncode < 0:
        try:
            return f"killed by {signal.Signals(-returncode).name}"
        except ValueError:
            return f"killed by signal {-returncode}"
    return f"exit code {returncode}"


def _last_lines(path: str, begin: int) -> str:
    """What this start wrote last, as one safe line of text."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return safe_text(" | ".join(lines[-_TAIL_LINES:]), 1500)


def say(stopped: Stopped) -> str:
    """How a stop went, in a sentence."""
    if stopped.has_ended:
        return f"Process {stopped.pid} saved and ended in {duration(stopped.seconds)}."
    return f"Process {stopped.pid} was asked to stop and is still at work after {duration(stopped.seconds)}."
