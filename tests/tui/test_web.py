"""In a browser through `textual serve`, spoken to as that server does: read-only, whatever the flags."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.settings import Settings
from ckpt_tui.tui import keys, terminal
from ckpt_tui.tui.app import CkptTuiApp
from tests.builders.run_states import FixedMonitor, crashed
from tests.tui.test_watch_command import write_log

ROOT = Path(__file__).parents[2]
# What textual-serve 1.1.3 sets.
SERVED = {
    "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver", "TEXTUAL_FPS": "60", "COLUMNS": "80", "ROWS": "24",
    "TEXTUAL_COLOR_SYSTEM": "truecolor", "TERM_PROGRAM": "textual",
}  # fmt: skip


class Visitor:
    """The server's end: packets of a letter, four bytes of length, and as many bytes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.raw = b""

    def read_until(self, *wanted: bytes, timeout_s: float = 120.0) -> bytes:
        assert self.process.stdout is not None
        ends = time.monotonic() + timeout_s
        while not all(one in self.raw for one in wanted):
            assert time.monotonic() < ends, f"never came: {wanted}; {self.raw[-2000:]!r}"
            time.sleep(0.02)
            self.raw += self.process.stdout.read() or b""
        return self.raw

    def press(self, text: bytes) -> None:
        self._send(b"D", text)

    def leave(self) -> int:
        self._send(b"M", b'{"type": "quit"}')
        return self.process.wait(timeout=120)

    def _send(self, letter: bytes, payload: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(letter + len(payload).to_bytes(4, "big") + payload)
        self.process.stdin.flush()


@contextmanager
def served(cwd: Path, *command: str, env: Mapping[str, str]) -> Iterator[Visitor]:
    process = subprocess.Popen(
        [sys.executable, "-m", "ckpt_tui", *command], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **SERVED, **env},
    )  # fmt: skip
    try:
        yield Visitor(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_page_shows_the_run_and_acts_on_nothing(tmp_path: Path) -> None:
    run, cwd = tmp_path / "run", tmp_path / "server"
    run.mkdir()
    cwd.mkdir()
    write_log(run, ended=True)
    before = sorted(os.listdir(run))
    with served(cwd, "watch", str(run), env={"HOME": str(tmp_path)}) as visitor:
        first = visitor.read_until(b"__GANGLION__\n", b"finished")
        assert b"resume" not in first
        visitor.press(b"P")
        visitor.read_until(b"No pictures from a browser")
        visitor.press(b"r")
        visitor.press(b"S")
        visitor.press(b"?")
        said = visitor.read_until(b"Checkpoint")
        assert b"Relaunch" not in said
        assert b"\x1b]52;" not in said
        assert visitor.leave() == 0
    assert sorted(os.listdir(run)) == before
    assert os.listdir(cwd) == []


def test_whatever_the_flags_and_settings(tmp_path: Path) -> None:
    settings = Settings(readonly=False, bell=True, alert_command="touch /tmp/never")
    monitor: Any = FixedMonitor(crashed())
    app = CkptTuiApp(str(tmp_path), settings=settings, monitor=monitor, env={**SERVED, "LANG": "C"})
    assert app.readonly
    assert (app.settings.bell, app.settings.alert_command) == (False, "")
    assert app.look.unicode
    assert app.look.palette == "dark"
    ours = CkptTuiApp(str(tmp_path), settings=settings, monitor=monitor, env={"TERM": "xterm-256color"})
    assert not ours.readonly
    assert ours.settings == settings


def test_no_terminal_is_needed_for_a_browser_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", open(os.devnull, "w"))  # noqa: SIM115 - for the test's life
    assert terminal.can_draw(SERVED)
    assert not terminal.can_draw({"TERM": "xterm"})


def test_every_act_is_known_as_one() -> None:
    assert {key.id for table in keys.TABLES.values() for key in table if key.is_act} >= {
        "act.resume", "act.restore", "act.undo", "act.stop",
    }  # fmt: skip
