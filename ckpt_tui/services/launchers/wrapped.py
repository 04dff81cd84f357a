"""Programs that run a command given behind their options: `env A=1`, `nohup`, `uv run`, `conda run`, `srun`, ..."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ckpt_tui.records import dataclass
from ckpt_tui.services.launchers.base import Now, Taken, Where, program_now

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wrapper:
    """values: options with a value in the next word; num_others: words that it takes before the command."""

    values: str = ""
    subcommand: str = ""
    num_others: int = 0


_SRUN = """
    -A --account -B --extra-node-info -b --begin -C --constraint -c --cpus-per-task -D --chdir -d --dependency
    -e --error -G --gpus --gpus-per-node --gpus-per-task --gres -i --input -J --job-name -m --distribution --mem
    --mem-per-cpu --mem-per-gpu --mpi -N --nodes -n --ntasks --ntasks-per-node --nodelist -o --output -p --partition
    -q --qos -t --time -w -x --exclude --exclusive= --cpu-bind --export -K= -W --wait --label= --jobid --hint
    --container-image --container-mounts --container-workdir --container-name
"""
_MPI = "-n -np -c -H -host --host -hostfile --hostfile -machinefile -x --map-by --bind-to -ppn -N"
WRAPPERS = {
    "nohup": Wrapper(), "setsid": Wrapper(), "time": Wrapper("-f --format -o --output"),
    "nice": Wrapper("-n --adjustment"), "ionice": Wrapper("-c --class -n --classdata"),
    "stdbuf": Wrapper("-i --input -o --output -e --error"), "timeout": Wrapper("-k --kill-after -s --signal", "", 1),
    "taskset": Wrapper("", "", 1), "numactl": Wrapper("-N -m -C -i --cpunodebind --membind --physcpubind --interleave"),
    "uv": Wrapper("--with --with-editable --with-requirements -p --python --project --directory --env-file --extra "
                  "--group --package --index --config-file", "run"),
    "conda": Wrapper("-n --name -p --prefix --cwd", "run"), "mamba": Wrapper("-n --name -p --prefix --cwd", "run"),
    "micromamba": Wrapper("-n --name -p --prefix --cwd -r --root-prefix", "run"), "poetry": Wrapper("", "run"),
    "pipenv": Wrapper("", "run"), "pdm": Wrapper("-p --project", "run"), "hatch": Wrapper("", "run"),
    "pixi": Wrapper("-e --environment --manifest-path", "run"), "rye": Wrapper("", "run"),
    "srun": Wrapper(_SRUN), "sbatch": Wrapper(_SRUN), "mpirun": Wrapper(_MPI), "mpiexec": Wrapper(_MPI),
    "apptainer": Wrapper("-B --bind --pwd -H --home --env --env-file --overlay", "exec", 1),
    "singularity": Wrapper("-B --bind --pwd -H --home --env --env-file --overlay", "exec", 1),
}  # fmt: skip


class Wrapped:
    name = "wrapped"

    def take(self, words: Sequence[str]) -> Taken | None:
        name = os.path.basename(words[0]) if words else ""
        if name == "env" or (words and _ASSIGNMENT.fullmatch(words[0])):
            return self._environment(words)
        # `conda` is a script of Python's, too.
        start = 1
        if name.startswith("python") and len(words) > 1 and os.path.basename(words[1]) in ("conda", "mamba"):
            name, start = os.path.basename(words[1]), 2
        wrapper = WRAPPERS.get(name)
        if wrapper is None:
            return None
        if wrapper.subcommand:
            if words[start : start + 1] != [wrapper.subcommand]:
                return None
            start += 1
        values = wrapper.values.split()
        index = start
        while index < len(words) and words[index].startswith("-"):
            word = words[index]
            index += 1
            if name == "uv" and word in ("-m", "--module") and index < len(words):
                return Taken(index + 1, words[index], True, 2)
            if word == "--":
                break
            index += word in values
        index += wrapper.num_others
        if index >= len(words):
            return None
        if name == "sbatch" or (name == "uv" and words[index].endswith(".py")):  # `uv run train.py`
            return Taken(index + 1, words[index], False, 1)
        return Taken(index)

    def now(self, words: Sequence[str], taken: Taken, where: Where) -> Now:
        if _ASSIGNMENT.fullmatch(words[0]):  # as a shell reads it; a list of words needs the program
            return Now(("env", *words))
        found, notes, missing = program_now(words, where)
        if os.path.basename(words[0]) == "srun" and "SLURM_JOB_ID" not in os.environ:
            notes.append("srun asks Slurm for a new allocation: it starts when there is room.")
        return Now(tuple(found), tuple(notes), tuple(missing))

    def _environment(self, words: Sequence[str]) -> Taken | None:
        index = 1 if os.path.basename(words[0]) == "env" else 0
        while index < len(words) and (words[index].startswith("-") or _ASSIGNMENT.fullmatch(words[index])):
            index += 2 if words[index] in ("-u", "--unset", "-C", "--chdir") else 1
        return Taken(index) if index < len(words) else None
