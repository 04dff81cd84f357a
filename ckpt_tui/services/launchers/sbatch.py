"""A job of Slurm: submitted again, with the line of its script that starts the training changed and nothing else.

What is submitted is a copy in the run directory of the script that was recorded: its `#SBATCH` lines and everything
that it sets up stay as they were. What sbatch was given on its command line is not in the script: as far as the job's
environment told it, it is given again.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from ckpt_tui.services import command_line, slurm
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.launchers.base import Built, PlannedFile, Resume, Split
from ckpt_tui.services.launchers.recorded import RecordedStart, no_way, not_its_choice, with_settings
from ckpt_tui.services.launchers.shell_text import ShellWord, simple_commands
from ckpt_tui.services.launchers.spelling import ResumeWay
from ckpt_tui.text import safe_text

_ASK_S = 5.0
MAX_SCRIPT_BYTES = 1 << 20
# What the job's environment tells of sbatch's options: (variable, option, its one letter).
_OPTIONS = (
    ("SLURM_JOB_NAME", "job-name", "J"), ("SLURM_JOB_PARTITION", "partition", "p"),
    ("SLURM_JOB_ACCOUNT", "account", "A"),
    ("SLURM_JOB_QOS", "qos", "q"), ("SLURM_JOB_NUM_NODES", "nodes", "N"), ("SLURM_NTASKS", "ntasks", "n"),
    ("SLURM_NTASKS_PER_NODE", "ntasks-per-node", ""), ("SLURM_CPUS_PER_TASK", "cpus-per-task", "c"),
    ("SLURM_GPUS", "gpus", "G"), ("SLURM_GPUS_PER_NODE", "gpus-per-node", ""),
    ("SLURM_GPUS_PER_TASK", "gpus-per-task", ""), ("SLURM_MEM_PER_NODE", "mem", ""),
    ("SLURM_MEM_PER_CPU", "mem-per-cpu", ""),
)  # fmt: skip
_NO_TRAINING = frozenset({"echo", "cp", "cat", "ls", "printf", "rsync", "rm", "chmod", "test", "[", "module"})


def build_job(
    start: RecordedStart, split: Split, way: ResumeWay | None, wanted: Resume, cwd: str, script: str | None
) -> Built:
    """The job script for the resume, and the `sbatch` that submits it. script: of the recorded job."""
    environment = start.environment
    submitted_from = environment.get("SLURM_SUBMIT_DIR", "")
    cwd = submitted_from if os.path.isdir(submitted_from) else cwd
    missing: list[str] = []
    not_known = list(way.not_known) if way is not None else []
    program = shutil.which("sbatch")
    if program is None:
        missing.append("sbatch is not found here: it is there where jobs are submitted, on the cluster's login nodes")
    if way is None:
        missing.append(no_way(split, wanted))
    else:
        missing += not_its_choice(way, wanted)
    missing += _jobs_in_the_queue(start, wanted.directory)
    told_arguments = start.job.get("argv")
    arguments = [str(word) for word in told_arguments] if isinstance(told_arguments, list) else []
    files: tuple[PlannedFile, ...] = ()
    name = f"session_{wanted.session}.sbatch"
    if script is None:
        missing.append(
            f"the script of job {safe_text(start.job.get('id', ''), 40)} was not recorded, and Slurm has forgotten it:"
            " submit it by hand, or say it once: --command 'sbatch JOB.sh {checkpoint} {settings}'"
        )
    else:
        changed = changed_script(script, split, way, wanted, arguments)
        if changed is None:
            missing.append(
                f"where its job script starts {safe_text(os.path.basename(split.script), 100)} is not known (in several"
                " places, or by another script): say it once: --command 'sbatch JOB.sh {checkpoint} {settings}'"
            )
        else:
            script, arguments = changed
            if not isinstance(told_arguments, list) and re.search(r"\$[1-9@*]|\$\{[1-9@*]", script):
                not_known.append("What its job script was given as arguments is not known.")
            files = (PlannedFile(name, script),)
        if _given(script, "time", "t") is None:
            not_known.append("A time limit that sbatch was given on its command line is not known.")
    options = _sbatch_options(environment, script or "")
    notes = [
        f"It is submitted as a job, from {safe_text(cwd, 300)}: Slurm starts it when there is room, and keeps its"
        " output where the job script says."
    ]
    command = (program or "sbatch", *options, os.path.join(wanted.directory, name), *arguments)
    return Built(
        "sbatch", command, cwd, {}, tuple(notes), tuple(not_known), tuple(missing), files,
        known_by=way.known_by if way is not None else "", is_own=command_line.is_own_trainer(split.head),
    )  # fmt: skip


def changed_script(
    script: str, split: Split, way: ResumeWay | None, wanted: Resume, arguments: Sequence[str]
) -> tuple[str, list[str]] | None:
    """The job script and its arguments with the resume and the settings; None where the training's line is not known.

    Words of that line stay as they are written, with the variables in them: the new job has values of its own.
    """
    found = _training_line(script, split)
    if found is None:
        return None
    words, first = found
    raw = [word.raw for word in words[first:]]
    passes_on = any(word.strip('"') in ("$@", "$*", "${@}", "${*}") for word in raw)
    job_arguments = list(arguments)
    if passes_on:
        # They stand behind all others, so that what is there last counts.
        job_arguments = with_settings(job_arguments, way, wanted)
        changed = raw
    else:
        marked = [_Raw(word) for word in raw]
        changed = [
            str(word) if isinstance(word, _Raw) else shlex.quote(word) for word in with_settings(marked, way, wanted)
        ]
    if changed == raw:
        return script, job_arguments
    begin = words[first].begin if first < len(words) else words[-1].end
    end = words[-1].end
    was = script[words[0].begin : end].replace("\n", "\n# ")
    line = script.rfind("\n", 0, words[0].begin) + 1
    while script.endswith("\\\n", 0, line):  # it goes on from the line before
        line = script.rfind("\n", 0, line - 1) + 1
    before = f"# ckpt-tui, to resume from {_one_line(wanted.name)}; it was:\n# {was}\n"
    gap = "" if first < len(words) else " "
    new = script[:line] + before + script[line:begin] + gap + " ".join(changed) + script[end:]
    return new, job_arguments


class _Raw(str):
    """A word as the script has it: not to be quoted again."""

    __slots__ = ()


def _training_line(script: str, split: Split) -> tuple[list[ShellWord], int] | None:
    """The one command that starts the training, and where its script's own arguments begin."""
    name = os.path.basename(split.script)
    found = []
    for words in simple_commands(script):
        plain = [word.plain for word in words]
        at = next((i for i, word in enumerate(plain) if os.path.basename(word) == name and name), None)
        if at is None or plain[0] in _NO_TRAINING or (split.is_module and plain[at - 1] not in ("-m", "--module")):
            continue
        literal = [word for word in plain[at + 1 :] if "$" not in word and "`" not in word]
        found.append((words, at + 1, all(_is_recorded(word, split.options) for word in literal)))
    agreeing = [(words, first) for words, first, agrees in found if agrees]
    if len(found) == 1:
        return found[0][0], found[0][1]
    return agreeing[0] if len(agreeing) == 1 else None


