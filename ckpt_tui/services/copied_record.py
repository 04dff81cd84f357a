"""What a directory's records name, where the directory is a copy: that trains in the original, and is not its own.

A log, a `launch.json` and a `supervisor.json` say where they were written. A directory that was moved keeps its
training, which has its files open.
"""

from __future__ import annotations

import os


def is_of_another(directory: str, home: object, pid: int) -> bool:
    """Whether a process that a record in `directory` names is of another directory. home: where that record was
    written; older ones do not say, and count."""
    if not isinstance(home, str) or not os.path.isabs(home):
        return False
    try:
        if os.path.samefile(home, directory):
            return False
    except (OSError, ValueError):
        return False  # it is not there any more: moved
    from ckpt_tui.services.processes import who_writes_in

    return all(process.pid != pid for process in who_writes_in(directory))
