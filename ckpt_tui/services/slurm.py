"""A training that runs as a job of Slurm, on a machine where no signal of ours reaches it: asked through `scancel`.

`scancel --signal=TERM JOB` reaches what `srun` has started, and not a job's script nor what that runs directly;
`--full` reaches those as well, `--batch` only the script, which passes nothing on. So the step is named where the log
tells that it is one, and `--full` is said where it tells of none.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import safe_text

_PATIENCE_S = 20.0
_FIRST_SPECIAL_STEP = 1 << 31  # batch, extern and interactive have numbers near 2^32


@dataclass(frozen=True, slots=True)
class Job:
    """A job by its number; step: which of its steps the training is, "" for none that is known."""

    number: str
    step: str = ""

    def signal_command(self, name: str) -> tuple[str, ...]:
        """What sends a signal to the training."""
        if self.step:
            return ("scancel", f"--signal={name}", f"{self.number}.{self.step}")
        return ("scancel", f"--signal={name}", "--full", self.number)


def recorded_job(launcher: Mapping[str, object]) -> Job | None:
    """The job that a session ran in, as `run_start.launcher` tells."""
    told, environment = launcher.get("job"), launcher.get("environment")
    number = str(told.get("id") or "") if isinstance(told, Mapping) else ""
    if not number and isinstance(environment, Mapping):
        number = str(environment.get("SLURM_JOB_ID") or "")
    step = str(environment.get("SLURM_STEP_ID") or "") if isinstance(environment, Mapping) else ""
    if not number.isdecimal():
        return None
    return Job(number, step if step.isdecimal() and int(step) < _FIRST_SPECIAL_STEP else "")


def is_here() -> bool:
    """Whether jobs can be asked from this machine."""
    return shutil.which("scancel") is not None


def job_state(number: str) -> str | None:
    """PENDING, RUNNING, COMPLETING ...; "" when the cluster no longer lists it, None when it cannot be asked."""
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--jobs", number, "--format", "%T"], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode != 0:
        return "" if "Invalid job id" in done.stderr else None
    return done.stdout.split("\n")[0].strip()


def ask(command: tuple[str, ...]) -> None:
    """Run a `scancel`. Raises CkptError when it cannot be run, or says no."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CkptError("The cluster cannot be asked", f"{' '.join(command)}: {error}", "Try it by hand.") from error
    if done.returncode != 0:
        said = safe_text(done.stderr.strip() or f"exit code {done.returncode}", 300)
        raise CkptError("The cluster says no", f"{' '.join(command)}: {said}", "`squeue --me` lists your jobs.")
