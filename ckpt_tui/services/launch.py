"""Start a training so that it outlives the terminal; `services/stopping.py` stops one so that it saves first."""

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
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME
from ckpt_tui.services.owner import owner_of, read_launch, run_state
from ckpt_tui.services.processes import restarter_of as restarter_of
from ckpt_tui.services.resume import ResumePlan
from ckpt_tui.services.stop_plan import StopPlan as StopPlan
from ckpt_tui.services.stop_plan import plan_stop as plan_stop
from ckpt_tui.services.stopping import Stopped as Stopped
from ckpt_tui.services.stopping import StopProgress as StopProgress
from ckpt_tui.services.stopping import kill as kill
from ckpt_tui.services.stopping import running as running
from ckpt_tui.services.stopping import stop as stop
from ckpt_tui.text import safe_text

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
