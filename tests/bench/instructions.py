"""The start in instructions, counted by valgrind where it is installed: the same on a busy machine as on a quiet one.

Seconds of a start of 0.3 s differ by a fifth from minute to minute; instructions by less than 0.2 %. So they tell what
a change did, where the clock tells what a person waits. What the kernel does for a process is not in them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import tempfile
import termios
from pathlib import Path

from tests.bench.measure import PYTHON

# Runs a program until it has sent these characters to the terminal, and ends it there.
_UNTIL_PAINTED = """
import os, runpy, sys
from textual.drivers.linux_driver import LinuxDriver
_, until, program, *arguments = sys.argv
write = LinuxDriver.write
def write_or_end(self, data):
    write(self, data)
    if until in data:
        os._exit(0)
LinuxDriver.write = write_or_end
sys.argv = [program, *arguments]
runpy.run_path(program, run_name="__main__")
"""


def is_possible() -> bool:
    return shutil.which("valgrind") is not None


def to_paint(program: list[str], until: str) -> int:
    """Instructions of a Python program, its file and its arguments, from its start until it sends `until`."""
    with tempfile.TemporaryDirectory() as scratch:
        script, log = Path(scratch, "until_painted.py"), Path(scratch, "valgrind.log")
        script.write_text(_UNTIL_PAINTED)
        command = [PYTHON, str(script), until, *program]
        _run(command)  # fills what Python keeps of compiled modules
        options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={log}"]
        _run(["valgrind", *options, *command])
        found = re.search(r"I\s+refs:\s+([\d,]+)", log.read_text())
    assert found is not None, f"valgrind counted nothing for {program}"
    return int(found[1].replace(",", ""))


def _run(command: list[str]) -> None:
    """To its end, on a terminal of 80x24."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", TEXTUAL_ANIMATIONS="none", PYTHONHASHSEED="0")
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with contextlib.suppress(OSError):  # so ends what comes from a terminal whose last process has ended
        while os.read(terminal, 65536):
            pass
    os.waitpid(pid, 0)
    os.close(terminal)
