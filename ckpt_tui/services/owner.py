"""Who trains in a run directory right now, as far as this machine can tell.

Three witnesses: the trainer's lock (any trainer of ours), `launch.json` (a training that we started and that has not
taken its lock yet), and the log (other people's loops). A process counts only with its start time: pids come again.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.services.system import lock_owner, process_is_alive

if TYPE_CHECKING:
    from ckpt_tui.services.monitor import RunMonitor

LAUNCH_FILE_NAME = "launch.json"


@dataclass(frozen=True, slots=True)
class Owner:
    """A live training. told_by: trainer.lock, launch.json or events.jsonl. pid 0: it runs, but its pid is not known."""

    pid: int
    pid_started: float
    host: str
    told_by: str


def owner_of(directory: str, state: RunState | None = None) -> Owner | None:
    """The live training of a directory, None when there is none that we can see.

    state: what the log says, if the caller has folded it already.
    """
    owner = lock_owner(directory)
    if owner is not None:
        return Owner(owner.pid, owner.pid_started, owner.host, "trainer.lock")
    launched = read_launch(directory)
    if launched is not None and process_is_alive(launched.pid, launched.pid_started, launched.host):
        return launched
    says_running = state is not None and state.phase in (Phase.RUNNING, Phase.STALLED)
    if state is not None and says_running and process_is_alive(state.pid, state.pid_started, state.host):
        return Owner(state.pid, state.pid_started, state.host, LOG_NAME)
    return None


def read_launch(directory: str) -> Owner | None:
    """The training that was last launched from here; whether it still lives is another question."""
    try:
        with open(os.path.join(directory, LAUNCH_FILE_NAME), "rb") as file:
            fields = json.loads(file.read(1 << 20))
        return Owner(int(fields["pid"]), float(fields["pid_started"]), str(fields["host"]), LAUNCH_FILE_NAME)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def run_monitor(directory: str) -> RunMonitor | None:
    """What has read the whole log of a directory, None when it has none."""
    if not os.path.exists(os.path.join(directory, LOG_NAME)):
        return None
    from ckpt_tui.services.monitor import RunMonitor

    monitor = RunMonitor(directory)
    monitor.poll(budget_s=1.0)
    while not monitor.is_caught_up:
        monitor.poll(budget_s=1.0)
    return monitor


def run_state(directory: str) -> RunState | None:
    """What the log of a directory tells, None when it has none."""
    monitor = run_monitor(directory)
    return monitor.state() if monitor is not None else None
