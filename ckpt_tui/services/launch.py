"""Start a training so that it outlives the terminal, and stop one so that it saves first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_tui.services.resume import ResumePlan

LAUNCH_FILE_NAME = "launch.json"


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
    raise NotImplementedError


def stop(directory: str, timeout_s: float = 60.0) -> Stopped:
    """Ask the training of `directory` to save and end (SIGTERM), and wait. CkptError when none is running."""
    raise NotImplementedError
