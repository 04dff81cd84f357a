"""Files that a process which is gone left half written: `.NAME.tmp-PID` of ours, `.tmp-NAME-PID-N` of the trainer.

Only those of whom it is certain: of a name that we or the trainer write, of a process that does not live, on the host
that the run was on, while nobody trains, and not of a moment ago. Everything else is left alone.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.names import QUARANTINE_NAME, read_name
from ckpt_tui.services.system import process_is_alive

_OURS = re.compile(r"\.(?P<name>.+)\.tmp-(?P<pid>\d{1,9})")
_TRAINERS = re.compile(r"\.tmp-(?P<name>.+)-(?P<pid>\d{1,9})-\d{1,9}")
_MIN_AGE_S = 600.0


@dataclass(frozen=True, slots=True)
class Temporary:
    """A temporary file, below the run directory. why_not: what speaks against removing it, "" when it is dead."""

    place: str
    at: float
    why_not: str


def find_temporaries(directory: str, state: RunState | None, *, is_owned: bool) -> tuple[Temporary, ...]:
    """Every temporary file of ours or of the trainer's in the run directory and in quarantine. Never raises.

    state: what the log says, for the host of the run. is_owned: a training holds the directory right now.
    """
    is_elsewhere = _is_of_another_host(directory, state)
    found = []
    for folder in ("", QUARANTINE_NAME):
        if os.path.islink(os.path.join(directory, folder)) and folder:
            continue  # what lies there may be anybody's
        try:
            names = sorted(os.listdir(os.path.join(directory, folder)))
        except OSError:
            continue
        for name in names:
            match = _OURS.fullmatch(name) or _TRAINERS.fullmatch(name)
            if match is None or not _is_written_by_us(match["name"]):
                continue
            try:
                status = os.lstat(os.path.join(directory, folder, name))
            except OSError:
                continue
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                continue
            why_not = ""
            if is_owned:
                why_not = "a training is running here"
            elif is_elsewhere:
                why_not = "it may be of a process on another host"
            elif process_is_alive(ProcessIdentity(int(match["pid"]))) is not False:
                why_not = f"process {match['pid']} lives"
            elif time.time() - status.st_mtime < _MIN_AGE_S:
                why_not = "it was written a moment ago"
            found.append(Temporary(os.path.join(folder, name), status.st_mtime, why_not))
    return tuple(found)


def _is_written_by_us(name: str) -> bool:
    is_checkpoint = any(
        (facts := read_name(name, is_directory=kind)) is not None and facts.is_own for kind in (False, True)
    )
    return is_checkpoint or name.endswith((".json", ".jsonl")) or name in ("latest", "best_model.safetensors")


def _is_of_another_host(directory: str, state: RunState | None) -> bool:
    """Whether the run was last on another host, or nothing says on which."""
    here = socket.gethostname()
    record = read_record(directory)
    hosts = {
        host for host in (state.host if state is not None else "", record.host if record is not None else "") if host
    }
    return bool(hosts - {here}) or not hosts
