"""Start a training so that it outlives the terminal; `services/stopping.py` stops one so that it saves first.

    lock the directory -> refuse -> open its log -> a process that waits for its order -> the order -> launch.json,
    written by that process itself -> it becomes the training, and the lock is let go -> watch it for a while

Killed anywhere in between, either nothing runs, or what runs is in `launch.json` (`services/detached_child.py`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.services import detached_child, files, logout
from ckpt_tui.services.child_environment import training_environment
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME, read_record
from ckpt_tui.services.owner import Owner, held_by_another, owners_of, run_state, unsure_words
from ckpt_tui.services.processes import restarter_of as restarter_of
from ckpt_tui.services.start_lock import starting
from ckpt_tui.services.start_progress import OnProgress, StartProgress, StartWatch, submitted_job
from ckpt_tui.services.start_progress import TrainingDiedError as TrainingDiedError
from ckpt_tui.services.stop_plan import in_the_queue
from ckpt_tui.services.stopping import Stopped as Stopped
from ckpt_tui.services.stopping import StopProgress as StopProgress
from ckpt_tui.services.stopping import kill as kill
from ckpt_tui.services.stopping import running as running
from ckpt_tui.services.stopping import stop as stop
from ckpt_tui.services.system import identify
from ckpt_tui.text import duration, run_word, safe_text

if TYPE_CHECKING:
    from ckpt_tui.services.resume import ResumePlan

WAIT_S = 1.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Launched:
    """A training that was started: its process, and the file that its output goes to.

    stage, step: how far it had come when the waiting ended (see `StartProgress`). exit_code: of one that has ended
    well by then. job: of a cluster, that the command has submitted. sentences, warnings: all of this for a person.
    """

    process: ProcessIdentity
    log_path: str
    command: tuple[str, ...] = ()
    stage: str = "started"
    step: int | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    job: str = ""
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def pid(self) -> int:
        return self.process.pid


def launch(
    plan: ResumePlan,
    *,
    wait_s: float = WAIT_S,
    on_progress: OnProgress | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Launched:
    """Start `plan.command` detached, its output appended to session_N.log in the run directory.

    Watches it until its first new step, for `wait_s` seconds at most, telling `on_progress` what it sees. is_cancelled
    ends the watching, never the training. Raises CkptError when the plan has refusals, when a live trainer owns the
    directory, or an act on it is unfinished; TrainingDiedError when it ends with a failure while watched.
    """
    if plan.refusals:
        raise CkptError("Refused", " ".join(plan.refusals))
    from ckpt_tui.services.resume import keep_command, prepare

    about = {
        "by": "resume", "launcher": plan.launcher, "checkpoint": plan.checkpoint_name, "step": plan.step,
        "changes": {change.key: str(change.b) for change in plan.changes},
    }  # fmt: skip
    launched = start(
        plan.directory, plan.command, cwd=plan.cwd, session=plan.session, wait_s=wait_s, about=about,
        environment=plan.environment, prepare=lambda: prepare(plan), on_progress=on_progress,
        is_cancelled=is_cancelled, force=plan.is_forced,
    )  # fmt: skip
    try:
        keep_command(plan)
    except CkptError as error:  # what runs, runs
        return replace(launched, warnings=(*launched.warnings, f"The command is not kept: {error.message}."))
    return launched


def start(
    directory: str,
    command: Sequence[str],
    *,
    cwd: str,
    session: int = 1,
    wait_s: float = WAIT_S,
    about: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
    on_progress: OnProgress | None = None,
    is_cancelled: Callable[[], bool] | None = None,
    force: bool = False,
) -> Launched:
    """Start any command as the training of `directory`; the same promises and refusals as `launch`.

    about: what `launch.json` tells besides. environment: variables that the command needs beyond the person's own.
    prepare: what has to be done before it, once nobody else can start one. force: as of `plan_resume`.
    """
    directory = os.path.abspath(directory)
    refuse_second(directory, force=force)
    log_path = os.path.join(directory, f"session_{session}.log")
    leaving = logout.look()
    with starting(directory) as lock:
        refuse_second(directory, force=force)  # who was first has written it by now
        if prepare is not None:
            prepare()
        log, begin = _open_log(log_path, command, cwd)
        try:
            watch = StartWatch(directory, on_progress)
            process = _begin(log, lock)
            record = {
                **identify(process.pid).fields(), "command": list(command), "cwd": cwd,
                "log": os.path.basename(log_path), "session": session, "ts": time.time(),
                "directory": os.path.realpath(directory), **(about or {}),
            }  # fmt: skip
            _order(process, directory, leaving.surviving(command), cwd, record, environment, log)
        finally:
            os.close(log)
    launched = _watched(process, record, watch, log_path, begin, wait_s, is_cancelled)
    return _in_words(launched, (leaving.warning,) if leaving.warning else ())


class _Beginning(subprocess.Popen[bytes]):
    """The process that waits for its order. told: where it tells that it could not become the training."""

    told = -1


def _begin(log: int, lock: int) -> _Beginning:
    """A process in a session of its own: a hang-up of this terminal, Ctrl+C and job control do not reach it."""
    told_out, told_in = os.pipe2(os.O_CLOEXEC)
    passed = [told_in] + ([lock] if lock >= 0 else [])
    try:
        process = _Beginning(
            [sys.executable, "-I", "-S", detached_child.__file__, str(told_in), str(lock)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, pass_fds=passed, cwd="/",
        )  # fmt: skip
    except OSError as error:
        os.close(told_out)
        raise CkptError(
            "Cannot start", f"no process can be started: {error.strerror or error}", "See `ulimit -a`, `free -h`."
        ) from error
    finally:
        os.close(told_in)
    process.told = told_out
    return process


def _order(
    process: _Beginning,
    directory: str,
    command: Sequence[str],
    cwd: str,
    record: Mapping[str, object],
    environment: Mapping[str, str] | None,
    log: int,
) -> None:
    """Tell it what to become, and wait until it has. Raises CkptError when it could not."""
    order = {
        "argv": list(command), "cwd": cwd, "environment": training_environment(command, environment),
        "record_path": os.path.join(directory, LAUNCH_FILE_NAME), "record": json.dumps(record, indent=1) + "\n",
        "record_mode": files.mode_as_log(directory),
    }  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(detached_child.encoded(order))
        process.stdin.close()
    except BrokenPipeError:
        pass  # how it ended tells more
    except BaseException:
        process.kill()  # it has not got its order, and must not wait for it
        process.wait()
        raise
    with open(process.told, "rb") as told:
        failure = told.read()
    if not failure and (process.poll() in (None, 0) or _has_begun(directory, process.pid)):
        return
    process.wait()
    error = _failure(failure, command, cwd, directory)
    os.write(log, f"--- ckpt-tui: {error.message}\n".encode("utf-8", "replace"))
    raise error


def _has_begun(directory: str, pid: int) -> bool:
    """Whether it came to its record, the last thing before it becomes the training: that may have died since."""
    record = read_record(directory)
    return record is not None and record.pid == pid


def _failure(failure: bytes, command: Sequence[str], cwd: str, directory: str) -> CkptError:
    try:
        fields: dict[str, Any] = json.loads(failure)
        number, stage = int(fields["errno"] or errno.EIO), fields["stage"]
    except (ValueError, TypeError, KeyError):
        return CkptError(
            "Cannot start", f"{sys.executable} ended before it had started the training", "Its output tells more."
        )
    error = OSError(number, os.strerror(number))
    if stage == "record":
        return from_os_error(error, os.path.join(directory, LAUNCH_FILE_NAME), "write to")
    if stage == "cwd":
        return CkptError(
            "Cannot start", f"the directory that it runs in cannot be entered: {safe_text(cwd, 500)}: {error.strerror}",
            "Is it still there?",
        )  # fmt: skip
    return CkptError("Cannot start", f"{safe_text(command[0], 500)}: {error.strerror}", "Is the program still there?")


def _open_log(path: str, command: Sequence[str], cwd: str) -> tuple[int, int]:
    """The file that the output is appended to, and where that begins. It says first what is started, and when."""
    try:
        mode = files.mode_as_log(os.path.dirname(path))
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        raise from_os_error(error, path, "write to") from error
    try:
        facts = os.fstat(log)
        if not stat.S_ISREG(facts.st_mode):
            raise CkptError("Not a file", f"{path} is taken, and is not a file", "Move it away: the output goes there.")
        os.set_blocking(log, True)
        now = time.strftime("%Y-%m-%d %H:%M:%S %z")
        line = f"--- {now} ckpt-tui starts, in {safe_text(cwd, 1000)}: {safe_text(shlex.join(command), 100_000)}\n"
        try:
            os.write(log, line.encode("utf-8", "replace"))
        except OSError as error:
            raise from_os_error(error, path, "write to") from error
        return log, os.lseek(log, 0, os.SEEK_END)
    except BaseException:
        os.close(log)
        raise


def _watched(
    process: _Beginning,
    record: Mapping[str, Any],
    watch: StartWatch,
    log_path: str,
    begin: int,
    wait_s: float,
    is_cancelled: Callable[[], bool] | None,
) -> Launched:
    watch.tell("started", f"Process {process.pid} has started.")
    while process.poll() is None and watch.seconds < wait_s and watch.progress.stage != "stepping":
        if is_cancelled is not None and is_cancelled():
            break
        watch.look()
        time.sleep(_POLL_S)
    if process.returncode is None:
        # Nobody waits for it here; a process that has ended must not stay behind as a zombie that looks alive.
        threading.Thread(target=process.wait, name=f"wait-{process.pid}", daemon=True).start()
    elif process.returncode != 0:
        raise TrainingDiedError(process.returncode, watch.seconds, log_path, begin)
    else:
        watch.look()
    told, stage, job = watch.progress, watch.progress.stage, ""
    if process.returncode == 0:
        stage, job = "ended", submitted_job(log_path, begin)
        if job:
            stage = "submitted"
            with contextlib.suppress(OSError):  # its output tells the number, too
                files.write_file(
                    os.path.join(os.path.dirname(log_path), LAUNCH_FILE_NAME),
                    json.dumps({**record, "job": job}, indent=1).encode() + b"\n",  # its mode stays
                )
    return Launched(
        ProcessIdentity.from_fields(record), log_path, tuple(record["command"]), stage, told.step, watch.seconds,
        process.returncode, job,
    )  # fmt: skip


def _in_words(launched: Launched, warnings: tuple[str, ...]) -> Launched:
    after = f"after {duration(launched.seconds)}"
    sentence = {
        "started": f"Process {launched.pid} runs; {after} it has not begun to train yet.",
        "locked": f"Process {launched.pid} holds the directory; {after} its log does not tell of the session yet.",
        "begun": f"Process {launched.pid} has begun its session; {after} it has not trained a step yet.",
        "stepping": f"Process {launched.pid} trains: step {launched.step or 0:,} {after}.",
        "ended": f"It has ended already, well (exit code 0, {after}).",
        "submitted": f"It is submitted as job {launched.job}; it starts when the cluster lets it.",
    }[launched.stage]
    return replace(launched, sentences=(sentence,), warnings=warnings)


def refuse_second(directory: str, *, force: bool = False) -> None:
    """Raise CkptError when a training owns the directory already. force: only one that is seen to live."""
    owners = owners_of(directory, run_state(directory))
    owner = next((owner for owner in owners if owner.is_sure or not force), None)
    if owner is not None and not owner.is_sure:
        raise CkptError("A training may be running here", unsure_words(directory, owner))
    if owner is not None:
        raise held_by_another(directory, owner) or _runs_already(directory, owner)
    if (queued := in_the_queue(directory)) is not None:
        raise CkptError(
            "A job is in the queue already",
            f"job {queued.job} of a cluster was submitted for {directory}, and has not ended",
            f"Wait for it (`squeue --me`), or take it back first (`ckpt-tui stop {run_word(directory)}`).",
        )


def _runs_already(directory: str, owner: Owner) -> CkptError:
    what = "is supervising the training" if owner.is_supervisor else "is training"
    where = run_word(directory)
    return CkptError(
        "A training is running here already",
        f"{owner.words} {what} in {directory} ({owner.told_by} says so)",
        f"Watch it (`ckpt-tui watch {where}`), or stop it first (`ckpt-tui stop {where}`).",
    )


def launched_log(directory: str) -> str | None:
    """The output file of the training that was last launched from here."""
    record = read_record(directory)
    return os.path.join(directory, record.log) if record is not None and record.log else None


__all__ = ["Launched", "StartProgress", "launch", "launched_log", "refuse_second", "start"]
