"""The watch on other programs' logs: it answers at once, and nothing in them can end it or speak to the terminal."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ckpt_tui.tui.app import CkptTuiApp
from tests.builders.foreign_logs import nanogpt_text, trainer_state
from tests.builders.screen_app import assert_nothing_hostile, is_at_work, seen_text, until

EVIL = "\x1b]0;owned\x07[/bold][red]\u202e\u200b"
HOSTILE = {
    "metrics.csv": b"epoch,step,train_loss,[/bold][red]acc,[@click]x\n0,1,2.0,1.5,\n0,2,nan,inf,2\n\xff\x00,,\n",
    "trainer_log.jsonl": json.dumps({"step": 1, "loss": 2.0, EVIL: 3.5, "total_steps": 9}).encode() + b"\n",
    "train.log": f"step 1: loss 2.0\nsaved checkpoint to /tmp/{EVIL}/ckpt.pt\nTraceback (most recent call last):\n x\n"
    f"ValueError: {EVIL}\n".encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_logs_are_shown_and_harm_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name])
    os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    (tmp_path / "hparams.yaml").write_text(f'lr: "{EVIL}"\n')
    app = CkptTuiApp(str(tmp_path))
    async with app.run_test(size=(80, 24)) as pilot:
        await shown(pilot, "step")
        assert_nothing_hostile(app)
        await pilot.press("e")
        await settled_but_following(pilot)
        assert_nothing_hostile(app)


async def settled_but_following(pilot: Pilot[Any]) -> None:
    await until(pilot, lambda: not is_at_work(pilot.app))


async def shown(pilot: Pilot[Any], words: str) -> str:
    await until(pilot, lambda: words in seen_text(pilot.app) and "waiting for" not in seen_text(pilot.app))
    return seen_text(pilot.app)


async def test_a_run_that_was_silent_for_hours_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_bytes(nanogpt_text())
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_bytes(trainer_state(10))
    os.utime(tmp_path / "train.log", (time.time() - 3 * 3600 - 60,) * 2)
    os.utime(tmp_path / "checkpoint-10" / "trainer_state.json", (time.time() - 3 * 3600 - 61,) * 2)
    app = CkptTuiApp(str(tmp_path))
    async with app.run_test(size=(80, 24)) as pilot:
        text = await shown(pilot, "silent")
        assert "nothing written for 3h 01m" in text
        assert "at risk 10 steps" in text
        assert "checkpoint-10" in text
        assert "crash" not in text.lower()
