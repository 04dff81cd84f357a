"""The recorded start of a training made into the command that resumes it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from ckpt_tui.records import dataclass
from ckpt_tui.services import command_line
from ckpt_tui.services.launchers import split_command
from ckpt_tui.services.launchers.base import Built, Resume, Split, Where
from ckpt_tui.services.launchers.moved import renamed, where_from
from ckpt_tui.services.launchers.spelling import ResumeWay, resume_way, set_setting, with_resume
from ckpt_tui.text import run_word, safe_text, shell_word

# Of what was recorded, what a new start gets again. The others say where it ran, or are made by the launcher.
_SET_AGAIN: tuple[str, ...] = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "OMP_NUM_THREADS",
    "MKL_NUM_THREADS", "PYTHONPATH", "PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF", "NCCL_SOCKET_IFNAME", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "GLOO_SOCKET_IFNAME",
    "TOKENIZERS_PARALLELISM",
)  # fmt: skip
_OF_ONE_PROCESS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class RecordedStart:
    """What `run_start` says of how a session was started; the fields of `RunStart`.

    has_resumed: it went on from a checkpoint, whatever its command says; resumed_from: its path, "" if not known.
    """

    argv: tuple[str, ...]
    cwd: str = ""
    host: str = ""
    launcher: Mapping[str, object] = field(default_factory=dict)
    has_resumed: bool = False
    resumed_from: str = ""

    @property
    def environment(self) -> Mapping[str, str]:
        told = self.launcher.get("environment")
        if not isinstance(told, Mapping):
            return {}
        return {str(k): v for k, v in told.items() if isinstance(v, str) and "\0" not in v}

    @property
    def job(self) -> Mapping[str, object]:
        told = self.launcher.get("job")
        return told if isinstance(told, Mapping) else {}


def build_recorded(start: RecordedStart, wanted: Resume) -> Built:
    """The command that resumes what was started so. What keeps it from running is in `missing`."""
    argv, notes = _with_interpreter(start.argv)
    cwd, said = _directory(start, wanted.directory)
    notes += said
    split = split_command(argv)
    moved = where_from(wanted.directory, start.launcher.get("directory"), start.cwd, split)
    if moved.cwd:
        cwd, notes = moved.cwd, [f"What it lies in was moved or copied since: it runs in {safe_text(moved.cwd, 300)}."]
    way = resume_way(split, wanted, cwd, has_resumed_itself=start.has_resumed, resumed_from=start.resumed_from)
    if start.job:
        from ckpt_tui.services.launchers.sbatch import build_job, job_script

        # A step that `srun` started in a job sees nothing of the job's script: Slurm may still have it.
        script = job_script(start.job)
        if script is not None or start.launcher.get("name") == "sbatch":
            _, _, missing = renamed(split.options, moved, cwd, wanted.directory)
            job = build_job(start, split, way, wanted, cwd, script)
            return replace(job, missing=(*job.missing, *missing))
    is_own = command_line.is_own_trainer(split.head)
    options = list(split.options)
    if is_own:
        options = command_line.without_once(options)
        options, said = _in_its_directory(options, cwd, wanted.directory)
        notes += said
        missing = list[str]()
    else:
        options, said, missing = renamed(options, moved, cwd, wanted.directory)
        notes += said
    options = with_settings(options, way, wanted)
    where = Where(cwd, start.environment, start.host)
    head, said, gone, not_known = head_now(split, where)
    notes += said
    missing += gone
    if way is None:
        missing.append(no_way(split, wanted))
    else:
        not_known += way.not_known
        missing += not_its_choice(way, wanted)
    if start.host and start.host != socket.gethostname():
        notes.append(f"It ran on {safe_text(start.host, 100)}: this is {socket.gethostname()}.")
    if start.job:
        not_known.append(
            "It ran within an allocation of Slurm: what that gave it (GPUs, memory) is not asked for here."
        )
    if any("\0" in word for word in (*head, *options, cwd)):
        missing.append("the recorded command holds a zero byte: it was not recorded as it was")
    environment = environment_to_set(start.environment, split.launcher)
    return Built(
        split.launcher, (*_env_words(environment), *head, *options), cwd, environment, tuple(notes), tuple(not_known),
        tuple(missing), known_by=way.known_by if way is not None else "", is_own=is_own,
    )  # fmt: skip


def with_settings(options: Sequence[str], way: ResumeWay | None, wanted: Resume) -> list[str]:
    """A script's options with the resume and the changed settings."""
    result = with_resume(options, way) if way is not None else list(options)
    for key, value in wanted.settings.items():
        result = set_setting(result, key, value, recorded=wanted.recorded.get(key))
    return result


