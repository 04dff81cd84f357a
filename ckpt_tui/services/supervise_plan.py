"""What `supervise` would do, for a person to read before it does: the first start, the restarts, and what is refused.

Reads only. The supervisor itself decides anew when it starts: what is read here is what it would find now.
"""

from __future__ import annotations

import os

from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.services import command_line
from ckpt_tui.services.owner import forced_words, only_a_number, owners_of, run_state, unsure_words
from ckpt_tui.services.processes import is_meant
from ckpt_tui.services.supervised_start import find_point, resuming
from ckpt_tui.services.supervision import Point, Policy
from ckpt_tui.services.supervisor_record import live_supervisor
from ckpt_tui.services.system import process_is_alive
from ckpt_tui.text import duration, plural, safe_text


@dataclass(frozen=True, slots=True)
class SupervisePlan:
    """command: argv of the first start, with how it is told to go on. checkpoint: where that begins, "" for step 0.
    steps_redone, redone_s: trained before and not in that checkpoint. takes_over: the process of a training that runs
    already and would only be looked after, None where one would be started. warnings: what --force has ruled out.
    refusals: why it could not begin."""

    directory: str
    command: tuple[str, ...]
    cwd: str
    checkpoint: str = ""
    step: int | None = None
    steps_redone: int = 0
    redone_s: float = 0.0
    takes_over: int | None = None
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def command_line(self) -> str:
        """The command, quoted for a shell."""
        return command_line.quoted(self.command)


def plan_supervise(
    directory: str, command: tuple[str, ...], *, cwd: str, policy: Policy, as_is: bool = False, force: bool = False
) -> SupervisePlan:
    """The plan of a supervision that begins now. A directory that is not there yet is planned for as an empty one.
    force: what may train on another host does not, as a person knows; what is seen to live counts."""
    before = live_supervisor(directory)
    if before is not None and before.is_alive:
        return SupervisePlan(
            directory, command, cwd, refusals=(f"Process {before.pid} supervises {safe_text(directory, 200)} already.",)
        )
    is_there = os.path.isdir(directory)
    found = owners_of(directory, run_state(directory))
    ruled_out = [owner for owner in found if not owner.is_sure] if force else []
    supervisor = next((owner for owner in found if owner.is_supervisor and owner not in ruled_out), None)
    if supervisor is not None:
        return SupervisePlan(directory, command, cwd, refusals=(unsure_words(directory, supervisor, "supervise"),))
    owners = [owner for owner in found if not owner.is_supervisor and owner not in ruled_out]
    if owners and process_is_alive(owners[0].process) is None:
        refusal = f"A training runs here that cannot be looked after ({owners[0].words})."
        if not owners[0].is_sure:
            refusal = unsure_words(directory, owners[0], "supervise")
        return SupervisePlan(directory, command, cwd, refusals=(refusal,))
    if owners and not is_meant(owners[0].process, directory):
        return SupervisePlan(directory, command, cwd, refusals=(only_a_number(directory, owners[0]).message,))
    if owners:
        sentence = f"Process {owners[0].pid} trains here already: it is looked after, and nothing is started now."
        return SupervisePlan(
            directory, command, cwd, takes_over=owners[0].pid, sentences=(sentence, restart_words(policy))
        )
    point = find_point(directory) if is_there else Point(is_untrained=True)
    try:
        start = resuming(command, directory, cwd=cwd, point=point, as_is=as_is)
    except CkptError as error:
        return SupervisePlan(directory, command, cwd, refusals=(f"{error.title}: {error.message}.",))
    refusals = []
    if not point.name and not point.is_untrained:
        refusals.append(f"Nothing to resume from: {point.why_none}. It is not started over from step 0.")
    elif point.name and not start.is_known:
        refusals.append(
            f"Nothing tells how this command goes on from {safe_text(point.name, 100)}: --as-is if it does."
        )
    return SupervisePlan(
        directory, start.command, cwd, checkpoint=point.name, step=point.step, steps_redone=point.lost_steps,
        redone_s=point.lost_s, sentences=(*_start_words(point, is_there), restart_words(policy)),
        warnings=tuple(forced_words(owner) for owner in ruled_out), refusals=tuple(refusals),
    )  # fmt: skip


def restart_words(policy: Policy) -> str:
    """What happens after a crash, in a sentence."""
    if policy.restarts_by:
        return f"Restarts are left to {policy.restarts_by}."
    limit = f", {plural(policy.max_restarts, 'restart')} within {duration(policy.within_s)} at most"
    return (
        f"After a crash it is started again from the newest valid checkpoint, {duration(policy.pause_s)} later, each"
        f" time longer, up to {duration(policy.max_pause_s)}{limit if policy.max_restarts else ''}."
    )


def _start_words(point: Point, is_there: bool) -> list[str]:
    said = [f"Passed over: {reason}." for reason in point.passed_over]
    if not point.name:
        where = "nothing was trained here yet" if is_there else "the directory is made"
        return [*said, f"Starts from the beginning: {where}."]
    step = f" (step {point.step:,})" if point.step is not None else ""
    cost_s = f", {duration(point.lost_s)}" if point.lost_s else ""
    redone = f", and redoes {plural(point.lost_steps, 'step')}{cost_s}" if point.lost_steps else ""
    return [*said, f"Goes on from {safe_text(point.name, 120)}{step}{redone}."]
