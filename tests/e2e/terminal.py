"""A real terminal for tests: tmux on a socket of its own, polled with a deadline, never slept on."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest


def require_tmux() -> None:
    """Without tmux these tests cannot be; in CI that is a failure, on a person's machine a skip that says so."""
    if shutil.which("tmux") is None:
        if os.environ.get("CI"):
            pytest.fail("tmux is not installed: .ci/run installs it")
        pytest.skip("needs tmux (apt-get install tmux)")


class Terminal:
    """One tmux session of `columns` x `rows` that runs a command in a shell."""

    def __init__(self, cwd: Path, columns: int = 80, rows: int = 24, environment: Mapping[str, str] | None = None):
        self.socket = f"ckpt-tui-test-{uuid.uuid4().hex[:12]}"
        extra = [part for name, value in (environment or {}).items() for part in ("-e", f"{name}={value}")]
        size = ["-x", str(columns), "-y", str(rows)]
        self._tmux("new-session", "-d", *size, *extra, "-c", str(cwd), "env", "PS1=$ ", "sh")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.socket, "-f", "/dev/null", *arguments],
            capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"},
        )  # fmt: skip
        assert done.returncode == 0, f"tmux {arguments}: {done.stderr}"
        return done.stdout

    def run(self, command: Sequence[str]) -> None:
        """Type a command line into the shell."""
        self.type(shlex.join(command))
        self.press("Enter")

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    def wait_for(self, *wanted: str, timeout_s: float = 180.0) -> str:
        """The first screen that shows all of `wanted`; fails with the last screen when the time is over."""
        deadline = time.monotonic() + timeout_s
        screen = self.screen()
        while not all(text in screen for text in wanted):
            missing = [text for text in wanted if text not in screen]
            assert time.monotonic() < deadline, f"never saw {missing} in {timeout_s} s; the screen:\n{screen}"
            time.sleep(0.1)
            screen = self.screen()
        return screen

    def is_cursor_visible(self) -> bool:
        return self._tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"

    def wait_gone(self, unwanted: str, timeout_s: float = 180.0) -> str:
        """The first screen that no longer shows `unwanted`."""
        deadline = time.monotonic() + timeout_s
        screen = self.screen()
        while unwanted in screen:
            assert time.monotonic() < deadline, f"still {unwanted!r} after {timeout_s} s; the screen:\n{screen}"
            time.sleep(0.1)
            screen = self.screen()
        return screen

    def buffers(self) -> str:
        """What tmux has to paste, a line each."""
        return self._tmux("list-buffers")

    def buffer(self) -> str:
        """What `prefix ]` pastes."""
        return self._tmux("show-buffer")

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True, check=False, timeout=120)
