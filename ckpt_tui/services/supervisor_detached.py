"""Start a supervisor so that it outlives the terminal, and come back once it says that it is at work."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.services import files
from ckpt_tui.services.output_tail import OutputTail
from ckpt_tui.services.supervisor_record import Supervisor, SupervisorState, read_supervisor

_PATIENCE_S = 60.0  # validating the checkpoints comes first, and may take longer: then it is told as it stands
_POLL_S = 0.05
_SETTLE_S = 0.5  # that a program gets to fail at once


def start_detached(directory: str, command: Sequence[str], *, cwd: str, log_name: str) -> Supervisor:
    """What it says of itself. Raises CkptError with its last lines when it ends with an error at once."""
    path = os.path.join(directory, log_name)
    tail = OutputTail(path, -1)
    try:
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, files.mode_as_log(directory))
    except OSError as error:
        raise from_os_error(error, path, "write to") from error
    try:
        process = subprocess.Popen(
            list(command), cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    finally:
        os.close(log)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        exit_code = process.poll()
        said = read_supervisor(directory)
        is_its_own = said is not None and said.pid == process.pid and not said.state.is_over
        if is_its_own and deadline - time.monotonic() > _SETTLE_S:
            deadline = time.monotonic() + _SETTLE_S
        if said is not None and said.pid == process.pid and (
            exit_code == 0 or (is_its_own and time.monotonic() > deadline)
        ):  # fmt: skip
            return said
        if exit_code is not None:
            lines = [line for line in tail.last_lines(20) if line]
            raise CkptError("The supervisor ended at once", " | ".join(lines[-6:]) or f"exit code {exit_code}",
                            f"All that it said is in {path}.")  # fmt: skip
        if time.monotonic() > deadline and not is_its_own:
            return Supervisor(
                process=ProcessIdentity(process.pid), state=SupervisorState.WAITING,
                told=f"still looking for a checkpoint to begin from; what it says is in {path}",
            )  # fmt: skip
        time.sleep(_POLL_S)
