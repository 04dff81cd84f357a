"""`launch.json`: what was started in a run directory from here, for everybody who asks what runs there.

Written whole, before the program that it names begins to run (`services/detached_child.py`), so there is never a
training that nobody knows of. It outlives that training: only pid and start time together say whether it still lives.
"""

from __future__ import annotations

import json
import os

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular

LAUNCH_FILE_NAME = "launch.json"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LaunchRecord:
    """The start that was made last.

    launcher: python, torchrun, accelerate, sbatch ...; "" in records of older versions. log: the name of the file that
    its output goes to. changes: hyperparameters that a person changed, as typed. job: the number of a cluster's job
    that the command has submitted, "" for none. by: who started it (resume, demo, supervise). directory: for which it
    was written, which tells a copy.
    """

    process: ProcessIdentity
    command: tuple[str, ...] = ()
    cwd: str = ""
    log: str = ""
    session: int = 0
    ts: float = 0.0
    launcher: str = ""
    checkpoint: str = ""
    step: int | None = None
    changes: tuple[tuple[str, str], ...] = ()
    by: str = ""
    job: str = ""
    directory: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def host(self) -> str:
        return self.process.host


def read_record(directory: str) -> LaunchRecord | None:
    """What `launch.json` says; None when there is none, or it is not one."""
    try:
        with open_regular(os.path.join(directory, LAUNCH_FILE_NAME)) as file:
            fields = json.loads(file.read(_MAX_BYTES))
        step, changes, command = fields.get("step"), fields.get("changes"), fields.get("command")
        return LaunchRecord(
            process=ProcessIdentity.from_fields(fields),
            command=tuple(map(str, command)) if isinstance(command, list) else (),
            cwd=str(fields.get("cwd") or ""), log=os.path.basename(str(fields.get("log") or "")),
            session=int(fields.get("session") or 0), ts=float(fields.get("ts") or 0.0),
            launcher=str(fields.get("launcher") or ""), checkpoint=str(fields.get("checkpoint") or ""),
            step=step if isinstance(step, int) else None,
            changes=tuple((str(k), str(v)) for k, v in changes.items()) if isinstance(changes, dict) else (),
            by=str(fields.get("by") or ""), job=str(fields.get("job") or ""),
            directory=str(fields.get("directory") or ""),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
