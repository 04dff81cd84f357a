"""The command that starts the same training again, with the launcher that started this one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def launch_argv(environment: Mapping[str, str] = os.environ) -> list[str]:
    """torchrun's command line when it started this process, else this process's own."""
    if "TORCHELASTIC_RUN_ID" in environment:
        try:
            words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[:-1]
        except OSError:
            words = []
        if words and b"trainer" in words:
            return [os.fsdecode(word) for word in words]
    return [sys.executable, "-m", "trainer", *sys.argv[1:]]
