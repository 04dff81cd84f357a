"""What the supervisor of a run directory says of itself in `supervisor.json`, for everybody who asks who is in charge.

The file is replaced as a whole at each change, so it is never half written. It outlives the supervisor that wrote it:
it says how that one ended, and one that was killed is known by its pid and start time, never by the file alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import field, replace
from enum import StrEnum

from ckpt_tui import text
from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services.copied_record import is_of_another

RECORD_NAME = "supervisor.json"
LOCK_NAME = "supervisor.lock"
_MAX_BYTES = 1 << 20


class SupervisorState(StrEnum):
    """What a supervisor is at, or how it ended."""

    RUNNING = "running"  # a training is at work
    WAITING = "waiting"  # a pause until the next try
    STOPPING = "stopping"  # a person asked to stop: the training saves and ends
    FINISHED = "finished"  # the training came to its end
    STOPPED = "stopped"  # by a person
    GAVE_UP = "gave up"

    @property
    def is_over(self) -> bool:
        return self in (SupervisorState.FINISHED, SupervisorState.STOPPED, SupervisorState.GAVE_UP)


@dataclass(frozen=True, slots=True)
class Supervisor:
    """The supervisor that wrote `supervisor.json` last.

    is_alive: by pid and start time; None where nobody can know from here (another host).
    since: when it came to this state. restarts: how often it started the training anew.
    next_try_at: while it waits, when the next start is. told: why it does what it does, in a sentence.
    last_exit: how the training ended last ("exit code 1", "killed by SIGKILL"), "" before the first end.
    child: the training that it looks after, nobody while there is none.
    restarts_by: who else restarts the training ("torchrun", "slurm"), "" where this supervisor does.
    settings: limits and such that were not the usual ones, by the names of their options.
    """

    process: ProcessIdentity
    state: SupervisorState
    is_alive: bool | None = None
    since: float = 0.0
    started_at: float = 0.0
    restarts: int = 0
    max_restarts: int = 0
    next_try_at: float | None = None
    last_exit: str = ""
    last_exit_at: float | None = None
    told: str = ""
    child: ProcessIdentity = NOBODY
    session: int = 0
    command: tuple[str, ...] = ()
    cwd: str = ""
    log: str = ""
    restarts_by: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def child_pid(self) -> int:
        return self.child.pid

    @property
    def is_in_charge(self) -> bool:
        """Whether it will start the training again, as far as one can tell from here."""
        return self.is_alive is not False and not self.state.is_over


def read_supervisor(directory: str) -> Supervisor | None:
    """The supervisor of a directory, alive or not; None when there never was one, or its record cannot be read."""
    try:
        with open_regular(os.path.join(directory, RECORD_NAME)) as file:
            fields = json.loads(file.read(_MAX_BYTES))
        found = _from_fields(fields)
        if found.is_alive and is_of_another(directory, fields.get("directory"), found.pid):
            return replace(found, is_alive=False)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def live_supervisor(directory: str) -> Supervisor | None:
    """The supervisor that looks after a directory now."""
    supervisor = read_supervisor(directory)
    return supervisor if supervisor is not None and supervisor.is_in_charge else None


def read_fields(directory: str) -> dict[str, object]:
    """All that the record holds, also what only a supervisor understands; {} when there is none."""
    try:
        with open_regular(os.path.join(directory, RECORD_NAME)) as file:
            fields = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def recorded_child(fields: Mapping[str, object]) -> ProcessIdentity:
    """The training that the supervisor of that record looked after."""
    try:
        child = ProcessIdentity.from_fields({"child_pid_started": 0.0, **fields}, "child_")
    except (ValueError, KeyError, TypeError, OverflowError):
        return NOBODY
    if not child.is_told_apart:
        return NOBODY  # who has that number by now may be anybody, and this one gets signals
    return child if child.host else replace(child, host=str(fields.get("host") or ""))


def write_record(directory: str, fields: Mapping[str, object]) -> None:
    """Replace the record as a whole, durably. Raises OSError."""
    from ckpt_tui.services import files

    path = os.path.join(directory, RECORD_NAME)
    fields = {**fields, "directory": os.path.realpath(directory)}  # tells the record from a copy of it
    files.write_file(path, json.dumps(fields, indent=1).encode() + b"\n", files.mode_as_log(directory))


def supervisor_words(supervisor: Supervisor, now: float) -> str:
    """`supervised, 2 restarts, next try in 40 s`, safe for a terminal; "" where there is nothing to say."""
    restarts = f", {text.plural(supervisor.restarts, 'restart')}" if supervisor.restarts else ""
    if supervisor.state.is_over:
        if supervisor.state is not SupervisorState.GAVE_UP:
            return ""
        return f"supervisor gave up{restarts}"
    if supervisor.is_alive is False:
        return f"supervisor is gone{restarts}"
    if supervisor.state is SupervisorState.STOPPING:
        return f"supervised{restarts}, stopping"
    if supervisor.state is SupervisorState.WAITING and supervisor.next_try_at is not None:
        left_s = round(supervisor.next_try_at - now)
        return f"supervised{restarts}, next try {f'in {text.duration(left_s)}' if left_s > 0 else 'now'}"
    by = f", restarts by {text.safe_text(supervisor.restarts_by, 40)}" if supervisor.restarts_by else ""
    return f"supervised{restarts}{by}"


def _from_fields(fields: dict[str, object]) -> Supervisor:
    from ckpt_tui.services.system import process_is_alive

    process = ProcessIdentity.from_fields(fields)
    command = fields.get("command") or ()
    state = SupervisorState(str(fields["state"]))
    # Who ended is not asked for: psutil takes 10 ms of a start.
    is_alive = False if state.is_over else process_is_alive(process)

    def moment(name: str) -> float | None:
        value = fields.get(name)
        return None if value is None else _number(value)

    return Supervisor(
        process=process, state=state, is_alive=is_alive,
        since=moment("since") or 0.0, started_at=moment("started_at") or 0.0,
        restarts=int(moment("restarts") or 0), max_restarts=int(moment("max_restarts") or 0),
        next_try_at=moment("next_try_at"), last_exit=str(fields.get("last_exit") or ""),
        last_exit_at=moment("last_exit_at"), told=str(fields.get("told") or ""),
        child=recorded_child(fields), session=int(moment("session") or 0),
        command=tuple(str(word) for word in command) if isinstance(command, list) else (),
        cwd=str(fields.get("cwd") or ""), log=str(fields.get("log") or ""),
        restarts_by=str(fields.get("restarts_by") or ""),
        settings=settings if isinstance(settings := fields.get("settings"), dict) else {},
    )  # fmt: skip


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value - value != 0:
        raise ValueError("not a number")
    return float(value)
