"""Acts on a run that another program wrote: done where they can be, with the reason where they cannot."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ckpt_tui.run.state import Phase
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs.plan import PlanDialog
from ckpt_tui.tui.dialogs.resume import ResumeDialog
from ckpt_tui.tui.row_acts import labels, restore_act, resume_act
from tests.builders.foreign_logs import trainer_state
from tests.builders.run_directories import torch_zip, training_state
from tests.builders.run_states import running
from tests.builders.screen_app import seen, seen_text, until
from tests.tui.test_row_acts import ALL, catalog_of

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As the Hugging Face Trainer leaves it, silent for hours."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = tmp_path / "run"
    for step in (10, 20):
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        state = training_state(step)
        (folder / "pytorch_model.bin").write_bytes(torch_zip(state["model"]))
        (folder / "optimizer.pt").write_bytes(torch_zip(state["optimizer"]))
        (folder / "scheduler.pt").write_bytes(torch_zip({"last_epoch": step}))
        (folder / "rng_state.pth").write_bytes(torch_zip({"cpu": state["model"]}))
        (folder / "trainer_state.json").write_bytes(trainer_state(step))
    hours_ago = time.time() - 3 * 3600
    for path in run.rglob("*"):
        os.utime(path, (hours_ago, hours_ago))
    return run


def test_a_process_that_nobody_knows_cannot_be_asked_to_stop() -> None:
    catalog = catalog_of(*ALL)
    restore, resume = restore_act(catalog, None, is_chosen=False), resume_act(catalog, None, is_chosen=False)
    foreign = labels(running(source="Hugging Face"), restore, resume)
    assert foreign == {"act.resume": (), "act.restore": (), "act.stop": ()}
    silent = labels(running(source="Hugging Face", phase=Phase.SILENT), restore, resume)
    assert silent["act.resume"] == ("resume",)
    assert silent["act.stop"] == ()


async def test_back_to_an_earlier_directory_and_again_and_why_there_is_no_resume(run: Path) -> None:
    app = CkptTuiApp(str(run), interval_s=0.05, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "checkpoint-10" in seen_text(app) and app.catalog is not None)
        await pilot.press("end")
        await until(pilot, lambda: "b back to 10" in seen(app)[-1])
        await pilot.press("b")
        await until(pilot, lambda: isinstance(app.screen, PlanDialog) and "checkpoint-20" in seen_text(app))
        await pilot.press("y")
        await until(pilot, lambda: "Rolled back. u takes it back." in seen(app)[-1])
        assert not (run / "checkpoint-20").exists()
        assert (run / "set_aside" / "1" / "checkpoint-20" / "optimizer.pt").exists()
        await pilot.press("u")
        await until(pilot, lambda: isinstance(app.screen, PlanDialog))
        await pilot.press("y")
        await until(pilot, lambda: "Undone." in seen(app)[-1])
        assert (run / "checkpoint-20" / "optimizer.pt").exists()

        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, ResumeDialog) and "✖ It cannot be started" in seen_text(app))
        assert "▲ Not known:" in seen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: "It cannot be started as it is: see above" in seen_text(app))
        await pilot.press("escape")
        await pilot.press("S")
        await until(pilot, lambda: "no training is running" in seen_text(app))
