"""`c` in a real tmux with its defaults, which take no clipboard sequence from a program: tmux has the text."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.e2e.terminal import Terminal, require_tmux
from tests.tui.test_watch_command import write_log

ROOT = Path(__file__).parents[2]


def test_what_is_copied_can_be_pasted_in_tmux(tmp_path: Path) -> None:
    require_tmux()
    run = tmp_path / "run"
    run.mkdir()
    write_log(run, ended=True)
    terminal = Terminal(tmp_path, environment={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"})
    try:
        terminal.run([sys.executable, "-m", "ckpt_tui", "watch", str(run)])
        terminal.wait_for("finished", "q quit")
        terminal.press("e")
        terminal.wait_for("run_end", "Esc back")
        terminal.press("c")
        terminal.wait_for("Copied the line")
        deadline = time.monotonic() + 120
        while "run_end" not in (pasted := terminal.buffers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "run_end" in pasted
        assert terminal.buffer() == (run / "events.jsonl").read_text().splitlines()[-1]
        terminal.press("Escape")
        terminal.wait_for("finished")
        terminal.press("q")
    finally:
        terminal.close()
