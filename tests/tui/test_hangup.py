"""A terminal that goes away takes the watch with it, whether the system sends a signal or not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.bench.reference_files import write_log


@pytest.mark.parametrize("ignores_the_signal", [False, True])
def test_the_watch_ends_with_its_terminal(tmp_path: Path, ignores_the_signal: bool) -> None:
    write_log(tmp_path / "events.jsonl", 100)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    code = "import sys; from ckpt_tui.cli import main; sys.exit(main())"
    if ignores_the_signal:  # as under nohup
        code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); {code}"
    watch = subprocess.Popen(
        [sys.executable, "-c", code, "watch", str(tmp_path)],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"},
    )  # fmt: skip
    os.close(slave)
    try:
        seen, ends = b"", time.monotonic() + 120
        while b"finished" not in seen:
            assert time.monotonic() < ends, seen[-2000:]
            assert watch.poll() is None, seen[-2000:]
            if select.select([master], [], [], 0.2)[0]:
                seen += os.read(master, 65536)
        os.close(master)
        code_at_end = watch.wait(timeout=120)  # within a second, where the machine has time
        assert code_at_end in (-signal.SIGHUP, 128 + signal.SIGHUP)
    finally:
        with contextlib.suppress(OSError):
            watch.kill()
        watch.wait()
