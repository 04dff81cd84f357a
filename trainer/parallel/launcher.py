"""The command that starts the same training again, with the launcher that started this one."""

from __future__ import annotations

import sys

from ckpt_tui.events.launcher import recorded_launcher


def launch_argv() -> list[str]:
    """The command line of torchrun or another launcher when it started this process, else this process's own."""
    words = recorded_launcher().get("argv") or []
    return list(words) if "trainer" in words else [sys.executable, "-m", "trainer", *sys.argv[1:]]
