"""However the watch ends or pauses, the shell gets its terminal back as it was; and no byte ends it."""

from __future__ import annotations

import os
import signal
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.watched_pty import WatchedPty
from tests.tui.test_terminal_bytes import environment
from tests.tui.test_watch_command import write_log

RESTORED = (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1003l", b"\x1b[?2004l", b"\x1b[?7h")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[WatchedPty]:
    run = tmp_path / "run"
    run.mkdir()
    write_log(run, ended=True)
    terminal = WatchedPty(["watch", str(run)], environment(tmp_path, TERM="xterm-256color"), tmp_path)
    terminal.read_until(b"finished", b"checkpoint yet")
    yield terminal
    if terminal.descriptor >= 0:
        terminal.end()


def is_raw(terminal: WatchedPty) -> bool:
    return not termios.tcgetattr(terminal.descriptor)[3] & (termios.ICANON | termios.ECHO)


def ended(terminal: WatchedPty) -> int:
    """Its exit code, when it ends by itself."""
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        terminal.read_for(0.02)
        pid, status = os.waitpid(terminal.pid, os.WNOHANG)
        if pid:
            os.close(terminal.descriptor)
            terminal.descriptor = -1
            return os.waitstatus_to_exitcode(status)
    raise AssertionError("it did not end")


def assert_shown(terminal: WatchedPty, words: bytes) -> None:
    """Drawn anew: what changes only is sent in pieces."""
    ends = time.monotonic() + 120
    while words not in terminal.received:
        assert time.monotonic() < ends, terminal.received[-2000:]
        terminal.write(b"\x0c")
        terminal.read_for(0.3)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGHUP])
def test_a_signal_leaves_the_terminal_in_order(watch: WatchedPty, number: signal.Signals) -> None:
    assert is_raw(watch)
    os.kill(watch.pid, number)
    watch.read_until(*RESTORED)
    assert not is_raw(watch)
    assert ended(watch) == 128 + number


def test_ctrl_c_says_how_to_leave_and_leaves_at_the_second(watch: WatchedPty) -> None:
    watch.write(b"\x03")
    watch.read_until(b"Ctrl+C")
    watch.write(b"\x03")
    assert ended(watch) == 130


def test_ctrl_z_gives_the_shell_back_and_fg_comes_back(watch: WatchedPty) -> None:
    watch.write(b"\x1a")
    watch.read_until(*RESTORED)
    assert os.WIFSTOPPED(os.waitpid(watch.pid, os.WUNTRACED)[1])
    assert not is_raw(watch)
    before = len(watch.received)
    os.kill(watch.pid, signal.SIGCONT)
    ends = time.monotonic() + 120
    while b"finished" not in watch.received[before:]:
        assert time.monotonic() < ends
        watch.read_for(0.05)
    assert is_raw(watch)


def test_stopped_by_another_and_let_go_on_one_thread_reads_and_it_can_be_left(watch: WatchedPty) -> None:
    """Textual had one more for each SIGCONT, and one of them kept the process when it was left."""
    before = num_threads(watch)
    for _ in range(5):
        os.kill(watch.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(watch.pid, os.WUNTRACED)[1])
        os.kill(watch.pid, signal.SIGCONT)
        watch.read_until(b"\x1b[?1049h", since=len(watch.received))
    watch.write(b"?")
    watch.read_until(b"zoom out")
    # Besides: what looks at the checkpoints, and what waits for the end of the terminal.
    assert num_threads(watch) - before < 5
    watch.write(b"?q")
    assert ended(watch) == 0


def num_threads(terminal: WatchedPty) -> int:
    return len(os.listdir(f"/proc/{terminal.pid}/task"))


def test_bytes_that_are_no_text_do_not_end_it(watch: WatchedPty) -> None:
    watch.write(b"\xff\xe9\xc3\x1b[M \xf0\xf1\x00\x1b\x1b[?")
    watch.read_for(0.4)
    watch.write(b"\x1b\x1b")
    watch.read_for(0.4)
    watch.write(b"A")
    assert_shown(watch, b"how often to save")


def test_a_key_right_after_an_escape_is_not_lost(watch: WatchedPty) -> None:
    watch.write(b"\x1bA")
    assert_shown(watch, b"how often to save")
