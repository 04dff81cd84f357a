"""How this process was started: by torchrun, accelerate or another launcher, within a job of Slurm, or by itself.

A process that a launcher started sees only its own arguments. On the same host the launcher is its parent, and the
kernel tells a process's command line and first environment (proc(5)). Nothing here raises or waits, and only the
variables named below are kept: an environment holds secrets.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

MAX_ANCESTORS = 12
MAX_SCRIPT_BYTES = 64 * 1024
_MAX_READ_BYTES = 1 << 20

# What the start of a training goes by, and that holds no secret.
_VARIABLES = """
    CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES OMP_NUM_THREADS MKL_NUM_THREADS
    PYTHONPATH PYTHONHASHSEED CUBLAS_WORKSPACE_CONFIG PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF
    NCCL_SOCKET_IFNAME NCCL_P2P_DISABLE NCCL_IB_DISABLE GLOO_SOCKET_IFNAME TOKENIZERS_PARALLELISM
    MASTER_ADDR MASTER_PORT NNODES NODE_RANK NPROC_PER_NODE RANK LOCAL_RANK WORLD_SIZE GROUP_RANK LOCAL_WORLD_SIZE
    VIRTUAL_ENV CONDA_DEFAULT_ENV CONDA_PREFIX
    SLURM_JOB_ID SLURM_JOB_NAME SLURM_SUBMIT_DIR SLURM_SUBMIT_HOST SLURM_JOB_PARTITION SLURM_JOB_ACCOUNT SLURM_JOB_QOS
    SLURM_JOB_NUM_NODES SLURM_NTASKS SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK SLURM_GPUS SLURM_GPUS_PER_NODE
    SLURM_GPUS_PER_TASK SLURM_MEM_PER_NODE SLURM_MEM_PER_CPU SLURM_RESTART_COUNT SLURM_ARRAY_JOB_ID
    SLURM_ARRAY_TASK_ID SLURM_STEP_ID SLURM_CLUSTER_NAME SLURM_PROCID
