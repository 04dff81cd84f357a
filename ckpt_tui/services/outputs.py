"""Which file holds what the training prints: of the session that runs, or of the start that did not come so far."""

from __future__ import annotations

import os

from ckpt_tui.services.launch_record import LaunchRecord, read_record


def newest_output(directory: str, session: int) -> str | None:
    """The output of the newest session; None when nobody keeps one.

    session: the newest that the log tells of. A start from here that died before its log told of it is newer than that.
    """
    record = read_record(directory)
    candidates = []
    if record is not None and record.job:
        candidates += _of_job(directory, record)
    if record is not None and record.log and record.session >= session:
        candidates.append(os.path.join(directory, record.log))
    candidates.append(os.path.join(directory, f"session_{session}.log"))
    return next((path for path in candidates if os.path.isfile(path)), None)


def _of_job(directory: str, record: LaunchRecord) -> list[str]:
    """Where Slurm writes unless the job's script says otherwise."""
    name = f"slurm-{os.path.basename(record.job)}.out"
    return [os.path.join(place, name) for place in (record.cwd, directory) if place]
