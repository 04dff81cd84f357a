"""Whether a run that has ended is being started again: what its live supervisor says, or who was started in it since.

Asked only where nobody is known to train (`services/surroundings.py`). Only reads.
"""

from __future__ import annotations

from collections.abc import Collection

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.run.health import START_PATIENCE_S
from ckpt_tui.run.state import NextStart
from ckpt_tui.services.copied_record import is_of_another
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME, LaunchRecord, read_record
from ckpt_tui.services.supervisor_record import RECORD_NAME, Supervisor, SupervisorState, live_supervisor
from ckpt_tui.services.system import process_is_alive


def coming_start(directory: str, now: float, names: Collection[str], ended: ProcessIdentity) -> NextStart | None:
    """The start that is due in a directory, or that was made; None where nobody is about to train.

    names: what is in it. ended: the last session's process, which is gone; in a container the next one may get its
    number.
    """
    supervisor = live_supervisor(directory) if RECORD_NAME in names else None
    if supervisor is not None and supervisor.state is SupervisorState.WAITING:
        return _due(supervisor, now)
    launched = read_record(directory) if LAUNCH_FILE_NAME in names else None
    lives = launched is not None and not launched.process.is_same(ended) and _lives(directory, launched)
    is_at_work = supervisor is not None and supervisor.state is SupervisorState.RUNNING and bool(supervisor.is_alive)
    if launched is not None and lives:
        is_its = supervisor is not None and is_at_work and supervisor.child_pid == launched.pid
        attempt = supervisor.restarts if supervisor is not None and is_its else 0
        return NextStart(
            started_at=launched.ts, attempt=attempt, pid=launched.pid, by=launched.by,
            session=launched.session, is_supervised=is_its,
        )  # fmt: skip
    # It was the only try of this supervisor where others are in charge of restarts.
    if supervisor is not None and is_at_work and not supervisor.restarts_by:
        return NextStart(attempt=supervisor.restarts + 1, by="supervise", is_supervised=True)
    return None


def _due(supervisor: Supervisor, now: float) -> NextStart | None:
    due_at = supervisor.next_try_at if supervisor.next_try_at is not None else supervisor.since
    # One on another host cannot be asked: it is believed for as long as a start takes.
    if supervisor.is_alive is None and now > due_at + START_PATIENCE_S:
        return None
    return NextStart(
        due_at=due_at, attempt=supervisor.restarts + 1, by="supervise", is_supervised=True,
        last_exit=supervisor.last_exit,
    )  # fmt: skip


def _lives(directory: str, launched: LaunchRecord) -> bool:
    is_alive = process_is_alive(launched.process)
    return bool(is_alive) and not is_of_another(directory, launched.directory, launched.pid, launched.host)