"""
VARIABLES = frozenset(_VARIABLES.split())
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh"})
_JOB_SCRIPT = "slurm_script"  # what slurmd calls its copy of a job's script
_JOB_SCRIPT_PLACES = ("/var/spool/slurmd/job{:05d}/slurm_script", "/var/spool/slurm/d/job{:05d}/slurm_script")


def launcher_of(words: Sequence[str]) -> str:
    """Which launcher a command line is of: torchrun, accelerate, deepspeed, uv, conda; "" for none of these."""
    names = [os.path.basename(word) for word in words[:8]]
    if not names:
        return ""
    first = 0
    if re.fullmatch(r"(python|pypy)[\d.]*", names[0]):
        first = next((i for i in range(1, len(words)) if not words[i].startswith("-") or words[i] == "-m"), 0)
        if not first or first >= len(names):
            return ""
        if words[first] == "-m":
            module = words[first + 1] if first + 1 < len(words) else ""
            if module in ("torch.distributed.run", "torch.distributed.launch"):
                return "torchrun"
            if module.startswith("accelerate.commands."):
                return "accelerate"
            return "deepspeed" if module.startswith("deepspeed.launcher.") else ""
    name, following = names[first], words[first + 1] if first + 1 < len(words) else ""
    if name in ("torchrun", "accelerate-launch", "deepspeed", "ds"):
        return {"accelerate-launch": "accelerate", "ds": "deepspeed"}.get(name, name)
    if name == "accelerate" and "launch" in words[first + 1 : first + 3]:
        return "accelerate"
    if name == "uv" and "run" in words:
        return "uv"
    return "conda" if name in ("conda", "mamba", "micromamba") and following == "run" else ""


def recorded_launcher(
    environment: Mapping[str, str] | None = None, *, proc: str = "/proc", pid: int | None = None
) -> dict[str, Any]:
    """`run_start.launcher` of this process (see `RunStart`). Never raises; {} when nothing can be told.

    environment: of this process, as it is now.
    """
    try:
        return _recorded(os.environ if environment is None else environment, proc, pid or os.getpid())
    except Exception:  # noqa: BLE001  a training must not end because nobody can tell how it began
        return {}


def start_argv(launcher: Mapping[str, Any]) -> list[str]:
    """The command that starts the same training again: the launcher's, else this process's own."""
    return list(launcher.get("argv") or [sys.executable or "python", *sys.orig_argv[1:]])


def _recorded(environment: Mapping[str, str], proc: str, pid: int) -> dict[str, Any]:
    own = _words(proc, pid)
    ancestor, holder = _parent(proc, pid), pid
    while "--multiprocessing-fork" in own and ancestor > 1:
        # Made by a process of the training itself: that one is what was started.
        own, holder, ancestor = _words(proc, ancestor), ancestor, _parent(proc, ancestor)
    name, argv = "", list(own) if holder != pid else []
    script, is_linked, job_words = _script_of(own), True, list[str]()
    is_in_job = "SLURM_JOB_ID" in environment
    for _ in range(MAX_ANCESTORS):
        if ancestor <= 1 or not (is_linked or is_in_job):
            break
        words = _words(proc, ancestor)
        launcher = launcher_of(words)
        if is_in_job and any(os.path.basename(word) == _JOB_SCRIPT for word in words[:3]):
            job_words = words
            break
        if is_linked and launcher and script in map(os.path.basename, words):
            name, argv, holder = name or launcher, words, ancestor
        elif not _is_shell_of_conda(words):
            is_linked = False
        ancestor = _parent(proc, ancestor)
    # What the launcher was given, not what it gave to its workers; and not what the script changed since.
    given = _environment(proc, holder) or environment
    record: dict[str, Any] = {"name": name or "python", "environment": _kept(given)}
    if argv:
        record["argv"] = argv
        record["cwd"] = os.readlink(f"{proc}/{holder}/cwd")
    if is_in_job:
        record["environment"] = {**_kept(environment, "SLURM_"), **record["environment"]}
        record["job"] = _job(environment, job_words)
        record["name"] = "sbatch" if "script" in record["job"] or job_words else record["name"]
    return record


def _script_of(own: Sequence[str]) -> str:
    """The last part of what the interpreter runs: a script, or the module after `-m`."""
    following = iter(own[1:])
    for word in following:
        if word == "-m":
            return next(following, "")
        if not word.startswith("-"):
            return os.path.basename(word)
    return os.path.basename(own[0]) if own else ""


def _job(environment: Mapping[str, str], words: Sequence[str]) -> dict[str, Any]:
    """The batch job that this process runs in: its script as it was submitted, and what the script was given."""
    job: dict[str, Any] = {"id": environment["SLURM_JOB_ID"]}
    at = next((i for i, word in enumerate(words) if os.path.basename(word) == _JOB_SCRIPT), None)
    places = [words[at]] if at is not None else []
    if not places and job["id"].isdigit():  # a step of the job: its script may lie on this host all the same
        places = [place.format(int(job["id"])) for place in _JOB_SCRIPT_PLACES]
    for place in places:
        try:
            with open(place, "rb") as file:
                script = file.read(MAX_SCRIPT_BYTES + 1)
        except OSError:
            continue
        if len(script) <= MAX_SCRIPT_BYTES:
            job["script"] = script.decode("utf-8", "replace")
            if at is not None:
                job["argv"] = list(words[at + 1 :])
            break
    return job


def _is_shell_of_conda(words: Sequence[str]) -> bool:
    """`conda run` starts a shell with a script of its own, which starts the command."""
    return len(words) == 2 and os.path.basename(words[0]) in _SHELLS and os.path.basename(words[1]).startswith("tmp")


def _kept(environment: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    return {name: environment[name] for name in sorted(VARIABLES & environment.keys()) if name.startswith(prefix)}


def _words(proc: str, pid: int) -> list[str]:
    return [os.fsdecode(word) for word in _read(f"{proc}/{pid}/cmdline").split(b"\0")[:-1]]


def _environment(proc: str, pid: int) -> dict[str, str]:
    entries = (os.fsdecode(entry).partition("=") for entry in _read(f"{proc}/{pid}/environ").split(b"\0") if entry)
    return {name: value for name, _, value in entries}


def _parent(proc: str, pid: int) -> int:
    fields = _read(f"{proc}/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_MAX_READ_BYTES) or b""
    except OSError:
        return b""
