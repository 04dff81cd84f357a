"""Who else restarts a training: torchrun, a cluster's scheduler, Kubernetes, systemd. Two that do it get in the way of
each other: each start of the one looks to the other like a second training in the same directory.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ckpt_tui.records import dataclass

OURS = "supervise"
_ASK_S = 5.0
_RESTARTING = ("always", "on-success", "on-failure")  # of systemd's Restart=: those that do so after an exit code
_LAUNCHERS = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "accelerate", "accelerate-launch")

Ask = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Authority:
    """Who is in charge of restarts, and by what one can tell."""

    name: str
    why: str


def in_charge(
    command: Sequence[str], environment: Mapping[str, str], *, pid: int | None = None, parent: int | None = None,
    ask: Ask | None = None,
) -> Authority | None:  # fmt: skip
    """Who restarts the training besides us; None when nobody does.

    pid, parent: of this process, as it is by default. ask: runs a command and gives what it prints, "" when it fails.
    """
    ask = ask or _output
    pid = os.getpid() if pid is None else pid
    parent = os.getppid() if parent is None else parent
    return (
        _launcher(command, environment)
        or _slurm(command, environment, ask)
        or _kubernetes(environment, pid, parent)
        or _systemd(environment, pid, ask)
    )


def is_submission(command: Sequence[str]) -> bool:
    """Whether a command only hands a job to a scheduler, and ends while that still waits in its queue."""
    return bool(command) and os.path.basename(command[0]) in ("sbatch", "qsub", "bsub", "condor_submit")


def _launcher(command: Sequence[str], environment: Mapping[str, str]) -> Authority | None:
    at = next((index for index, word in enumerate(command) if os.path.basename(word) in _LAUNCHERS), None)
    if at is None:
        return None
    name = "accelerate" if "accelerate" in command[at] else "torchrun"
    # Only its own options, which come before the script; a module is named by -m.
    given = ""
    words = list(command[at + 1 :])
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.replace("-", "_") == "__max_restarts":
            given = value if equals else words[index + 1] if index + 1 < len(words) else ""
        if word.endswith(".py") or word in ("-m", "--module"):
            break
    given = given or (environment.get("PET_MAX_RESTARTS", "") if name == "torchrun" else "")
    if given.isdigit() and int(given) > 0:
        return Authority(name, f"--max_restarts {given} in its command")
    return None


def _slurm(command: Sequence[str], environment: Mapping[str, str], ask: Ask) -> Authority | None:
    if "--requeue" in command and os.path.basename(command[0]) in ("sbatch", "srun"):
        return Authority("slurm", "--requeue in its command")
    job = environment.get("SLURM_JOB_ID", "")
    if not job.isdigit():
        return None
    if environment.get("SLURM_RESTART_COUNT", "0") not in ("", "0"):
        return Authority("slurm", f"job {job} was requeued before (SLURM_RESTART_COUNT)")
    if "SBATCH_REQUEUE" in environment:
        return Authority("slurm", f"SBATCH_REQUEUE is set for job {job}")
    if "Requeue=1" in ask(("scontrol", "show", "job", job)).split():
        return Authority("slurm", f"scontrol says Requeue=1 of job {job}")
    return None


def _kubernetes(environment: Mapping[str, str], pid: int, parent: int) -> Authority | None:
    # Whose end is the container's end; who came in by `kubectl exec` is not.
    if "KUBERNETES_SERVICE_HOST" in environment and 1 in (pid, parent):
        return Authority("kubernetes", "this is the container's main process, and the pod's restartPolicy decides")
    return None


def _systemd(environment: Mapping[str, str], pid: int, ask: Ask) -> Authority | None:
    # INVOCATION_ID is inherited by everything below a login; this one is only right for the main process of a unit.
    if environment.get("SYSTEMD_EXEC_PID") != str(pid):
        return None
    unit, is_of_user = _unit(pid)
    if not unit:
        return None
    scope = ("--user",) if is_of_user else ()
    restart = ask(("systemctl", *scope, "show", "--property=Restart", "--value", unit)).strip()
    if restart in _RESTARTING:
        return Authority("systemd", f"Restart={restart} of {unit}; Restart=on-abnormal leaves them to supervise")
    return None


def _unit(pid: int) -> tuple[str, bool]:
    """The unit that a process belongs to, and whether it is one of a user's own."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:
        return "", False
    for line in lines:
        parts = line.rpartition(":")[2].split("/")
        units = [part for part in parts if part.endswith(".service")]
        if units and not units[-1].startswith("user@"):
            return units[-1], any(part.startswith("user@") for part in parts)
    return "", False


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_ASK_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""
