"""Relaunch a training: from which checkpoint, with which command, and what it skips, redoes and trains anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.hparams import HparamChange  # type: ignore[import-not-found, unused-ignore]
    from ckpt_tui.checkpoints.validate import Validation  # type: ignore[import-not-found, unused-ignore]


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What a resume would start, for a person to read before it is started.

    command: argv, the interpreter first; command_line: the same, quoted for a shell. cwd: where it runs.
    steps_skipped: trained already and in the checkpoint; steps_redone: trained before, lost, trained again;
    steps_new: the rest up to total_steps. *_s: estimates in seconds at the run's own pace, 0 when it is not known.
    refusals: why it cannot be started; `launch` refuses as long as there is one. warnings: read these first.
    """

    directory: str
    checkpoint_name: str
    checkpoint_path: str
    step: int
    validation: Validation
    command: tuple[str, ...]
    command_line: str
    cwd: str
    changes: tuple[HparamChange, ...] = ()
    steps_skipped: int = 0
    steps_redone: int = 0
    steps_new: int = 0
    redone_s: float = 0.0
    new_s: float = 0.0
    total_steps: int = 0
    hyperparameters: Mapping[str, object] | None = None  # as recorded, before the changes
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    session: int = 1  # the number that the new session will have


def plan_resume(directory: str, source: str = "auto", changes: Mapping[str, str] | None = None) -> ResumePlan:
    """Plan a resume from `source`: auto (newest valid), latest, best, a name in the directory, or a path.

    changes: hyperparameters to set, as typed by a person (`{"lr": "3e-4"}`).
    Raises CkptError when there is nothing to resume from, or no command is known.
    """
    raise NotImplementedError