def head_now(split: Split, where: Where) -> tuple[list[str], list[str], list[str], list[str]]:
    """The launchers' words as they can run now; notes, what is missing, what is not known."""
    head: list[str] = []
    notes: list[str] = []
    missing: list[str] = []
    not_known: list[str] = []
    for launcher, words, taken in split.parts:
        now = launcher.now(words, taken, where)
        head += now.words
        notes += now.notes
        missing += now.missing
        not_known += now.not_known
    return head, notes, missing, not_known


def no_way(split: Split, wanted: Resume) -> str:
    """That nothing tells how this script resumes, and how to say it once and for all."""
    command = command_line.quoted([*split.head, *split.options])
    return (
        f"how {safe_text(os.path.basename(split.script) or 'it', 100)} is told to resume is not known: no option for it"
        " is in the recorded command, in the recorded settings or in the script. Started as it is, it might begin anew"
        " over what is there. Say it once: --command "
        f"{command_line.quoted([f'{command} --OPTION {{checkpoint}} {{settings}}'])}"
    )


def not_its_choice(way: ResumeWay, wanted: Resume) -> list[str]:
    """Why a script that finds its checkpoint by itself cannot be sent to another one."""
    if not way.is_own_choice or wanted.is_automatic:
        return []
    name = safe_text(wanted.name, 200)
    rollback = f"ckpt-tui rollback {run_word(wanted.directory)} --to {shell_word(wanted.name)}"
    back = f"make {name} the newest first, with `{rollback}`, and resume without --from"
    return [f"the script takes the checkpoint that it finds, not one that it is told: {back}"]


def environment_to_set(recorded: Mapping[str, str], launcher: str) -> dict[str, str]:
    """The recorded variables that this start would not have by itself."""
    names = _SET_AGAIN
    if launcher == "python" and recorded.get("RANK"):
        names += _OF_ONE_PROCESS
    return {name: recorded[name] for name in names if name in recorded and os.environ.get(name) != recorded[name]}


def _env_words(environment: Mapping[str, str]) -> list[str]:
    return ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []


def _with_interpreter(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Older logs record `sys.argv`, without the interpreter."""
    program, rest = argv[0], list(argv[1:])
    if not program.endswith(".py"):
        return list(argv), []
    trainer = command_line.TRAINER_MODULE
    if os.path.basename(program) == "__main__.py" and os.path.basename(os.path.dirname(program)) == trainer:
        return [sys.executable, "-m", trainer, *rest], []
    return [sys.executable, program, *rest], [f"The interpreter is not recorded: {sys.executable} runs it."]


def _directory(start: RecordedStart, directory: str) -> tuple[str, list[str]]:
    """Where the command runs."""
    told = start.launcher.get("cwd")
    recorded = told if isinstance(told, str) and os.path.isdir(told) else start.cwd
    if recorded and os.path.isdir(recorded):
        return recorded, []
    other = os.path.dirname(directory)
    if not recorded:
        return other, []
    return other, [f"The recorded working directory {safe_text(recorded, 300)} is gone: it runs in {other}."]


def _in_its_directory(options: list[str], cwd: str, directory: str) -> tuple[list[str], list[str]]:
    out = command_line.option_value(options, "out")
    if out is None or os.path.realpath(os.path.join(cwd, out)) == os.path.realpath(directory):
        return options, []
    moved = command_line.set_option(options, "out", directory, recorded="")
    return moved, [f"The run directory was moved since: --out is now {safe_text(directory, 300)}."]
