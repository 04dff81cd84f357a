"""A training that a supervisor did not start itself: who trains in its directory, and how it ended while nobody looked.

The supervisor before may have been killed, a person or a scheduler may have started it: it is known by its pid and
start time, and by what the record of the supervisor before tells (`before`, all of `supervisor.json`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.events.writer import process_started
from ckpt_tui.records import dataclass
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.output_tail import OutputTail
from ckpt_tui.services.owner import Owner, held_by_another, owners_of, run_state
from ckpt_tui.services.processes import restarter_of
from ckpt_tui.services.session_follower import SessionFollower
from ckpt_tui.services.supervised_process import Training
from ckpt_tui.services.supervision import MAX_LAST_LINES, Ended
from ckpt_tui.services.supervisor_record import SupervisorState
from ckpt_tui.services.system import process_is_alive
from ckpt_tui.text import safe_text


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A training that runs already. log_name: of the file with its output, "" where that is not known."""

    training: Training
    follower: SessionFollower
    log_name: str
    told: str


def who_trains(directory: str) -> Owner | None:
    """Who trains here; also one that only its log tells of, which takes reading all of that."""
    for reads_log in (False, True):
        state = run_state(directory) if reads_log else None
        for owner in owners_of(directory, state):
            # A lock that outlives whom it names is held by an act, or by a process that is dying: nobody trains.
            if not owner.is_supervisor and held_by_another(directory, owner) is None:
                return owner
    return None


def held(directory: str) -> CkptError | None:
    """Why nothing can be started although nobody trains: the trainer's lock is held."""
    return next((error for owner in owners_of(directory) if (error := held_by_another(directory, owner))), None)


def take_over(directory: str, owner: Owner, before: Mapping[str, object], mark: str) -> TakenOver | None:
    """The training of `owner` as one to look after; None when it has ended since it was seen. mark: what is looked for
    in processes, where `before` has none.

    Raises CkptError when it does not run on this host.
    """
    is_alive = process_is_alive(owner.pid, owner.pid_started, owner.host)
    if is_alive is False:
        return None
    if is_alive is None:
        is_here = not owner.host or owner.host == socket.gethostname()
        where = "elsewhere" if is_here else f"on {safe_text(owner.host, 60)}"
        raise CkptError(
            "A training runs here that cannot be looked after",
            f"{owner.told_by} of {directory} says that it runs {where}",
            "Run supervise on that host, or stop it there first.",
        )
    pid, pid_started = _outermost(owner, before)
    launched = read_record(directory)
    return TakenOver(
        Training(pid, pid_started, is_child=False, mark=str(before.get("mark") or mark)),
        SessionFollower(directory, {owner.pid, pid}),
        launched.log if launched is not None else "",
        f"took over process {pid}, which trains here already ({owner.told_by} says so)"
        f"{', and was asked to save and end' if asked_before(before) else ''}",
    )


def asked_before(before: Mapping[str, object]) -> str:
    """What asked the training to end while the supervisor before looked after it, "" for nothing."""
    return "a signal before" if before.get("state") == SupervisorState.STOPPING else ""


def _outermost(owner: Owner, before: Mapping[str, object]) -> tuple[int, float]:
    """The torchrun, or the shell, that it runs under: what the supervisor before had started, or what would start it
    again at its end."""
    pid, pid_started = before.get("child_pid"), before.get("child_pid_started")
    is_told = isinstance(pid, int) and pid > 0 and isinstance(pid_started, float)
    if is_told and process_is_alive(pid, pid_started, ""):  # type: ignore[arg-type]
        return pid, pid_started  # type: ignore[return-value]
    restarter = restarter_of(owner.pid)
    if restarter is not None:
        return restarter, process_started(restarter)
    return owner.pid, owner.pid_started


def unseen_end(directory: str, before: Mapping[str, object], log_name: str) -> Ended:
    """Of a training that ended while there was no supervisor."""
    there = SessionFollower(directory, ())
    session = before.get("session")
    is_of_it = isinstance(session, int) and there.session >= session and there.is_started
    told = SessionFollower(directory, {there.pid} if is_of_it else ())
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
