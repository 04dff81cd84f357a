"""A training that a supervisor did not start itself: who trains in its directory, and how it ended while nobody looked.

The supervisor before may have been killed, a person or a scheduler may have started it: it is known by its pid and
start time, and by what the record of the supervisor before tells (`before`, all of `supervisor.json`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.output_tail import OutputTail
from ckpt_tui.services.owner import Owner, held_by_another, only_a_number, owners_of, run_state, where_words
from ckpt_tui.services.processes import is_meant, restarter_of
from ckpt_tui.services.session_follower import SessionFollower
from ckpt_tui.services.supervised_process import Training
from ckpt_tui.services.supervision import MAX_LAST_LINES, Ended
from ckpt_tui.services.supervisor_record import SupervisorState, recorded_child
from ckpt_tui.services.system import identify, process_is_alive
from ckpt_tui.text import run_word


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A training that runs already. log_name: of the file with its output, "" where that is not known."""

    training: Training
    follower: SessionFollower
    log_name: str
    told: str


def who_trains(directory: str, ruled_out: Collection[Owner] = ()) -> Owner | None:
    """Who trains here; also one that only its log tells of, which takes reading all of that. ruled_out: who does not,
    as a person knows."""
    for reads_log in (False, True):
        state = run_state(directory) if reads_log else None
        for owner in owners_of(directory, state):
            # A lock that outlives whom it names is held by an act, or by a process that is dying: nobody trains.
            is_ruled_out = owner.is_supervisor or owner in ruled_out
            if not is_ruled_out and held_by_another(directory, owner) is None:
                return owner
    return None


def unseen(directory: str) -> tuple[Owner, ...]:
    """Who may train here on another host, as far as what was written there tells, or starts a training from there."""
    return tuple(owner for owner in owners_of(directory, run_state(directory)) if not owner.is_sure)


def supervisor_elsewhere(directory: str) -> Owner | None:
    """A supervisor on another host that is about to start a training, as its record says."""
    return next((owner for owner in owners_of(directory) if owner.is_supervisor and not owner.is_sure), None)


def held(directory: str) -> CkptError | None:
    """Why nothing can be started although nobody trains: the trainer's lock is held."""
    return next((error for owner in owners_of(directory) if (error := held_by_another(directory, owner))), None)


def take_over(directory: str, owner: Owner, before: Mapping[str, object], mark: str) -> TakenOver | None:
    """The training of `owner` as one to look after; None when it has ended since it was seen. mark: what is looked for
    in processes, where `before` has none.

    Raises CkptError when it does not run on this host.
    """
    is_alive = process_is_alive(owner.process)
    if is_alive is False:
        return None
    if is_alive is None:
        known = f" Where it is known to have ended: `ckpt-tui supervise {run_word(directory)} --force`."
        raise CkptError(
            "A training runs here that cannot be looked after",
            f"{owner.told_by} of {directory} says that it runs {where_words(owner.process) or 'elsewhere'}",
            f"Run supervise there, or stop it there first.{'' if owner.is_sure else known}",
        )
    if not is_meant(owner.process, directory):
        raise only_a_number(directory, owner)
    process = _outermost(owner, before)
    launched = read_record(directory)
    return TakenOver(
        Training(process, is_child=False, mark=str(before.get("mark") or mark)),
        SessionFollower(directory, {owner.pid, process.pid}),
        launched.log if launched is not None else "",
        f"took over process {process.pid}, which trains here already ({owner.told_by} says so)"
        f"{', and was asked to save and end' if asked_before(before) else ''}",
    )


def asked_before(before: Mapping[str, object]) -> str:
    """What asked the training to end while the supervisor before looked after it, "" for nothing."""
    return "a signal before" if before.get("state") == SupervisorState.STOPPING else ""


def _outermost(owner: Owner, before: Mapping[str, object]) -> ProcessIdentity:
    """The torchrun, or the shell, that it runs under: what the supervisor before had started, or what would start it
    again at its end."""
    child = recorded_child(before)
    if process_is_alive(child):
        return child
    restarter = restarter_of(owner.pid)
    return identify(restarter) if restarter is not None else owner.process


def unseen_end(directory: str, before: Mapping[str, object], log_name: str) -> Ended:
    """Of a training that ended while there was no supervisor."""
    there = SessionFollower(directory, ())
    session = before.get("session")
    is_of_it = isinstance(session, int) and there.session >= session and there.is_started
    told = SessionFollower(directory, {there.process.pid} if is_of_it else ())
    tail = OutputTail(os.path.join(directory, log_name), -1)
    tail.begin = 0
    return Ended(
        at=time.time(), status=told.status if is_of_it else "", reason=told.reason if is_of_it else "",
        step=told.step if is_of_it else None, last_lines=tail.last_lines(MAX_LAST_LINES),
        asked=asked_before(before),
    )  # fmt: skip


def newest_saved_step(directory: str) -> int:
    """The step of the newest save that the log tells of, -1 for none."""
    state = run_state(directory)
    return max((save.step for save in state.saves), default=-1) if state is not None else -1


def next_session(directory: str) -> int:
    """The number that the next session will have."""
    if os.path.exists(os.path.join(directory, LOG_NAME)):
        return SessionFollower(directory, ()).session + 1
    names = [name for name in os.listdir(directory) if name.startswith("session_") and name.endswith(".log")]
    numbers = [int(name[8:-4]) for name in names if name[8:-4].isdigit() and len(name) < 22]
    return max(numbers, default=0) + 1
