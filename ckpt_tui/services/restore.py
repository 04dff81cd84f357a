"""Put back, roll back, undo: first a plan in plain words, then the deed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Act = Literal["restore", "rollback", "undo"]


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One file that changes. Names are relative to the run directory.

    action: `copy` (target becomes an independent, verified copy of source), `set aside` (target goes to
    set_aside/<n>/ under its own name), `put back` (source, a file that was set aside, becomes target again).
    replaces: whether a file now called target is set aside first.
    """

    action: Literal["copy", "set aside", "put back"]
    source: str
    target: str
    size_bytes: int
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What an act would do, for a person to read before it is done.

    sentences: what is copied where, what is set aside, what is given up. warnings: what a person should think about.
    refusals: why it cannot be done now; `carry_out` refuses as long as there is one (`force` overrides `forceable`
    ones). An empty plan (`is_empty`) has nothing to do, and its sentences say why.
    """

    act: Act
    directory: str
    steps: tuple[PlannedMove, ...]
    sentences: tuple[str, ...]
    steps_given_up: int = 0
    seconds_given_up: float = 0.0
    bytes_needed: int = 0
    warnings: tuple[str, ...] = ()
    undoes: int | None = None  # the number of the deed that an undo takes back

    @property
    def is_empty(self) -> bool:
        return not self.steps


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done. `number` is the deed's folder under set_aside/; `undo` takes it back."""

    act: Act
    directory: str
    number: int
    sentences: tuple[str, ...]
    set_aside: tuple[str, ...] = ()
    resume_would_take: str | None = None


def plan_restore(directory: str, names: Sequence[str] = ()) -> Plan:
    """Plan to put a valid backup in place of every damaged or missing file, or of those in `names` only."""
    raise NotImplementedError


def plan_rollback(directory: str, to: str) -> Plan:
    """Plan to make `to` (a step or a name) the checkpoint that `--resume auto` starts from."""
    raise NotImplementedError


def plan_undo(directory: str) -> Plan:
    """Plan to take the newest deed back that was not taken back yet."""
    raise NotImplementedError


def carry_out(plan: Plan, *, force: bool = False, on_bytes: Callable[[int], None] | None = None) -> Outcome:
    """Do what `plan` says, or raise CkptError with nothing changed.

    force: even while a live trainer owns the directory. on_bytes is told of bytes read or written as they go by.
    """
    raise NotImplementedError
