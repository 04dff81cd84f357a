"""Who trains in a run directory right now, as far as this machine can tell.

Four witnesses: the trainer's lock (any trainer of ours), `supervisor.json` (one that will start it again counts even
while nothing trains), `launch.json` (a training that we started and that has not taken its lock yet), and the log
(other people's loops). A process counts only with its start time: pids come again.
"""

from __future__ import annotations

import os
import time
from threading import Lock
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.services.copied_record import is_of_another
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME as LAUNCH_FILE_NAME
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.supervisor_record import RECORD_NAME as SUPERVISOR_FILE_NAME
from ckpt_tui.services.supervisor_record import Supervisor, live_supervisor
from ckpt_tui.services.system import LOCK_NAME, lock_owner, process_is_alive
from ckpt_tui.text import run_word, safe_text

if TYPE_CHECKING:
    from ckpt_tui.services.monitor import LogMark, RunMonitor

_LATE_S = 60.0  # that a start on another host may be late: it looks for a checkpoint first


@dataclass(frozen=True, slots=True)
class Owner:
    """A live training, or the supervisor that will start it again. pid 0: it runs, but its pid is not known.

    told_by: trainer.lock, supervisor.json, launch.json or events.jsonl.
    """

    process: ProcessIdentity
    told_by: str

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def words(self) -> str:
        """`process 7`, `process 7 on node3`, `process 7 in another container`."""
        where = where_words(self.process)
        return f"process {self.pid} {where}" if where else f"process {self.pid}"

    @property
    def is_supervisor(self) -> bool:
        return self.told_by == SUPERVISOR_FILE_NAME

    @property
    def is_sure(self) -> bool:
        """Whether it is seen to live: its lock is held, or it is on this host. Of one on another host without a lock
        only what was written a while ago tells, and it may have died since."""
        return self.told_by == LOCK_NAME or not where_words(self.process)


def where_words(process: ProcessIdentity) -> str:
    """`on node3`, `in another container`; "" of a process that can be seen from here."""
    if not process.is_on_this_host:
        return f"on {safe_text(process.host, 60)}"
    return "in another container" if process.is_in_another_container else ""


def unsure_words(directory: str, owner: Owner, command: str = "resume") -> str:
    """Why a training that nobody can see from here is in the way, and what to say where a person knows better."""
    return (
        f"A training may be running here still ({owner.words}, {owner.told_by} says so); from here nobody can look. "
        f"Where it is known to have ended: `ckpt-tui {command} {run_word(directory)} --force`."
    )


def forced_words(owner: Owner) -> str:
    """What a person says with --force, who is told of it."""
    return (
        f"{owner.words[:1].upper()}{owner.words[1:]} may be training here ({owner.told_by} says so): --force "
        "says that it is not. Two trainings in one directory overwrite each other's checkpoints."
    )


def owner_of(directory: str, state: RunState | None = None) -> Owner | None:
    """The live training of a directory, None when there is none that we can see.

    state: what the log says, if the caller has folded it already.
    """
    owners = owners_of(directory, state)
    return owners[0] if owners else None


def owners_of(directory: str, state: RunState | None = None) -> tuple[Owner, ...]:
    """Every live process that somebody says trains here, the surest first. Several as a rule are one training: a rank
    and the torchrun that started it."""
    owners = []
    held = lock_owner(directory)
    if held is not None:
        owners.append(Owner(held, LOCK_NAME))
    supervisor = live_supervisor(directory)
    if supervisor is not None and supervisor.pid != os.getpid() and (supervisor.is_alive or _is_due(supervisor)):
        owners.append(Owner(supervisor.process, SUPERVISOR_FILE_NAME))
    launched = read_launch(directory)
    if launched is not None and _is_alive_here(directory, launched):
        owners.append(launched)
    says_running = state is not None and state.phase in (Phase.RUNNING, Phase.STALLED)
    if state is not None and says_running and state.pid > 0 and not _is_of_another(directory, state):
        is_alive = process_is_alive(state.process)
        # On another host nobody can look, but it wrote just now; a trainer of ours would hold its lock there.
        if is_alive or (is_alive is None and not os.path.exists(os.path.join(directory, LOCK_NAME))):
            owners.append(Owner(state.process, LOG_NAME))
    each: list[Owner] = []
    for owner in owners:  # in containers the same numbers come again and again
        if not any(owner.process.is_same(other.process) for other in each):
            each.append(owner)
    return tuple(each)


