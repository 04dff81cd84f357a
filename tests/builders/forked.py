"""Work in a fork of this process: a library that takes seconds to import is there already."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 300


def forked(work: Callable[[], object], output: Path) -> int:
    """Do `work` there, with what it prints in the file `output`, and wait for its end.

    Gives its exit code, as of Popen.returncode. What uses more than one thread of torch has none of them there.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _work(work, output)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _work(work: Callable[[], object], output: Path) -> None:
    """As a program of its own whose output is redirected, to the buffers."""
    signal.alarm(LIMIT_S)  # whatever hangs, ends
    code = 1
    try:
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  as the interpreter does at its end
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
