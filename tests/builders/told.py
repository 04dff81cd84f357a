"""What a run tells: its log as events, and what `ckpt-tui ... --json` says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event

REPO = Path(__file__).parents[2]


def events(out: Path, name: str = "") -> list[Any]:
    decoded = [decode(line) for line in (out / "events.jsonl").read_bytes().splitlines()]
    return [event for event in decoded if isinstance(event, Event) and event.name.startswith(name)]


def ckpt_tui(*command: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_tui", *command, "--json"], cwd=REPO, capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout)["data"]