def held_by_another(directory: str, owner: Owner) -> CkptError | None:
    """What to say where the lock is held, though the training that it names is gone; None of a training."""
    if owner.told_by != LOCK_NAME or process_is_alive(owner.process) is not False:
        return None
    return CkptError(
        "Somebody else is at work here",
        f"{directory} is held, but the training that its lock names is gone: by another viewer's act, or by what that "
        "training left behind",
        f"Try again in a moment; `fuser -v {run_word(directory)}/{LOCK_NAME}` names who it is.",
    )


def only_a_number(directory: str, owner: Owner) -> CkptError:
    """Why a live process of that number is neither signalled nor looked after."""
    from ckpt_tui.services.processes import look_at

    process = look_at(owner.pid)
    words = f" ({safe_text(' '.join(process.words), 80)})" if process is not None and process.words else ""
    return CkptError(
        "Not known which process it is",
        f"{owner.told_by} of {directory} names process {owner.pid} and not when that started; the one that has this"
        f" number now{words} has no file open for writing there",
        f"Where it is the training all the same: `kill -TERM {owner.pid}`; whether it saves then is not known.",
    )


def _is_due(supervisor: Supervisor) -> bool:
    """Whether one on another host is between two sessions, as far as its record tells."""
    return (
        supervisor.is_alive is None
        and supervisor.next_try_at is not None
        and time.time() < supervisor.next_try_at + _LATE_S
    )


def _is_alive_here(directory: str, launched: Owner) -> bool:
    if not process_is_alive(launched.process):
        return False
    record = read_record(directory)
    return record is not None and not is_of_another(directory, record.directory, record.pid)


def _is_of_another(directory: str, state: RunState) -> bool:
    return is_of_another(directory, state.launcher.get("directory"), state.pid, state.host)


def read_launch(directory: str) -> Owner | None:
    """The training that was last launched from here; whether it still lives is another question."""
    record = read_record(directory)
    return Owner(record.process, LAUNCH_FILE_NAME) if record is not None else None


def run_monitor(directory: str) -> RunMonitor | None:
    """What has read the whole log of a directory, None when it has none."""
    return _read(directory) if os.path.exists(os.path.join(directory, LOG_NAME)) else None


def read_monitor(directory: str) -> RunMonitor | None:
    """The same, also of another program's log."""
    own = run_monitor(directory)
    if own is not None:
        return own
    try:
        monitor = _read(directory)
    except (CkptError, OSError):
        return None
    return monitor if monitor.state().num_events else None


def _read(directory: str) -> RunMonitor:
    from ckpt_tui.services.monitor import RunMonitor

    monitor = _kept_monitor(directory) or RunMonitor(directory)
    monitor.poll(budget_s=1.0)
    while not monitor.is_caught_up:
        monitor.poll(budget_s=1.0)
    return monitor


def run_state(directory: str) -> RunState | None:
    """What the log of a directory tells, None when it has none.

    Of a long one only what is new is read when the same directory was asked about before: the act asks again what its
    plan did, and 10^7 lines take 18 s.
    """
    monitor = run_monitor(directory)
    if monitor is None:
        return None
    state = monitor.state()
    keep_monitor(directory, monitor)
    return state


# One, for who asks next: nobody else has it meanwhile, and a second one would be as large again.
_kept: list[tuple[str, LogMark, RunMonitor]] = []
_keeping = Lock()


def keep_monitor(directory: str, monitor: RunMonitor) -> None:
    """Let who asks next about a directory go on from what `monitor` has read, which the caller is done with."""
    mark = monitor.rest()
    if mark is not None:
        with _keeping:
            _kept[:] = [(os.path.realpath(directory), mark, monitor)]


def _kept_monitor(directory: str) -> RunMonitor | None:
    """What has read the log of a directory before, if that is still the same file and no shorter."""
    with _keeping:
        kept = _kept.pop() if _kept else None
    if kept is None:
        return None
    from ckpt_tui.services.monitor import log_mark

    path, mark, monitor = kept
    is_same = path == os.path.realpath(directory) and mark == log_mark(os.path.join(path, LOG_NAME), mark[2])
    return monitor if is_same else None