def _is_recorded(word: str, options: Sequence[str]) -> bool:
    return word in options or word.startswith(("~", "*"))


def job_script(job: Mapping[str, object]) -> str | None:
    """The recorded text, else Slurm's own copy while it has one."""
    told = job.get("script")
    if isinstance(told, str) and told.startswith("#!"):
        return told
    number = str(job.get("id", ""))
    if not re.fullmatch(r"\d+(_\d+)?", number):
        return None
    for command in (["scontrol", "write", "batch_script", number, "-"], ["sacct", "-B", "-n", "-j", number]):
        text = _asked(command) or ""
        at = text.find("#!")
        if at >= 0:
            return text[at:]
    return None


def _jobs_in_the_queue(start: RecordedStart, directory: str) -> list[str]:
    """Jobs of this training that Slurm still has: one that waits would be a second trainer in the directory."""
    submitted = read_record(directory)
    numbers = {str(start.job.get("id", "")), submitted.job if submitted is not None else ""}
    numbers = {number for number in numbers if re.fullmatch(r"\d+(_\d+)?", number)}
    said = []
    for number in sorted(numbers) if slurm.is_here() else []:
        state = slurm.job_state(number)
        if state:
            said.append(
                f"job {number} of this training is {state.lower()} in Slurm's queue already: wait, or"
                f" `ckpt-tui stop {command_line.quoted([directory])}`"
            )
    return said


def _asked(command: list[str]) -> str | None:
    """What a command of Slurm says; None where it is not there, or says nothing in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=_ASK_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout[:MAX_SCRIPT_BYTES].decode("utf-8", "replace") if done.returncode == 0 else None


def _sbatch_options(environment: Mapping[str, str], script: str) -> list[str]:
    """What sbatch was given besides the script's own `#SBATCH` lines."""
    options = []
    for variable, name, letter in _OPTIONS:
        value = environment.get(variable)
        if value and _given(script, name, letter) is None and value not in ("sbatch", "wrap"):
            options.append(f"--{name}={value}")
    task = environment.get("SLURM_ARRAY_TASK_ID")
    return [*options, f"--array={task}"] if task else options  # this one of its tasks, and no other


def _given(script: str, name: str, letter: str) -> str | None:
    short = rf"|-{letter}\s*(?=\S)" if letter else ""
    match = re.search(rf"^#SBATCH\s(?:.*\s)?(?:--{name}[=\s]{short})(\S+)", script, re.MULTILINE)
    return match[1] if match else None


def _one_line(name: str) -> str:
    return safe_text(name, 200)
